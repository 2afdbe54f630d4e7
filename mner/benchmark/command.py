"""The command `mner benchmark`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from mner.benchmark.execute import exclusive, execute, recorded
from mner.benchmark.page import write_results
from mner.benchmark.plan import BenchmarkError, plan
from mner.benchmark.results import finished_runs
from mner.data.datamodule import Split
from mner.labels import Mode


def benchmark_command(
    configs: list[str],
    seeds: list[int] | None = None,
    out: Path = Path("benchmark"),
    baseline: str | None = None,
    fractions: list[float] | None = None,
    overrides: list[str] | None = None,
    split: Split = "valid",
    against: Literal["paper"] | None = None,
    mode: Mode = "lenient",
    keep_checkpoints: bool = False,
    resamples: int = 10_000,
) -> int:
    """Train and compare: every config with every seed. Killed and started again, it goes on where it was.

    Args:
        configs: Config files of `mner fit`; each is a system, named as its file. Their data modules name data sets.
        seeds: Seeds, each a run of every config; 0, 1 and 2 if not given.
        out: Folder for runs and results.
        baseline: The system that the others are tested against; the first config if not given.
        fractions: Shares of the training posts (nested subsets), for learning curves; all posts if not given.
        overrides: Options for all configs, such as `[trainer.max_epochs=4]`.
        split: The split that is predicted and scored. Leave `test` for the end.
        against: `paper` puts the paper's numbers beside ours, with what to keep in mind.
        mode: Reading of tag sequences.
        keep_checkpoints: Keep the best checkpoint of each run.
        resamples: Random swaps of the randomisation test.

    Returns:
        Exit code 0, or 1 if a run failed.
    """
    jobs = plan(
        [Path(config) for config in configs],
        seeds if seeds is not None else [0, 1, 2],
        fractions or [1.0],
        overrides or [],
        split,
    )
    chosen = baseline or jobs[0].system
    if chosen not in {job.system for job in jobs}:
        raise BenchmarkError(
            f"Expected --baseline to be one of {sorted({job.system for job in jobs})}, but got {chosen!r}"
        )
    failed = []
    with exclusive(out):
        todo = [job for job in jobs if recorded(job, out) is None]
        print(f"{len(jobs)} runs, {len(jobs) - len(todo)} of them done before; results in {out / 'results.md'}")
        for number, job in enumerate(todo, 1):
            started = time.monotonic()
            good = execute(job, out, split, keep_checkpoints)
            taken = f"{time.monotonic() - started:.0f} s"
            if not good:
                failed.append(job)
                log = out / "runs" / job.name / "log.txt"
                print(f"[{number}/{len(todo)}] {job.name}: failed after {taken}, see {log}", flush=True)
                continue
            print(f"[{number}/{len(todo)}] {job.name}: {taken}", flush=True)
            write_results(
                jobs, finished_runs(jobs, out), out, chosen, split, mode, min(resamples, 1000), against == "paper"
            )
        runs = finished_runs(jobs, out)
        if runs:
            page = write_results(jobs, runs, out, chosen, split, mode, resamples, against == "paper")
            print(page.read_text(encoding="utf-8"))
    return 1 if failed else 0
