"""Figure 3: how scores grow with the training set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from mner.analysis.scoring import f1_of, marked, post_counts
from mner.data.examples import nested_subset
from mner.data.formats.predictions import Prediction, Predictions
from mner.labels import Mode

if TYPE_CHECKING:
    from pandas import DataFrame

Item = TypeVar("Item")
Run = Predictions | Sequence[Prediction] | float
"""The predictions of one run on the evaluated split, or its F1."""


def nested_subsets(examples: Sequence[Item], fractions: Sequence[float], seed: int = 0) -> dict[float, list[Item]]:
    """Random subsets of the training posts, each holding all smaller ones, as a data module's `train_fraction`.

    Nested subsets differ by what is added alone, so a curve over them is less jagged than over fresh draws.

    Args:
        examples: The training posts.
        fractions: Shares, over 0 up to 1.
        seed: Seed of the draw. Take another for each repetition of a curve.

    >>> {fraction: len(posts) for fraction, posts in nested_subsets("abcdefgh", [0.25, 0.5]).items()}
    {0.25: 2, 0.5: 4}
    """
    return {fraction: nested_subset(examples, fraction, seed) for fraction in fractions}


def run_f1(run: Run, mode: Mode = "lenient") -> float:
    """The micro F1 of one run."""
    if isinstance(run, int | float):
        return float(run)
    return float(f1_of(post_counts(marked(run, mode)).sum(axis=0)))


def learning_curve(
    runs: Mapping[str, Mapping[float, Run | Sequence[Run]]], mode: Mode = "lenient", baseline: str | None = None
) -> DataFrame:
    """F1 by system and size of the training set, mean and standard deviation over runs.

    Args:
        runs: For each system, for each size (posts or a share of them), its runs: predictions, or F1 values.
        mode: Reading of tag sequences.
        baseline: The system from which `gain` is counted; the first, if not given.

    Returns:
        Index (system, size); columns runs, f1 (mean), sd (NaN with one run) and gain over the baseline at that size.

    >>> table = learning_curve({"text": {0.5: [0.6, 0.7], 1: 0.8}, "captions": {0.5: 0.75, 1: 0.8}})
    >>> table[["runs", "f1", "gain"]]  # doctest: +NORMALIZE_WHITESPACE
                   runs    f1  gain
    system   size
    text     0.5      2  0.65   0.0
             1.0      1  0.80   0.0
    captions 0.5      1  0.75   0.1
             1.0      1  0.80   0.0
    """
    import pandas as pd

    if not runs:
        raise ValueError("Expected the runs of at least one system, but got none")
    baseline = next(iter(runs)) if baseline is None else baseline
    if baseline not in runs:
        raise ValueError(f"Expected argument `baseline` to be one of {tuple(runs)}, but got {baseline!r}")
    rows = {}
    for system, sizes in runs.items():
        for size, of_size in sorted(sizes.items()):
            values = np.array([run_f1(run, mode) for run in _each_run(of_size)])
            sd = values.std(ddof=1) if len(values) > 1 else float("nan")
            rows[system, float(size)] = {"runs": len(values), "f1": values.mean(), "sd": sd}
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples(rows, names=["system", "size"])
    base = [rows.get((baseline, size), {}).get("f1", float("nan")) for _, size in rows]
    frame["gain"] = frame["f1"] - base
    return frame


def _each_run(of_size: Run | Sequence[Run]) -> Sequence[Run]:
    single = isinstance(of_size, int | float | Predictions) or (bool(of_size) and isinstance(of_size[0], Prediction))
    found = [of_size] if single else of_size
    if not found:
        raise ValueError("Expected at least one run of each system and size, but got an empty list")
    return found  # type: ignore[return-value]
