"""How long until a command is there: start-up of ten commands, here and in an older checkout, each in a fresh process.

    python benchmarks/startup.py [--before CHECKOUT] [--rounds 7]
    python benchmarks/startup.py --checkpoint best.ckpt --exported FOLDER

The second form takes the way to a tagger's first entities apart, with PyTorch and with what `mner export` wrote:
processor seconds of each part, the median of the rounds, in which the two take turns.

Rounds are interleaved; what is printed is the least and the median wall time of a process, and the ratio of the least
to that of `import torch, transformers`. `--before` names a checkout of an older version whose package is to be timed
beside this one, with the same interpreter.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parents[1]
MAIN = "import sys; sys.argv = ['mner', *{arguments!r}]; import runpy; runpy.run_module('mner', run_name='__main__')"
READ = "from mner.data import read_conll; read_conll('train.txt')"
COMMANDS = {
    "python -c pass": "pass",
    "import torch, transformers": "import torch, transformers",
    "import mner": "import mner",
    "import mner.labels": "import mner.labels",
    "read_conll of a small file": READ,
    "mner --help": ["--help"],
    "mner tag --help": ["tag", "--help"],
    "mner fit --help": ["fit", "--help"],
    "mner compare a b": ["compare", "a.txt", "b.txt", "--resamples", "100"],
    "mner analyze a": ["analyze", "a.txt", "--out", "report"],
    "mner data stats": ["data", "stats", "."],
    "mner data verify": ["data", "verify", "."],
}

PARTS = """
import sys, time
done = [("interpreter", time.process_time())]
def part(name):
    done.append((name, time.process_time()))
{steps}
import json
json.dump([done, "torch" in sys.modules], sys.stdout)
"""
EXPORTED = """
import onnxruntime, safetensors
part("import of ONNX Runtime and numpy")
import transformers
transformers.PreTrainedTokenizerFast
part("import of transformers, its tokenisers alone")
from mner.tagger.tagger import Tagger
from mner.tagger.engines import Exported
part("import of mner")
model = Exported({path!r})
part("model read")
tagger = Tagger(model)
part("tokeniser read and tried")
tagger("Anna visits Old Town")
part("first post")
"""
CHECKPOINT = """
import torch
part("import of torch")
import transformers
transformers.AutoTokenizer, transformers.AutoModel
part("import of transformers")
from mner.tagger.tagger import Tagger
from mner.fusion.base import FusionModule
part("import of mner and Lightning")
model = FusionModule.load_from_checkpoint({path!r})
part("model read")
tagger = Tagger(model, device="cpu")
part("tokeniser read and tried")
tagger("Anna visits Old Town")
part("first post")
"""


def cold_start(checkpoint: str, exported: str, rounds: int) -> None:
    """Print what each part of a start takes."""
    ways = {"checkpoint, torch": (CHECKPOINT, checkpoint), "export, ONNX Runtime": (EXPORTED, exported)}
    taken: dict[str, dict[str, list[float]]] = {way: {} for way in ways}
    for number in range(rounds + 1):
        for way, (steps, path) in ways.items():
            code = PARTS.format(steps=steps.format(path=path))
            environment = {**os.environ, "PYTHONPATH": str(HERE), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
            out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True).stdout
            marks, has_torch = json.loads(out)
            if has_torch != (way == "checkpoint, torch"):
                raise RuntimeError(f"{way}: torch was {'' if has_torch else 'not '}imported")
            befores = [0.0, *(time_ for _, time_ in marks)]
            if number:  # the first round fills the caches
                for (name, time_), before in zip(marks, befores, strict=False):
                    taken[way].setdefault(name, []).append(time_ - before)
                taken[way].setdefault("**all**", []).append(marks[-1][1])
    for way, parts in taken.items():
        print(f"| {way} | processor seconds, median | least | most |\n|---|---|---|---|")
        for name, some in parts.items():
            print(f"| {name} | {statistics.median(some):.2f} | {min(some):.2f} | {max(some):.2f} |")
        print()


def seconds(code: str | list[str], package: Path, folder: str) -> float:
    """Wall time of one process."""
    source = code if isinstance(code, str) else MAIN.format(arguments=code)
    environment = {**os.environ, "PYTHONPATH": str(package), "HF_HUB_OFFLINE": "1"}
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", source], cwd=folder, env=environment, capture_output=True, check=False)
    taken = time.perf_counter() - begun
    if done.returncode:
        raise RuntimeError(f"{code} failed in {package}: {done.stderr.decode()[-500:]}")
    return taken


def main() -> None:
    """Time them and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--checkpoint")
    parser.add_argument("--exported")
    given = parser.parse_args()
    if given.checkpoint and given.exported:
        return cold_start(given.checkpoint, given.exported, given.rounds)
    packages = {"now": HERE, **({"before": given.before.absolute()} if given.before else {})}
    taken: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "valid", "test"):
            Path(folder, f"{split}.txt").write_text(f"IMGID:{split}\nAnna\tB-PER\nsings\tO\n", encoding="utf-8")
        for system in "ab":
            Path(folder, f"{system}.txt").write_text("IMGID:1\nAnna\tB-PER\tB-PER\nsings\tO\tO\n", encoding="utf-8")
        for number in range(given.rounds + 1):
            for what, code in COMMANDS.items():
                for name, package in packages.items():
                    value = seconds(code, package, folder)
                    if number:  # the first round fills the caches
                        taken.setdefault((what, name), []).append(value)
    reference = min(taken["import torch, transformers", "now"])
    print("| what | " + " | ".join(f"{name}: least, median (s), of torch + transformers" for name in packages) + " |")
    print("|---|" + "---|" * len(packages))
    for what in COMMANDS:
        cells = []
        for name in packages:
            some = taken[what, name]
            cells.append(f"{min(some):.2f}, {statistics.median(some):.2f}, {min(some) / reference:.2f}")
        print(f"| {what} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
