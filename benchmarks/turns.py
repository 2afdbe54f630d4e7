"""Programs that are compared take turns, each in a process (and, if need be, an environment) of its own.

A contestant is a script that runs any training or inference loop and calls `turn` at the end of each step: the process
reports what the step took and waits until it may go on. `play` gives the turns, one contestant after the other, so that
whatever else the machine does meets all of them alike, and versions of libraries do not mix. Standard library only,
since it runs in every environment.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_begin: tuple[float, float] | None = None
_report: Any = None


def turn(**facts: Any) -> None:
    """Called by a contestant when it is ready, and after each step; returns when it may take the next.

    Args:
        facts: What else to report of the step.
    """
    global _begin, _report
    end = time.process_time(), time.perf_counter()
    if _report is None:
        _report = os.fdopen(int(os.environ["TURNS_REPORT"]), "w")
    if _begin is not None:
        facts |= {"cpu": end[0] - _begin[0], "wall": end[1] - _begin[1]}
    print(json.dumps(facts), file=_report, flush=True)
    if not sys.stdin.readline():
        os._exit(0)  # the game is over, wherever in its loop the contestant is
    _begin = time.process_time(), time.perf_counter()


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """What every contestant is told: the posts, the encoder, the size of its batches."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("posts", type=Path)
    made.add_argument("encoder")
    made.add_argument("--batch", type=int, default=32)
    return made


def read_records(path: Path) -> list[dict[str, Any]]:
    """The posts that `posts.write_plain` wrote: words and tags."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


class Contestant:
    """A script in another process that calls `turn`.

    Args:
        script: Its file, in `contestants/`.
        arguments: Of its command line.
        python: The interpreter of its environment.
        threads: That it may use.
    """

    def __init__(self, script: str, *arguments: str, python: str = sys.executable, threads: int = 1) -> None:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = os.environ | {name: str(threads) for name in names}
        paths = [str(HERE), *filter(None, [environment.get("PYTHONPATH")])]
        environment |= {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.script = script
        self.log = tempfile.TemporaryFile("w+")
        command = [python, str(HERE / "contestants" / script), *arguments]
        # Reports have a pipe of their own: libraries print.
        reading, writing = os.pipe()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self.log,
            stderr=self.log,
            text=True,
            env=environment | {"TURNS_REPORT": str(writing)},
            pass_fds=[writing],
        )
        os.close(writing)
        self.reports = os.fdopen(reading)

    def wait(self) -> dict[str, Any]:
        """What it reports next.

        Raises:
            RuntimeError: If it ended instead; with the last lines that it wrote.
        """
        line = self.reports.readline()
        if not line:
            self.process.wait()
            self.log.seek(0)
            raise RuntimeError(f"{self.script} ended too early:\n{''.join(self.log.readlines()[-15:])}")
        facts: dict[str, Any] = json.loads(line)
        return facts

    def go(self) -> None:
        """Let it take a turn."""
        if self.process.stdin is not None:
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def close(self) -> None:
        """End it."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.reports.close()
        self.log.close()


def play(contestants: Mapping[str, Contestant], turns: int, warm: int = 2) -> dict[str, list[dict[str, Any]]]:
    """Let all take turns; returns their reports without those of the first `warm` turns.

    A contestant that cannot start is named and left out.
    """
    playing = dict(contestants)
    try:
        for name, contestant in contestants.items():
            try:
                contestant.wait()
            except RuntimeError as error:
                print(f"left out: {name}; {error}", file=sys.stderr)
                del playing[name]
        reports: dict[str, list[dict[str, Any]]] = {name: [] for name in playing}
        for _ in range(warm + turns):
            for name, contestant in playing.items():
                contestant.go()
                reports[name].append(contestant.wait())
    finally:
        for contestant in contestants.values():
            contestant.close()
    return {name: some[warm:] for name, some in reports.items()}


def ratio(base: Sequence[float], own: Sequence[float], draws: int = 1000) -> tuple[float, float, float]:
    """How many times as fast as `base`: of all turns together, with quartiles from turns drawn again.

    The turns of one round are drawn together: they met the same machine.
    """
    pick = random.Random(0)
    drawn = []
    for _ in range(draws):
        rounds = pick.choices(range(len(own)), k=len(own))
        drawn.append(sum(base[each] for each in rounds) / sum(own[each] for each in rounds))
    low, _, high = statistics.quantiles(drawn, n=4)
    return sum(base) / sum(own), low, high
