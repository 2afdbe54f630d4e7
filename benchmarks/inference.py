"""Posts per second: mner against transformers' pipeline, flair's tagger, and spaCy's pipeline without a transformer.

    python benchmarks/inference.py [--posts test.txt] [--encoder FOLDER] [--others PYTHON] [--count 256] [--turns 7]

The same posts as raw text, batches of 32, one thread; the same encoder, but for spaCy. Each is a process of its own;
they take turns, and a turn is all posts once. Heads are untrained, with a bias that makes most words no entity.
`--others` names the interpreter of an environment that has flair and spaCy. mner's evaluation loop, beside, gets words
that were tokenised before. Without `--posts` and `--encoder`: invented posts, and a random BERT of 6 x 384.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from interleave import machine
from posts import encoder_folder, load, write_plain
from turns import Contestant, play, ratio

BASE = "transformers' pipeline"


def main() -> None:
    """Read the arguments, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=Path, help="posts, CoNLL or JSON lines")
    parser.add_argument("--encoder", help="folder of a transformers model")
    parser.add_argument("--others", help="python of an environment with flair and spaCy")
    parser.add_argument("--count", type=int, default=256, help="posts of a turn")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--bf16", action="store_true", help="mner under bf16 autocast, too")
    parser.add_argument("--clock", choices=["cpu", "wall"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    posts = load(options.posts, options.count)
    with tempfile.TemporaryDirectory() as folder:
        file, encoder = Path(folder) / "posts.jsonl", encoder_folder(options.encoder, Path(folder))
        write_plain(file, posts)
        common = [str(file), encoder, "--batch", str(options.batch)]
        contestants = {
            BASE: Contestant("inference_transformers.py", *common, threads=options.threads),
            "mner, Tagger": Contestant("inference_mner.py", *common, threads=options.threads),
            "mner, evaluation loop": Contestant("inference_mner.py", *common, "--loop", threads=options.threads),
        }
        if options.bf16:
            for name, more in (("Tagger", []), ("evaluation loop", ["--loop"])):
                contestants[f"mner, {name}, bf16"] = Contestant(
                    "inference_mner.py", *common, "--bf16", *more, threads=options.threads
                )
        if options.others:
            for name in ("flair", "spacy"):
                contestants[name] = Contestant(
                    f"inference_{name}.py", *common, python=options.others, threads=options.threads
                )
        reports = play(contestants, options.turns, warm=1)
    print(f"# Inference: {len(posts)} posts\n")
    print(machine("torch", "transformers", "pytorch-lightning"))
    print(f"{options.turns} turns of each; {options.threads} thread; {options.clock} time.\n")
    print("| | posts a second | times as fast | quartiles |")
    print("|---|---|---|---|")
    base = [report[options.clock] for report in reports[BASE]]
    for name, some in reports.items():
        taken = [report[options.clock] for report in some]
        middle, low, high = ratio(base, taken)
        print(f"| {name} | {len(posts) / statistics.median(taken):.1f} | {middle:.2f} | {low:.2f}-{high:.2f} |")


if __name__ == "__main__":
    main()
