"""The commands on predictions and runs: `mner compare`, `mner analyze`, `mner benchmark`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from mner.analysis.comparison import compare
from mner.analysis.presentation import markdown, plot_comparison, text
from mner.analysis.report import build_sections, write_report
from mner.analysis.systems import ArgumentError, load_systems
from mner.data.examples import Split
from mner.data.formats.posts import read_posts
from mner.labels import Mode


def compare_command(
    predictions: list[str],
    baseline: str | None = None,
    mode: Mode = "lenient",
    force: bool = False,
    out: Path | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> int:
    """Compare systems on the same posts: F1 with intervals, a verdict over posts and seeds, older tests beside it.

    Args:
        predictions: Two or more systems: prediction files (ours, or CoNLL columns `token gold predicted`), folders of
            runs with several seeds, or quoted patterns; `NAME=` before one names the system.
        baseline: Compare each other system with this one only; without it all pairs.
        mode: Reading of tag sequences.
        force: Compare although data fingerprints, posts or gold tags differ.
        out: Folder for the tables (CSV, Markdown) and the figure.
        resamples: Random swaps of the randomisation test.
        seed: Seed of the swaps.

    Returns:
        Exit code 0.
    """
    systems = load_systems(predictions)
    if len(systems) < 2:
        raise ArgumentError(f"Expected two or more systems to compare, but got {len(systems)}: {list(systems)}")
    if baseline is not None and baseline not in systems:
        raise ArgumentError(f"Expected --baseline to be one of {list(systems)}, but got {baseline!r}")
    found = compare(systems, baseline, mode, force, resamples, seed=seed)
    notes = [f"Differences are second minus first, in points of F1 ({mode}); intervals are 95 %.", *found.notes]
    tables = found.tables()
    print(text(found.scores), *(f"{sentence}\n{text(frame)}" for _, sentence, frame in tables), *notes, sep="\n\n")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name in ("scores", "tests", "post_means"):
            getattr(found, name).to_csv(out / f"{name}.csv")
        parts = [f"{sentence}\n\n{markdown(frame)}" for _, sentence, frame in tables]
        page = [markdown(found.scores), *parts, *notes]
        (out / "comparison.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
        plot_comparison(found.scores, found.tests).savefig(out / "comparison.png", dpi=200)
        print(f"Written to {out}")
    return 0


def analyze_command(
    predictions: list[str],
    train: Path | None = None,
    out: Path = Path("report"),
    mode: Mode = "lenient",
    force: bool = False,
    examples: int = 40,
    seed: int = 0,
) -> int:
    """Write a report on one or several systems: one HTML page with all tables and figures, and these as files.

    Args:
        predictions: Prediction files (ours, or CoNLL columns `token gold predicted`), folders of runs with several
            seeds, or quoted patterns; `NAME=` before one names the system. The first is what others are held against.
        train: The training posts (.txt or .jsonl), for what is seen in training and what is ambiguous there.
        out: Folder for the report.
        mode: Reading of tag sequences.
        force: Compare although data fingerprints, posts or gold tags differ.
        examples: Number of posts with errors to show.
        seed: Seed of their draw.

    Returns:
        Exit code 0.
    """
    systems = load_systems(predictions)
    if not systems:
        raise ArgumentError("Expected at least one prediction file, but got none")
    posts = None if train is None else read_posts(train)
    found = build_sections(systems, posts, mode, force, examples, seed)
    path = write_report(found, out, "Analysis of " + ", ".join(systems))
    print(f"Report: {path}\nTables and figures as files: {out / 'tables'}, {out / 'figures'}")
    return 0


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
    from mner.benchmark.plan import BenchmarkError, plan
    from mner.benchmark.report import write_results
    from mner.benchmark.results import finished_runs
    from mner.benchmark.run import exclusive, execute, recorded
    from mner.cli.lightning import run

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
            good = execute(job, out, split, run, keep_checkpoints)
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
