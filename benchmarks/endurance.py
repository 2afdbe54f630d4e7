"""Kills, full disks, two writers and read-only folders: is anything lost, doubled, or stuck?

Each command is run once undisturbed. Then, again and again with a fresh output, it is killed at random moments (SIGKILL
or SIGTERM), started with a limit on the size of files that stands for a full disk, or started twice at once; each time
it is then run to its end. What lies there is compared with the undisturbed run.

    python benchmarks/endurance.py --kills 200 --seed 0

Commands run in forks of this process, which has imported everything, so that a kill hits the work and not the start.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mner.cli import main
from mner.data import download
from mner.data.formats.feature_store import FeatureStore
from mner.data.sample.texts import write_sample

PLAIN = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
FIT = ["--model=TextOnly", "--model.text_encoder=tiny", "--data=Twitter2017DataModule", "--trainer.logger=false"]


@dataclass
class Task:
    """A command, what it leaves behind, and how long it takes undisturbed."""

    run: Callable[[Path], Any]
    content: Callable[[Path], Any]
    reference: Any = None
    seconds: float = 0.0


def lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file, without the last digits of scores, which depend on the batch."""
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for record in found:
        for entity in record.get("entities", []):
            entity["score"] = round(entity["score"], 3)
    return found


def stored(path: Path) -> Any:
    """Images of a store with their features, rounded likewise."""
    store = FeatureStore(path)
    return [(name, np.round(store[name].astype(float), 1).tolist()) for name in store], store.broken


def fork(work: Callable[[], Any]) -> int:
    """Run something in a child that says nothing; its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        result = work()
        code = result if isinstance(result, int) else 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """Its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def same(task: Task, out: Path) -> bool:
    """Whether the output is that of the undisturbed run."""
    with contextlib.suppress(Exception):  # what cannot be read is not the same
        return bool(task.content(out) == task.reference)
    return False


def make_captioner(folder: Path) -> str:
    """A tiny image-to-text model with random weights."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"a man dog cat in on the red blue".split()]
    ids = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tiny, **ids, "vocab_size": len(words), "encoder_hidden_size": 16}
    config = BlipConfig(text_config=text, vision_config={**tiny, "image_size": 32, "patch_size": 16})
    BlipForConditionalGeneration(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    BlipProcessor(BlipImageProcessor(size=size), tokenizer).save_pretrained(folder)
    return str(folder)


def fit(root: Path, out: Path) -> Any:
    """Train, from the last checkpoint where there is one."""
    last = out / "checkpoints" / "last.ckpt"
    options = [f"--data.root={root}", f"--checkpoint.dirpath={out / 'checkpoints'}", "--checkpoint.save_last=true"]
    options += ["--checkpoint.enable_version_counter=false", f"--trainer.default_root_dir={out}"]
    resumed = [f"--ckpt_path={last}"] if last.is_file() else []
    return main(["fit", *FIT, *PLAIN, "--trainer.max_epochs=3", "--seed_everything=0", *options, *resumed])


def epochs(out: Path) -> Any:
    """What of a training must be the same: it came to its end, and its last checkpoint can be read."""
    content = torch.load(out / "checkpoints" / "last.ckpt", weights_only=False)
    return content["epoch"], content["global_step"]


def tasks(root: Path, served: str, names: list[str]) -> dict[str, Task]:
    """The commands, over a small sample."""
    write_sample(root / "sample", 60, 20, 300, 0)
    posts, images = root / "posts.jsonl", root / "images"
    posts.write_text("".join(json.dumps({"id": f"p{n}", "text": f"Anna visits town {n}"}) + "\n" for n in range(1500)))
    images.mkdir()
    for number in range(120):
        pixels = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 80)).save(images / f"{number}.{'png' if number % 2 else 'jpg'}")
    (images / "broken.jpg").write_bytes(b"no image")
    model = make_captioner(root / "blip")
    child = fork(lambda: fit(root / "sample", root / "model"))
    if wait(child):
        raise RuntimeError("the model for the other commands could not be trained")
    checkpoint = str(root / "model" / "checkpoints" / "last.ckpt")
    (root / "text.yaml").write_text(
        f"model: {{class_path: TextOnly, init_args: {{text_encoder: tiny}}}}\n"
        f"data: {{class_path: Twitter2017DataModule, init_args: {{root: {root / 'sample'}}}}}\n"
        "trainer: {max_epochs: 2, accelerator: cpu}\n"
    )
    device = "--device=cpu"
    tag = ["tag", str(posts), "--checkpoint", checkpoint, device, "--batch_size=4"]
    caption = ["caption", f"--images={images}", f"--model={model}", device, "--batch_size=4", "--num_workers=0"]
    features = ["features", f"--images={images}", "--encoder=test_resnet", "--weights=random", "--image_size=64"]
    features += [device, "--batch_size=4", "--num_workers=0", "--dtype=float32"]
    runs = ["benchmark", str(root / "text.yaml"), "--seeds=[0, 1]", "--resamples=20"]
    fetch = ["data", "download", "twitter2015", f"--base_url={served}"]

    def of_runs(out: Path) -> Any:
        found = sorted((out / "runs").glob("*/predictions.jsonl"))
        return [[post.get("id") for post in lines(path)] for path in found], (out / "results.md").is_file()

    def downloaded(out: Path) -> Any:
        return [(out / "twitter2015" / name).read_bytes() for name in names]

    return {
        "tag": Task(lambda out: main([*tag, "--output", str(out)]), lines),
        "caption": Task(lambda out: main([*caption, f"--out={out}"]), lines),
        "features": Task(lambda out: main([*features, f"--out={out}"]), stored),
        "download": Task(lambda out: main([*fetch, f"--root={out}"]), downloaded),
        "benchmark": Task(lambda out: main([*runs, f"--out={out}"]), of_runs),
        "fit": Task(partial(fit, root / "sample"), epochs),
    }


def killed(task: Task, out: Path, draw: random.Random, counts: Counter[str]) -> bool:
    """Kill it once or more, then let it come to its end."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        child = fork(lambda: task.run(out))
        time.sleep(draw.uniform(0, task.seconds))
        how = draw.choice((signal.SIGKILL, signal.SIGTERM))
        os.kill(child, how)
        code = wait(child)
        counts["kills"] += 1
        counts[f"kills by {how.name}"] += 1
        counts["kills before the end"] += code != 0
    return wait(fork(lambda: task.run(out))) == 0 and same(task, out)


def full(task: Task, out: Path, draw: random.Random, counts: Counter[str]) -> bool:
    """No file may grow beyond some size; then the disk is cleared."""
    size = draw.choice((0, 100, 1000, 10_000, 30_000, 100_000))

    def limited() -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        return task.run(out)

    counts["full disks that ended a run"] += wait(fork(limited)) != 0
    counts["full disks"] += 1
    return wait(fork(lambda: task.run(out))) == 0 and same(task, out)


def two(task: Task, out: Path, draw: random.Random, counts: Counter[str]) -> bool:
    """Two at once: one does it, the other waits or is refused."""
    children = [fork(lambda: task.run(out)) for _ in range(2)]
    codes = [wait(child) for child in children]
    counts["two at once"] += 1
    counts["two at once, one refused"] += 2 in codes
    return 0 in codes and set(codes) <= {0, 2} and same(task, out)


def read_only(task: Task, out: Path, draw: random.Random, counts: Counter[str]) -> bool:
    """A folder that may not be written to: an error, and nothing of it stays."""
    out.parent.chmod(0o555)

    def unprivileged() -> Any:
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        return task.run(out)

    code = wait(fork(unprivileged))
    out.parent.chmod(0o755)
    counts["read-only folders"] += 1
    return code != 0 and not list(out.parent.iterdir())


def serve(folder: Path) -> tuple[str, list[str]]:
    """Files in place of the public ones, with their checksums, from a server in this process."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    (folder / "twitter2015").mkdir(parents=True)
    names = list(download.SHA256["twitter2015"])
    for number, name in enumerate(names):
        data = random.Random(number).randbytes(20_000_000)
        (folder / "twitter2015" / name).write_bytes(data)
        download.SHA256["twitter2015"][name] = hashlib.sha256(data).hexdigest()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}", names


def run(argv: list[str] | None = None) -> int:
    """Print a table; exit code 1 if anything was lost, doubled or stuck."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="over all commands")
    parser.add_argument("--others", type=int, default=3, help="full disks and pairs, of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="commands; all if not given")
    given = parser.parse_args(argv)
    draw, failed = random.Random(given.seed), 0
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        served, names = serve(root / "served")
        chosen = {name: task for name, task in tasks(root, served, names).items() if name in (given.only or [name])}
        for place, (name, task) in enumerate(chosen.items()):
            began, out = time.monotonic(), root / "whole" / name
            if wait(fork(partial(task.run, out))):
                raise RuntimeError(f"{name} failed undisturbed")
            task.seconds, task.reference = time.monotonic() - began, task.content(out)
            counts: Counter[str] = Counter()
            share = given.kills * (place + 1) // len(chosen) - given.kills * place // len(chosen)
            trials = [(full, given.others), (two, given.others), (read_only, 1), (killed, share)]
            for trial, count in trials:
                while (counts["kills"] if trial is killed else counts[trial.__name__]) < count:
                    counts[trial.__name__] += 1
                    place_out = Path(tempfile.mkdtemp(dir=root)) / "out"
                    place_out.parent.chmod(0o755)
                    good = trial(task, place_out, draw, counts)
                    counts["wrong"] += not good
                    if not good:
                        print(f"{name}: {trial.__name__} left something else", flush=True)
                    shutil.rmtree(place_out.parent)
            failed += counts["wrong"]
            told = ", ".join(f"{key} {value}" for key, value in counts.items() if key not in ("full", "two", "killed"))
            print(f"{name} ({task.seconds:.1f} s undisturbed): {told}, wrong {counts['wrong']}", flush=True)
    print(f"seed {given.seed}: {failed} trials ended otherwise than the undisturbed run")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run())
