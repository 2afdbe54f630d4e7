"""Broken inputs for all that reads: text files, stores, pictures, checkpoints, any text, half-written outputs.

Each input is a valid one that was broken. It must be read, with nothing lost in silence, or refused as the command line
refuses it, in one line. The table says for each target how many were read, refused, or ended otherwise, and how long
the slowest took.

    python benchmarks/fuzz --inputs 1000000 --seed 0 --jobs 8 --out fuzz.jsonl
    python benchmarks/fuzz --inputs 2000 --only split_words Tagger
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a broken name of an encoder is looked for nowhere else
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent))

from targets import SHARES, TARGETS, fuzz

PART = 5_000
"""Inputs that one process breaks before it reports."""


def main(argv: list[str] | None = None) -> int:
    """Run and print a table; exit code 1 if anything was neither read nor refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(TARGETS), metavar="TARGET", help="all if not given")
    parser.add_argument("--show", type=int, default=3, help="how many kinds of wrong outcomes to show of a target")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, help="JSON lines of what is done; a run that was stopped goes on from it")
    given = parser.parse_args(argv)
    chosen = given.only or list(TARGETS)
    whole = sum(SHARES[name] for name in chosen)
    parts = []
    for name in chosen:
        inputs = max(1, round(given.inputs * SHARES[name] / whole))
        size = {1: PART // 10, 20: 2 * PART}.get(SHARES[name], PART)  # a checkpoint has to be made for each part
        parts += [(name, min(size, inputs - start), given.seed, start // size) for start in range(0, inputs, size)]
    done = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out and given.out.exists() else []
    known = {tuple(one["part"]) for one in done}
    todo = [part for part in parts if part not in known]
    with ProcessPoolExecutor(given.jobs) as pool:
        waiting = {pool.submit(fuzz, *part): part for part in todo}
        for number, future in enumerate(as_completed(waiting), start=1):
            done.append({"part": waiting[future], **future.result()._asdict()})
            print(f"{number} of {len(todo)} parts: {waiting[future]}", file=sys.stderr, flush=True)
            if given.out:
                with given.out.open("a") as file:
                    file.write(json.dumps(done[-1]) + "\n")
    results = {name: [one for one in done if one["part"][0] == name] for name in chosen}
    print("| target | inputs | read | refused | otherwise | seconds | slowest, s |\n|---|---|---|---|---|---|---|")
    for name, some in [*results.items(), ("all", done)]:
        print(_row(name, some))
    wrong = [_few(one for part in some for one in part["wrong"])[: given.show] for some in results.values()]
    for one in (one for some in wrong for one in some):
        print(f"\n{one}")
    return 1 if any(wrong) else 0


def _few(wrong: Iterable[str]) -> list[str]:
    """One of each kind."""
    kinds: dict[str, str] = {}
    for one in wrong:
        kinds.setdefault(_kind(one), one)
    return list(kinds.values())


def _kind(wrong: str) -> str:
    """What tells one fault from another: its name, and where it was raised."""
    frames = re.findall(r'File ".*/(mner/.*)", line (\d+)|^(\w[\w.]*(?:Error|Exception))', wrong, re.M)
    return f"{wrong.splitlines()[0][:60]} {frames[-2:]}"


def _row(name: str, parts: list[dict[str, Any]]) -> str:
    counts = sum((Counter(part["outcomes"]) for part in parts), Counter[str]())
    told = ", ".join(f"{key} {n}" for key, n in counts.items() if key not in ("read", "refused"))
    rest = counts.total() - counts["read"] - counts["refused"]
    cells = [name, *(f"{n:,}" for n in (counts.total(), counts["read"], counts["refused"]))]
    cells.append(f"{rest} ({told})" if told else f"{rest}")
    seconds, slowest = sum(part["seconds"] for part in parts), max((part["slowest"] for part in parts), default=0)
    return "| " + " | ".join([*cells, f"{seconds:.0f}", f"{slowest:.2f}"]) + " |"


if __name__ == "__main__":
    sys.exit(main())
