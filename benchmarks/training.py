"""One training epoch of mner against transformers' token-classification example and flair's sequence tagger.

    python benchmarks/training.py [--posts train.txt] [--encoder FOLDER] [--flair PYTHON] [--steps 20] [--bf16]

Same posts, same encoder, batches of 32, one thread. Each runs its own loop in a process of its own; they take turns
after each step. The steps of mner are spread over the lengths of its batches, those of the others are random batches;
the epoch is their mean times its steps. `--flair` names the interpreter of an environment that has flair (which needs
an older transformers than mner does). Without `--posts` and `--encoder`: invented posts, and a random BERT of 6 x 384.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from interleave import machine
from posts import encoder_folder, load, write_plain
from turns import Contestant, play, ratio


def main() -> None:
    """Read the arguments, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=Path, help="training posts, CoNLL or JSON lines")
    parser.add_argument("--encoder", help="folder of a transformers model")
    parser.add_argument("--flair", help="python of an environment with flair")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128, help="what transformers' example pads to")
    parser.add_argument("--bf16", action="store_true", help="mner under bf16 autocast, too")
    parser.add_argument("--clock", choices=["cpu", "wall"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    posts = load(options.posts)
    with tempfile.TemporaryDirectory() as folder:
        file, encoder = Path(folder) / "posts.jsonl", encoder_folder(options.encoder, Path(folder))
        write_plain(file, posts)
        common = [str(file), encoder, "--batch", str(options.batch)]
        fixed = f"transformers' example, padded to {options.length}"
        steps = ["--steps", str(options.steps)]
        made = {
            fixed: ("training_transformers.py", [*common, "--length", str(options.length)], None),
            "transformers' example, padded to the longest": ("training_transformers.py", [*common, "--dynamic"], None),
            "mner": ("training_mner.py", [*common, *steps], None),
        }
        if options.bf16:
            made["mner, bf16"] = ("training_mner.py", [*common, *steps, "--precision", "bf16-mixed"], None)
        if options.flair:
            made["flair"] = ("training_flair.py", common, options.flair)
        contestants = {
            name: Contestant(script, *arguments, threads=options.threads, **({"python": python} if python else {}))
            for name, (script, arguments, python) in made.items()
        }
        reports = play(contestants, options.steps)
    batches = math.ceil(len(posts) / options.batch)
    print(f"# A training epoch: {len(posts)} posts, {batches} steps\n")
    print(machine("torch", "transformers", "pytorch-lightning"))
    print(f"{options.steps} steps of each, in turns; {options.threads} thread; {options.clock} time.\n")
    print("| | median step, ms | mean step, ms | epoch, s | real pieces | times as fast | quartiles |")
    print("|---|---|---|---|---|---|---|")
    base = [report[options.clock] for report in reports[fixed]]
    for name, some in reports.items():
        taken = [report[options.clock] for report in some]
        middle, low, high = ratio(base, taken)
        padded = sum(report.get("padded", 0) for report in some)
        real = f"{sum(report['real'] for report in some) / padded:.1%}" if padded else ""
        mean = statistics.mean(taken)
        print(
            f"| {name} | {statistics.median(taken) * 1e3:.0f} | {mean * 1e3:.0f} | {mean * batches:.1f} | {real} | "
            f"{middle:.2f} | {low:.2f}-{high:.2f} |"
        )


if __name__ == "__main__":
    main()
