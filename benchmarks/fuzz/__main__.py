"""Broken inputs for all that reads: text files, stores, pictures, checkpoints, any text, half-written outputs.

Each input is a valid one that was broken. It must be read, with nothing lost in silence, or refused as the command line
refuses it, in one line. The table says for each target how many were read, refused, or ended otherwise, and how long
the slowest took.

    python benchmarks/fuzz --inputs 1000000 --seed 0
    python benchmarks/fuzz --inputs 2000 --only split_words Tagger
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a broken name of an encoder is looked for nowhere else
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent))

from targets import SHARES, TARGETS, fuzz


def main(argv: list[str] | None = None) -> int:
    """Run and print a table; exit code 1 if anything was neither read nor refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(TARGETS), metavar="TARGET", help="all if not given")
    parser.add_argument("--show", type=int, default=3, help="how many kinds of wrong outcomes to show of a target")
    given = parser.parse_args(argv)
    logging.disable(logging.WARNING)  # what readers say of a file that they take
    chosen = given.only or list(TARGETS)
    whole = sum(SHARES[name] for name in chosen)
    print("| target | inputs | read | refused | otherwise | seconds | slowest, s |")
    print("|---|---|---|---|---|---|---|", flush=True)
    total: Counter[str] = Counter()
    seconds, wrong = 0.0, []
    for name in chosen:
        found = fuzz(name, max(1, round(given.inputs * SHARES[name] / whole)), given.seed)
        print(_row(name, found.outcomes, found.seconds, found.slowest), flush=True)
        total, seconds = total + found.outcomes, seconds + found.seconds
        kinds: dict[str, str] = {}
        for one in found.wrong:
            kinds.setdefault(_kind(one), one)
        wrong += list(kinds.values())[: given.show]
    print(_row("all", total, seconds, 0.0))
    for one in wrong:
        print(f"\n{one}")
    return 1 if wrong else 0


def _kind(wrong: str) -> str:
    """What tells one fault from another: its name, and where it was raised."""
    frames = re.findall(r'File ".*/(mner/.*)", line (\d+)|^(\w[\w.]*(?:Error|Exception))', wrong, re.M)
    return f"{wrong.splitlines()[0][:60]} {frames[-2:]}"


def _row(name: str, outcomes: Counter[str], seconds: float, slowest: float) -> str:
    rest = outcomes.total() - outcomes["read"] - outcomes["refused"]
    told = ", ".join(f"{key} {n}" for key, n in outcomes.items() if key not in ("read", "refused"))
    cells = [name, f"{outcomes.total():,}", f"{outcomes['read']:,}", f"{outcomes['refused']:,}", f"{rest}"]
    cells[-1] += f" ({told})" if told else ""
    return "| " + " | ".join([*cells, f"{seconds:.0f}", f"{slowest:.2f}" if slowest else ""]) + " |"


if __name__ == "__main__":
    sys.exit(main())
