"""Comparing systems on the same posts: scores with intervals, paired tests over posts and over seeds, effect sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from mner.analysis.alignment import align
from mner.analysis.resampling import bootstrap_interval, randomisation_test
from mner.analysis.scoring import Runs, each_run, f1_of, marked, post_counts
from mner.labels import Mode

if TYPE_CHECKING:
    from pandas import DataFrame



@dataclass(frozen=True)
class Comparison:
    """The result of `compare`.

    Attributes:
        scores: One row a system: runs, precision, recall, f1 (means over runs), sd of f1 over runs, and the bootstrap
            interval over posts.
        tests: One row a pair (first, second); see `compare`.
        notes: What was forced or could not be tested, in sentences.
    """

    scores: DataFrame
    tests: DataFrame
    notes: list[str]


def compare(
    systems: Mapping[str, Runs],
    baseline: str | None = None,
    mode: Mode = "lenient",
    force: bool = False,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare systems pair by pair, every difference being `second - first`.

    Over posts (does the result hold for other posts of this kind?), with counts averaged over a system's runs:
    `difference` of F1 with its BCa bootstrap interval `low`..`high`; `p_randomisation`, two-sided approximate
    randomisation of F1; `p_posts`, the paired t-test on per-post F1 (1 where nothing is gold and nothing predicted),
    with `dz_posts`. F1 of the whole is no mean of per-post F1, so the two can disagree; the randomisation test is
    about the number that papers report.

    Over seeds (does it hold for other trainings?), with two or more runs each, paired by the header's seed where all
    runs have one, else in the order given: `p_seeds`, the paired t-test on F1, with `dz_seeds`.

    Each p also stands corrected for the number of pairs (Holm), as `…_holm`.

    Args:
        systems: Predictions by name; several runs of a system in a list. Order matters: the first of a pair is the
            one named earlier.
        baseline: Compare each other system with this one only; without it, all pairs.
        mode: Reading of tag sequences.
        force: Compare although fingerprints, posts or gold differ; see `align`.
        resamples: Bootstrap samples and random swaps.
        confidence: Of the intervals.
        seed: Seed of resampling.

    Raises:
        NotComparableError: If the systems were not run on the same posts with the same gold, unless forced.
    """
    import pandas as pd

    if len(systems) < 2:
        raise ValueError(f"Expected at least two systems to compare, but got {list(systems)}")
    if baseline is not None and baseline not in systems:
        raise ValueError(f"Expected argument `baseline` to be one of {list(systems)}, but got {baseline!r}")
    runs, notes = align(systems, force)
    counts = {name: np.stack([post_counts(marked(run, mode)) for run in of_system]) for name, of_system in runs.items()}
    seeds = {
        name: [getattr(run, "header", {}).get("seed") for run in each_run(of_system)]
        for name, of_system in systems.items()
    }
    scores = pd.DataFrame(
        {name: _score(of_system, confidence, resamples, seed) for name, of_system in counts.items()}
    ).T.rename_axis("system")
    scores["runs"] = scores["runs"].astype(int)
    if all(len(of_system) == 1 for of_system in runs.values()):
        notes.append("One run of each system: nothing here says how far another seed would move the scores.")
    elif len({len(of_system) for of_system in runs.values()}) > 1:
        listed = ", ".join(f"{name} {len(of_system)}" for name, of_system in runs.items())
        notes.append(
            f"The systems have different numbers of runs ({listed}). An average over more runs varies less, so for "
            "such a pair the randomisation test, which takes the two as exchangeable, is only a guide."
        )
    pairs = list(combinations(systems, 2))
    if baseline is not None:
        pairs = [(baseline, name) for name in systems if name != baseline]
    rows = []
    for first, second in pairs:
        one, two = counts[first], counts[second]
        row = _over_posts(one.mean(axis=0), two.mean(axis=0), confidence, resamples, seed)
        test = paired_t(*_paired_seeds((first, one, seeds[first]), (second, two, seeds[second]), notes))
        row |= {"t_seeds": test.t, "p_seeds": test.p, "dz_seeds": test.dz, "seeds": test.pairs}
        rows.append({"first": first, "second": second, **row})
    tests = pd.DataFrame(rows).set_index(["first", "second"])
    for column in [name for name in tests if str(name).startswith("p_")]:
        tests[f"{column}_holm"] = holm(tests[column].tolist())
    return Comparison(scores, tests, notes)


def _score(runs: NDArray[np.int64], confidence: float, resamples: int, seed: int) -> dict[str, float]:
    """Means over runs, from counts (runs, n, 3)."""
    totals = runs.sum(axis=1).astype(float)
    correct, predicted, gold = totals.T
    f1 = f1_of(totals)
    low, high = bootstrap_interval(runs.mean(axis=0), f1_of, confidence, resamples, seed=seed)
    return {
        "runs": len(runs),
        "precision": float(np.mean(correct / np.maximum(predicted, 1))),
        "recall": float(np.mean(correct / np.maximum(gold, 1))),
        "f1": float(f1.mean()),
        "sd": float(f1.std(ddof=1)) if len(runs) > 1 else float("nan"),
        "low": float(low),
        "high": float(high),
    }


def f1_difference(totals: NDArray[Any]) -> NDArray[np.float64]:
    """F1 of the last three counts less F1 of the first three, (…, 6)."""
    return f1_of(totals[..., 3:]) - f1_of(totals[..., :3])


def _over_posts(
    one: NDArray[np.float64], two: NDArray[np.float64], confidence: float, resamples: int, seed: int
) -> dict[str, float]:
    low, high = bootstrap_interval(np.hstack([one, two]), f1_difference, confidence, resamples, seed=seed)
    swapped = randomisation_test(one, two, f1_of, resamples, seed)
    test = paired_t(post_f1(one), post_f1(two))
    return {
        "difference": swapped.difference,
        "low": float(low),
        "high": float(high),
        "p_randomisation": swapped.p,
        "t_posts": test.t,
        "p_posts": test.p,
        "dz_posts": test.dz,
        "posts": test.pairs,
    }


def _paired_seeds(
    one: tuple[str, NDArray[np.int64], list[int | None]],
    two: tuple[str, NDArray[np.int64], list[int | None]],
    notes: list[str],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """F1 of paired runs, from (name, counts (runs, n, 3), seeds) of two systems; notes say what could not be paired."""
    (first, one_counts, one_seeds), (second, two_counts, two_seeds) = one, two
    f1 = f1_of(one_counts.sum(axis=1)), f1_of(two_counts.sum(axis=1))
    fewest = min(len(one_seeds), len(two_seeds))
    by_seed = [
        {seed: place for place, seed in enumerate(seeds) if seed is not None} for seeds in (one_seeds, two_seeds)
    ]
    common = [seed for seed in by_seed[0] if seed in by_seed[1]]
    if len(common) >= 2 or (len(common) == 1 and fewest == 1):
        if len(common) < max(len(one_seeds), len(two_seeds)):
            notes.append(f"{first} and {second}: the test over seeds is on their {len(common)} common seeds.")
        return f1[0][[by_seed[0][seed] for seed in common]], f1[1][[by_seed[1][seed] for seed in common]]
    if len(one_seeds) == len(two_seeds) and fewest >= 2:
        notes.append(f"{first} and {second}: runs are paired in the order given, since their seeds are not the same.")
        return f1
    if fewest >= 2:
        notes.append(f"{first} and {second}: no test over seeds, since their runs cannot be paired.")
    return f1[0][:0], f1[1][:0]


class PairedT(NamedTuple):
    """A paired t-test of `second - first`: mean difference and its 95 % interval, t, p (two-sided), Cohen's dz, pairs.

    dz is the mean of the differences over their standard deviation: what one pair shows, however many there are.
    """

    difference: float
    low: float
    high: float
    t: float
    p: float
    dz: float
    pairs: int


def paired_t(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> PairedT:
    """The paired t-test (scipy's `ttest_rel`) with an interval of the mean difference and the effect size dz.

    Two systems that never differ have p = 1 and dz = 0, where scipy gives NaN. Fewer than two pairs give NaN.
    """
    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.shape != two.shape or one.ndim != 1:
        raise ValueError(f"Expected two paired rows of one length, but got shapes {one.shape} and {two.shape}")
    gain = two - one
    pairs = len(gain)
    if pairs < 2:
        nan = float("nan")
        return PairedT(float(gain.mean()) if pairs else nan, nan, nan, nan, nan, nan, pairs)
    mean, sd = float(gain.mean()), float(gain.std(ddof=1))
    if not gain.any():
        return PairedT(0.0, 0.0, 0.0, 0.0, 1.0, 0.0, pairs)
    if sd <= 1e-12 * abs(mean):  # the same gain in each pair
        infinite = float(np.copysign(np.inf, mean))
        return PairedT(mean, mean, mean, infinite, 0.0, infinite, pairs)
    found = stats.ttest_rel(two, one)
    low, high = stats.t.interval(confidence, pairs - 1, loc=mean, scale=sd / pairs**0.5)
    return PairedT(mean, float(low), float(high), float(found.statistic), float(found.pvalue), mean / sd, pairs)


def post_f1(counts: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 of each post from counts (n, 3); 1 where nothing is gold and nothing predicted: the right answer."""
    values = f1_of(counts)
    return np.where(np.isnan(values), 1.0, values)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): p values that may be held against one level for all comparisons together.

    It controls the chance of any false claim, whatever the dependence between comparisons. NaN stays NaN and is not
    counted as a comparison.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    order = [int(place) for place in np.argsort(p) if not np.isnan(p[place])]
    adjusted = np.full(len(p), np.nan)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p[place]))
        adjusted[place] = highest
    return [float(value) for value in adjusted]
