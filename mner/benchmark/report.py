"""Writes the results: Markdown, CSV and figures; again after each run, so that there is always something to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mner.analysis.presentation import COLOURS, markdown, plot_learning_curve
from mner.benchmark.paper import CAVEATS
from mner.benchmark.plan import Job
from mner.benchmark.results import (
    Finished,
    against_paper,
    compared,
    curves,
    numbers_per_dataset,
    runs_table,
    summary_table,
)
from mner.labels import Mode

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


def write_results(
    jobs: Sequence[Job],
    runs: Sequence[Finished],
    out: Path,
    baseline: str,
    split: str,
    mode: Mode = "lenient",
    resamples: int = 10_000,
    paper: bool = False,
) -> Path:
    """Write `results.md`, `runs.csv`, `summary.csv`, `tests.csv`, `post_means.csv` and the figures.

    Args:
        jobs: The plan.
        runs: What is finished of it, at least one run.
        out: Folder of the benchmark.
        baseline: The system that all others are tested against.
        split: The split that was predicted.
        mode: Reading of tag sequences.
        resamples: Random swaps of the randomisation test.
        paper: Put the paper's numbers beside ours.

    Returns:
        The page.
    """
    import pandas as pd

    table, summary = runs_table(runs), summary_table(runs, mode)
    table.to_csv(out / "runs.csv")
    summary.to_csv(out / "summary.csv")
    plot_runs(table).savefig(out / "f1.png", dpi=200)
    parts = [
        "# Benchmark",
        f"{len(runs)} of {len(jobs)} runs are done. Scores are on the {split} split, {mode}, of the checkpoint with "
        "the best F1 on valid; means over seeds, with the standard deviation of F1 over seeds."
        + (" As that split also chose the checkpoint, they are somewhat too good." if split == "valid" else ""),
        markdown(summary),
        "![F1 of each run and the mean](f1.png)",
        f"## Against the baseline {baseline}",
        "Differences are the system minus the baseline, intervals are 95 %. se: how far the draw of posts, and that of "
        "seeds, moves the difference (standard error). dz: mean difference over its standard deviation. Holm: "
        "corrected for the number of systems.",
    ]
    tests: dict[str, list[DataFrame]] = {"tests": [], "post_means": []}
    for dataset, fraction in numbers_per_dataset(runs):
        found = compared(runs, dataset, fraction, baseline, mode, resamples)
        where = f"{dataset}, {100 * fraction:g} % of train"
        if found is None:
            parts.append(f"{where}: fewer than two systems, or no run of the baseline yet.")
            continue
        parts += [f"### {where}"]
        for _, sentence, frame in found.tables():
            parts += [sentence, markdown(frame.droplevel("first").rename_axis("system"))]
        parts += found.notes
        for name, kept in tests.items():
            kept.append(pd.concat({(dataset, fraction): getattr(found, name)}, names=["data set", "share of train"]))
    for name, kept in tests.items():
        if kept:
            pd.concat(kept).to_csv(out / f"{name}.csv")
    parts += _curves(runs, out, baseline, mode)
    if paper:
        parts += _paper(summary)
    parts += _machines(runs)
    page = out / "results.md"
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page


def plot_runs(table: DataFrame) -> Figure:
    """F1 of each run as a dot, mean and standard deviation beside them; a panel a data set.

    Args:
        table: `runs_table`. With several shares of the training posts, the largest is drawn.
    """
    from matplotlib.figure import Figure

    shares = table.index.get_level_values("share of train")
    table = table[shares == shares.max()].droplevel("share of train")
    by_system = {key: 100 * rows["f1"].to_numpy(dtype=float) for key, rows in table.groupby(level=[0, 1], sort=False)}
    datasets = list(dict.fromkeys(table.index.get_level_values("data set")))
    systems = {name: list(dict.fromkeys(table.loc[name].index.get_level_values("system"))) for name in datasets}
    rows = [len(of_dataset) + 0.8 for of_dataset in systems.values()]
    figure = Figure(figsize=(7.4, 0.9 * len(datasets) + 0.42 * sum(rows)), dpi=120, layout="constrained")
    panels = figure.subplots(len(datasets), 1, squeeze=False, height_ratios=rows)[:, 0]
    for axes, dataset in zip(panels, datasets, strict=True):
        for place, system in enumerate(systems[dataset]):
            values = by_system[dataset, system]
            axes.plot(values, np.full(len(values), place), "o", color=COLOURS[0], alpha=0.45, markersize=5)
            spread = values.std(ddof=1) if len(values) > 1 else 0
            axes.errorbar(values.mean(), place + 0.25, xerr=spread, fmt="D", color=COLOURS[1], capsize=3, markersize=5)
        axes.set_yticks(range(len(systems[dataset])), systems[dataset])
        axes.set_ylim(len(systems[dataset]) - 0.4, -0.5)
        axes.set_title(dataset, fontsize=10, loc="left")
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylabel("System")
    panels[-1].set_xlabel("F1 (%): dots are runs, diamonds their mean and standard deviation")
    return figure


def _curves(runs: Sequence[Finished], out: Path, baseline: str, mode: Mode) -> list[str]:
    parts = []
    for dataset in dict.fromkeys(run.job.dataset for run in runs):
        table = curves(runs, dataset, baseline, mode)
        if table is not None:
            name = f"learning_curve_{dataset}.png"
            plot_learning_curve(table).savefig(out / name, dpi=200)
            table.to_csv(out / f"learning_curve_{dataset}.csv")
            parts += [f"## Learning curve, {dataset}", markdown(table), f"![F1 by size of the training set]({name})"]
    return parts


def _paper(summary: DataFrame) -> list[str]:
    table = against_paper(summary)
    if table is None:
        return ["## Beside the paper", "None of these configs is named after an experiment of the paper (`exp1.1_…`)."]
    shown = list(dict.fromkeys(table.index.get_level_values(0)))
    caveats = [*CAVEATS[""], *(caveat for dataset in shown for caveat in CAVEATS.get(dataset, []))]
    return [
        "## Beside the paper",
        markdown(table),
        "Before anything is concluded from the last column:",
        "\n".join(f"- {caveat}" for caveat in caveats),
    ]


def _machines(runs: Sequence[Finished]) -> list[str]:
    """The machines and versions in use, and how many runs each had."""
    lines = []
    for part in ("hardware", "versions"):
        counted: dict[str, int] = {}
        for run in runs:
            line = ", ".join(f"{name} {value}" for name, value in run.record[part].items())
            counted[line] = counted.get(line, 0) + 1
        lines += [f"- {part} ({count} run{'s' * (count > 1)}): {line}" for line, count in counted.items()]
    prints = sorted({f"{run.job.dataset} {run.predictions.header.get('fingerprint')}" for run in runs})
    hours = sum(run.record["fit_seconds"] for run in runs) / 3600
    lines += [f"- fingerprints of the labels: {', '.join(prints)}", f"- training took {hours:.2f} hours in all"]
    resumed = [run.job.name for run in runs if run.record["resumed"]]
    if resumed:
        lines.append(
            f"- killed and gone on with, so that another dropout was drawn than without a break: {', '.join(resumed)}"
        )
    return ["## Machines and versions", "\n".join(lines)]
