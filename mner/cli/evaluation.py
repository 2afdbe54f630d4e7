"""The commands on predictions and runs: `mner compare`, `mner analyze`, `mner benchmark`, `mner search`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from mner.analysis.comparison import compare
from mner.analysis.presentation import markdown, plot_comparison, text
from mner.analysis.report import build_sections, write_report
from mner.analysis.systems import ArgumentError, load_systems
from mner.data.examples import Split
from mner.data.formats.posts import read_posts
from mner.files import output_folder
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
        with output_folder(out) as place:
            for name in ("scores", "tests", "post_means"):
                getattr(found, name).to_csv(place / f"{name}.csv")
            parts = [f"{sentence}\n\n{markdown(frame)}" for _, sentence, frame in tables]
            page = [markdown(found.scores), *parts, *notes]
            (place / "comparison.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
            plot_comparison(found.scores, found.tests).savefig(place / "comparison.png", dpi=200)
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


def search_command(
    base: Path,
    space: str = "",
    out: Path = Path("search"),
    trials: int = 20,
    processor_hours: float | None = None,
    seeds: list[int] | None = None,
    overrides: dict[str, Any] | None = None,
    mode: Mode = "lenient",
    prune: bool = True,
) -> int:
    """Search for options of `mner fit` by valid F1. Killed and started again, it goes on where it was.

    Args:
        base: A config file of `mner fit`; the first trial has its values, where the space has them.
        space: A YAML file, or its text: a range for each option, `model.learning_rate: log(1e-5, 1e-3)`,
            `uniform(0, 0.3)`, `int(2, 8)`, or a list of values.
        out: Folder for the trials, `results.md`, `search.png` and `best.yaml`, a config for `mner fit`.
        trials: How many; with more than before, an earlier search is gone on with.
        processor_hours: No trial is begun once the trials have taken so much processor time.
        seeds: Each trial is trained with each of them; 0 if not given. The first is that of the search, too.
        overrides: Options that replace those of the config, such as `{trainer.max_epochs: 4}`.
        mode: Reading of tag sequences, by which trials are scored.
        prune: Stop a trial whose F1 is below the median of the others at the same epoch, after five trials.

    Returns:
        Exit code 0, or 1 if a trial failed.
    """
    from mner.benchmark.plan import read_config
    from mner.benchmark.search import search
    from mner.benchmark.space import need_optuna, read_space, with_options
    from mner.cli.lightning import refuse_options, run

    need_optuna()
    ranges, content = read_space(space), with_options(read_config(base), overrides or {})
    examples = {name: one.examples() for name, one in ranges.items()}
    for number in range(max(map(len, examples.values()), default=0)):
        refuse_options(with_options(content, {name: some[number % len(some)] for name, some in examples.items()}))
    monitor = "val/f1" if mode == "lenient" else "val/strict/f1"
    study = search(content, ranges, out, run, trials, processor_hours, seeds or [0], monitor, prune)
    print((out / "results.md").read_text(encoding="utf-8"))
    failed = [trial.number for trial in study.get_trials(deepcopy=False) if trial.state.name == "FAIL"]
    if failed:
        print(f"Failed: trials {failed}; {out / 'trials'} has their logs")
    if (out / "best.yaml").is_file():
        print(f"Next: mner fit --config {out / 'best.yaml'}")
    return 1 if failed else 0
