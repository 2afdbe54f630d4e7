"""Is a difference more than chance? Paired tests, effect sizes, correction for several comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from mner.analysis.counts import f1_of


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
