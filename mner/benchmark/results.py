"""From recorded runs to tables: scores of each run, means and tests against the baseline, beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mner.analysis import compare, learning_curve, read_predictions, score
from mner.analysis.comparison import Comparison
from mner.benchmark.paper import published
from mner.benchmark.plan import Job
from mner.benchmark.run import PREDICTIONS, recorded
from mner.data.formats.predictions import Predictions
from mner.labels import Mode

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Finished:
    """A run that came to its end."""

    job: Job
    record: dict[str, Any]
    predictions: Predictions


def finished_runs(jobs: Sequence[Job], out: Path) -> list[Finished]:
    """The runs of a plan that are recorded."""
    found = []
    for job in jobs:
        record = recorded(job, out)
        if record is not None:
            found.append(Finished(job, record, read_predictions(out / "runs" / job.name / PREDICTIONS)))
    return found


def runs_table(runs: Sequence[Finished]) -> DataFrame:
    """One row a run: its scores, lenient and strict, and what it took."""
    import pandas as pd

    rows = {}
    for run in runs:
        scores = score(run.predictions, resamples=0)
        lenient, strict = (scores.loc[[(mode, "all")]].iloc[0] for mode in ("lenient", "strict"))
        rows[run.job.dataset, run.job.system, run.job.fraction, run.job.seed] = {
            "precision": lenient["precision"],
            "recall": lenient["recall"],
            "f1": lenient["f1"],
            "strict_f1": strict["f1"],
            "training_posts": run.record["training_posts"],
            "epochs": run.record["epochs"],
            "fit_seconds": run.record["fit_seconds"],
            "resumed": run.record["resumed"],
            "fingerprint": run.predictions.header.get("fingerprint"),
        }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples(rows, names=["data set", "system", "share of train", "seed"])
    return frame


def compared(
    runs: Sequence[Finished], dataset: str, fraction: float, baseline: str, mode: Mode, resamples: int
) -> Comparison | None:
    """The systems of one data set against the baseline; None while there are fewer than two, or no baseline."""
    systems: dict[str, list[Predictions]] = {}
    for run in runs:
        if run.job.dataset == dataset and run.job.fraction == fraction:
            systems.setdefault(run.job.system, []).append(run.predictions)
    if baseline not in systems or len(systems) < 2:
        return None
    return compare(systems, baseline, mode, resamples=resamples)


def summary_table(runs: Sequence[Finished], mode: Mode) -> DataFrame:
    """Means over seeds: one row a data set, share of the training posts and system."""
    import pandas as pd

    grouped: dict[tuple[str, float, str], list[Any]] = {}
    for run in runs:
        scores = score(run.predictions, resamples=0).loc[[(mode, "all")]].iloc[0]
        grouped.setdefault((run.job.dataset, run.job.fraction, run.job.system), []).append(scores)
    rows = {}
    for key, of_system in grouped.items():
        frame = pd.DataFrame(of_system)
        rows[key] = {
            "runs": len(frame),
            "precision": frame["precision"].mean(),
            "recall": frame["recall"].mean(),
            "f1": frame["f1"].mean(),
            "sd": frame["f1"].std(ddof=1),
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(rows, names=["data set", "share of train", "system"])
    return table


def curves(runs: Sequence[Finished], dataset: str, baseline: str, mode: Mode) -> DataFrame | None:
    """The learning curve of one data set, or None with one share of the training posts only."""
    found: dict[str, dict[float, list[Any]]] = {}
    for run in runs:
        if run.job.dataset == dataset:
            found.setdefault(run.job.system, {}).setdefault(run.job.fraction, []).append(run.predictions)
    if max((len(sizes) for sizes in found.values()), default=0) < 2:
        return None
    return learning_curve(found, mode, baseline if baseline in found else None)


def against_paper(summary: DataFrame) -> DataFrame | None:
    """Our means with all training posts beside the paper's numbers; None where no config is one of the paper's."""
    import pandas as pd

    summaries: dict[Any, dict[Any, Any]] = summary.to_dict("index")
    rows = {}
    for (dataset, fraction, system), row in summaries.items():
        theirs = published(dataset, system)
        if theirs is not None and fraction == 1:
            rows[dataset, system] = {
                "runs": row["runs"],
                "f1": row["f1"],
                "sd": row["sd"],
                "paper's F1 (%)": f"{theirs.f1:.2f}",
                "ours less the paper's (points)": f"{100 * row['f1'] - theirs.f1:+.2f}",
            }
    if not rows:
        return None
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(rows, names=["data set", "system"])
    return table


def numbers_per_dataset(runs: Sequence[Finished]) -> list[tuple[str, float]]:
    """The data sets and shares of training posts that have runs, in order."""
    return list(dict.fromkeys((run.job.dataset, run.job.fraction) for run in runs))
