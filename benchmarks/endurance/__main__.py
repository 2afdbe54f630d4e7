"""Kills, full disks, two writers and read-only folders: is anything lost, doubled, or stuck?

Each command is run once undisturbed. Then, again and again with a fresh output, it is killed at random moments (SIGKILL
or SIGTERM), started on a disk that is too small, under a limit on the size of files, or twice at once; each time it is
then run to its end. What lies there is compared with the undisturbed run.

    python benchmarks/endurance --kills 200 --seed 0 --jobs 4 --out endurance.jsonl

The kills are for the six commands that go on where they were stopped; `--few` more are for each of the others. Commands
run in forks of this process, which has imported everything, so that a kill hits the work and not the start. A run that
was stopped goes on from `--out`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from commands import Task, serve, tasks
from disturb import Whole, fork, full, killed, limited, read_only, size, two, wait

RESUMABLE = ("tag", "caption", "features", "download", "benchmark", "fit")
DISTURBANCES = {one.__name__: one for one in (killed, limited, full, two, read_only)}


def undisturbed(task: Task, place: Path) -> Whole:
    """What a command takes and leaves; it is run twice, since the first run imports what is imported late."""
    for number in range(2):
        out, began = place / f"{number}" / "out", time.monotonic()
        out.parent.mkdir(parents=True)
        if code := wait(fork(lambda out=out: task.run(out))):
            raise RuntimeError(f"{place.name} ended with {code} though nothing disturbed it")
    return Whole(task.run, task.content, task.content(out), time.monotonic() - began, size(out.parent))


def disturb(name: str, task: Task, root: Path, given: argparse.Namespace, done: Counter[str]) -> None:
    """All trials of one command that are not done yet; each is a line of the output."""
    whole = undisturbed(task, root / "whole" / name)
    kills = given.kills // len(RESUMABLE) + 1 if name in RESUMABLE else given.few
    wanted = {"killed": kills, "limited": given.few, "full": given.few, "two": given.few, "read_only": 1}
    for kind, count in wanted.items():
        while done[f"{name} {kind}"] < count:
            trial = done[f"{name} {kind}"]
            counts: Counter[str] = Counter()
            place = Path(tempfile.mkdtemp(dir=root))
            place.chmod(0o755)
            draw = random.Random(f"{given.seed} {name} {kind} {trial}")
            wrong = DISTURBANCES[kind](whole, place / "out", draw, counts)
            made = counts["kills"] if kind == "killed" else 1
            done[f"{name} {kind}"] += made
            record = {"command": name, "kind": kind, "trials": made, "counts": counts, "wrong": wrong}
            with given.out.open("a") as file:
                file.write(json.dumps({**record, "seconds": round(whole.seconds, 1)}) + "\n")
            told = f": {wrong}" if wrong else ""
            print(f"{name}: {kind} {done[f'{name} {kind}']} of {count}{told}", flush=True)
            shutil.rmtree(place)


def table(records: list[dict[str, Any]]) -> str:
    """What was done to each command, and what it left."""
    kinds = list(DISTURBANCES)
    rows = ["| " + " | ".join(["command", *kinds, "left something else", "s undisturbed"]) + " |"]
    rows.append("|---" * (len(kinds) + 3) + "|")
    names = dict.fromkeys(record["command"] for record in records)
    for name in (*names, "all"):
        some = [record for record in records if name in (record["command"], "all")]
        cells = [str(sum(one["trials"] for one in some if one["kind"] == kind)) for kind in kinds]
        wrong = sum(bool(one["wrong"]) for one in some)
        cells += [str(wrong), "" if name == "all" else str(some[0]["seconds"])]
        rows.append("| " + " | ".join([name, *cells]) + " |")
    counts = sum((Counter(record["counts"]) for record in records), Counter[str]())
    return "\n".join([*rows, "", ", ".join(f"{key}: {value}" for key, value in sorted(counts.items()))])


def main(argv: list[str] | None = None) -> int:
    """Print a table; exit code 1 if anything was lost, doubled or stuck."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="over all commands that go on where they were stopped")
    parser.add_argument("--few", type=int, default=3, help="of all else, for each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="commands; all if not given")
    parser.add_argument("--jobs", type=int, default=1, help="commands at once")
    parser.add_argument("--out", type=Path, default=Path("endurance.jsonl"), help="a line for each trial")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    given.out = given.out.absolute()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        served, names, server = serve(root / "served")
        chosen = {name: task for name, task in tasks(root, served, names).items() if name in (given.only or [name])}
        done: Counter[str] = Counter()
        for record in read(given.out):
            done[f"{record['command']} {record['kind']}"] += record["trials"]
        waiting, running = list(chosen), {}
        failed = 0
        while waiting or running:
            while waiting and len(running) < given.jobs:
                name = waiting.pop(0)
                running[loud(lambda name=name: disturb(name, chosen[name], root, given, done))] = name
            child, status = os.wait()
            if (name := running.pop(child, "")) and status:
                print(f"{name}: its trials did not come to their end", flush=True)
                failed += 1
        os.kill(server, 9)
        wait(server)
    records = read(given.out)
    print(table(records))
    return 1 if failed or any(record["wrong"] for record in records) else 0


def loud(work: Any) -> int:
    """As `fork`, with the output of this process."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except Exception as error:
        print(repr(error), flush=True)
    finally:
        os._exit(code)


def read(path: Path) -> list[dict[str, Any]]:
    """The trials that are done."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    sys.exit(main())
