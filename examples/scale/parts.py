"""A large job in parts that Ray Data hands to workers: bounded memory, resumable, nothing lost when a worker dies.

What travels through Ray is the description of a part and a line of counts about it. Workers read their part and write
its output themselves, under a name that only that part has, which appears when the part is finished. A worker that dies
is started again, and so is its part; a run that was stopped goes on with the parts whose output is not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mner.errors import DataFormatError, MissingDependencyError

Part = dict[str, Any]


def plan(folder: Path, job: dict[str, Any], make_parts: Callable[[], Iterator[Part]]) -> list[Part]:
    """The parts of a job, written to `plan.json` when it is begun and read from there when it is gone on with.

    Args:
        folder: Of the output.
        job: What must be the same for the outputs to belong together.
        make_parts: Makes the parts.

    Raises:
        DataFormatError: If the folder holds the output of another job.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "plan.json"
    if file.exists():
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["job"] != job:
            differing = sorted(key for key in job.keys() | found["job"].keys() if job.get(key) != found["job"].get(key))
            raise DataFormatError(
                file,
                None,
                f"the plan of another job (other {', '.join(differing)})",
                "that of the same input, model and options",
                "Name another folder for the output.",
            )
        parts: list[Part] = found["parts"]
        return parts
    parts = list(make_parts())
    new = file.with_name("plan.json.new")
    new.write_text(json.dumps({"job": job, "parts": parts}), encoding="utf-8")
    os.replace(new, file)
    return parts


def digest(path: Path) -> str:
    """Short hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def work(
    worker: type,
    options: dict[str, Any],
    parts: Sequence[Part],
    workers: int,
    cpus: float,
    gpus: float,
    address: str | None,
) -> Iterator[dict[str, Any]]:
    """Hand the parts to workers; yields what these say of each, in any order.

    Args:
        worker: A class whose objects take a part and return plain facts about it; built once in each worker.
        options: Arguments of its constructor.
        parts: The parts.
        workers: How many there are at a time.
        cpus: Processors of a worker.
        gpus: GPUs of a worker, or part of one.
        address: Of a Ray cluster; None starts one on this machine.

    Raises:
        MissingDependencyError: If Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingDependencyError("Bulk work needs Ray; install it with pip install 'mner[ray]'") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local = {} if address else {"num_cpus": max(1, round(workers * cpus)), "include_dashboard": False}
    ray.init(address=address, log_to_driver=False, logging_level="warning", **local)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.from_items([{"part": json.dumps(part)} for part in parts], override_num_blocks=len(parts))
    done = rows.map_batches(
        Adapter,
        fn_constructor_args=(worker, options),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
        num_cpus=cpus,
        num_gpus=gpus,
    )  # Ray Data starts actors and their tasks again, however often they die
    try:
        for row in done.iter_rows():
            yield json.loads(row["facts"])
    finally:
        ray.shutdown()


class Adapter:
    """Between Ray's batches of columns and a worker's parts.

    Args:
        worker: The worker's class.
        options: Arguments of its constructor.
    """

    def __init__(self, worker: type, options: dict[str, Any]) -> None:
        self.worker = worker(**options)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Work on the parts of a batch."""
        return {"facts": [json.dumps(self.worker(json.loads(part))) for part in batch["part"]]}


def follow(facts: Iterator[dict[str, Any]], unit: str, total: int) -> int:
    """Print a line for each part that is finished; returns how many units were done."""
    begin, done = time.monotonic(), 0
    for number, some in enumerate(facts, start=1):
        done += some[unit]
        rate = done / (time.monotonic() - begin)
        print(f"{number} of {total} parts: {some}; {rate:.1f} {unit} a second", file=sys.stderr, flush=True)
    return done
