"""The commands that are disturbed, over small data, and what each leaves behind."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from disturb import fork, wait
from PIL import Image

from mner.cli import main
from mner.data import download
from mner.data.formats.feature_store import FeatureStore
from mner.data.sample.texts import write_sample

PLAIN = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
FIT = ["--model=TextOnly", "--model.text_encoder=tiny", "--data=Twitter2017DataModule", "--trainer.logger=false"]


@dataclass
class Task:
    """A command, and what it leaves behind, as far as two undisturbed runs leave the same."""

    run: Callable[[Path], Any]
    content: Callable[[Path], Any]


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
    write_sample(root / "sample", 24, 12, 24, 0)
    posts, images = root / "posts.jsonl", root / "images"
    posts.write_text("".join(json.dumps({"id": f"p{n}", "text": f"Anna visits town {n}"}) + "\n" for n in range(400)))
    images.mkdir()
    for number in range(60):
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
    (root / "first.jsonl").write_text("".join(posts.read_text().splitlines(keepends=True)[:20]))
    device = "--device=cpu"
    tag = ["tag", str(posts), "--checkpoint", checkpoint, device, "--batch_size=4"]
    caption = ["caption", f"--images={images}", f"--model={model}", device, "--batch_size=4", "--num_workers=0"]
    features = ["features", f"--images={images}", "--encoder=test_resnet", "--weights=random", "--image_size=64"]
    features += [device, "--batch_size=4", "--num_workers=0", "--dtype=float32"]
    runs = ["benchmark", str(root / "text.yaml"), "--seeds=[0, 1]", "--resamples=20"]
    fetch = ["data", "download", "twitter2015", f"--base_url={served}"]

    predict = ["predict", *FIT, *PLAIN, f"--data.root={root / 'sample'}", f"--ckpt_path={checkpoint}"]
    systems = [str(root / name) for name in ("a.jsonl", "b.jsonl")]
    for system in systems:
        if wait(fork(partial(main, [*predict, f"--output={system}"]))):
            raise RuntimeError("the predictions for the other commands could not be made")

    def of_runs(out: Path) -> Any:
        found = sorted((out / "runs").glob("*/*/*/*/predictions.jsonl"))
        return [[post.get("id") for post in lines(path)] for path in found], (out / "results.md").is_file()

    def downloaded(out: Path) -> Any:
        return [(out / "twitter2015" / name).read_bytes() for name in names]

    resumable = {
        "tag": Task(lambda out: main([*tag, "--output", str(out)]), lines),
        "caption": Task(lambda out: main([*caption, f"--out={out}"]), lines),
        "features": Task(lambda out: main([*features, f"--out={out}"]), stored),
        "download": Task(lambda out: main([*fetch, f"--root={out}"]), downloaded),
        "benchmark": Task(lambda out: main([*runs, f"--out={out}"]), of_runs),
        "fit": Task(partial(fit, root / "sample"), epochs),
    }
    sample, first, train = str(root / "sample"), str(root / "first.jsonl"), f"--train={root / 'sample' / 'train.txt'}"
    others = {
        "predict": Task(lambda out: main([*predict, f"--output={out}"]), lines),
        "show": Task(lambda out: main(["show", first, f"--checkpoint={checkpoint}", f"--output={out}", device]), whole),
        "compare": Task(lambda out: main(["compare", *systems, "--resamples=50", f"--out={out}"]), tree),
        "analyze": Task(lambda out: main(["analyze", *systems, train, f"--out={out}"]), tree),
        "vocabulary": Task(lambda out: main(["vocabulary", sample, f"--out={out}"]), tree),
        "data export": Task(lambda out: main(["data", "export", sample, str(out)]), tree),
        "export": Task(lambda out: main(["export", checkpoint, str(out)]), tree),
    }
    return {**resumable, **others}


def whole(path: Path) -> str:
    """A page that is there to its end."""
    return path.read_text(encoding="utf-8").rstrip()[-7:]


def tree(out: Path) -> Any:
    """The files of a folder that have content; what is in them may name the time."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.stat().st_size]
    return [str(path.relative_to(out)) for path in files if not path.name.startswith(".")]


def serve(folder: Path) -> tuple[str, list[str], int]:
    """Files in place of the public ones, with their checksums, from a server in a process of its own."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    (folder / "twitter2015").mkdir(parents=True)
    names = list(download.SHA256["twitter2015"])
    for number, name in enumerate(names):
        data = random.Random(number).randbytes(6_000_000)
        (folder / "twitter2015" / name).write_bytes(data)
        download.SHA256["twitter2015"][name] = hashlib.sha256(data).hexdigest()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    server.daemon_threads = True
    child = fork(server.serve_forever)  # no thread here, which a fork would stop in the middle of something
    return f"http://127.0.0.1:{server.server_address[1]}", names, child
