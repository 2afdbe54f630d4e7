"""Resampling of posts: bootstrap intervals and approximate randomisation, as matrix products over per-post counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Array = NDArray[np.float64]
Statistic = Callable[[NDArray[Any]], Array]
"""From totals (…, k) over posts to one or several numbers (…) or (…, m)."""

CELLS = 4_000_000  # elements of one block of weights: 32 MB


def _blocks(resamples: int, posts: int) -> Iterator[int]:
    size = max(1, CELLS // max(posts, 1))
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def bootstrap_distribution(counts: NDArray[Any], statistic: Statistic, resamples: int, seed: int = 0) -> Array:
    """`statistic` on `resamples` samples of the n posts, drawn with replacement: (resamples,) or (resamples, m)."""
    posts = len(counts)
    rng = np.random.default_rng(seed)
    values = []
    for size in _blocks(resamples, posts):
        drawn = rng.integers(posts, size=(size, posts)) + posts * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * posts).reshape(size, posts)
        values.append(statistic(weights.astype(float) @ counts))
    return np.concatenate(values)


def bootstrap_interval(
    counts: NDArray[Any],
    statistic: Statistic,
    confidence: float = 0.95,
    resamples: int = 10_000,
    method: Literal["percentile", "bca"] = "bca",
    seed: int = 0,
) -> tuple[Array, Array]:
    """Bootstrap interval over posts of a number that is a function of totals, such as F1 or a difference of two F1.

    Args:
        counts: (n, k), what is summed over posts.
        statistic: From totals (…, k) to the number, or to m numbers in a last axis.
        confidence: Share of repetitions in which the interval should hold the true number.
        resamples: Bootstrap samples.
        method: `percentile`, or `bca` (Efron 1987: corrected for bias and for skewness, the latter from the
            leave-one-out values). Both need more than a handful of posts.
        seed: Seed of the draws.

    Returns:
        Lower and upper end, each a number or (m,).
    """
    if len(counts) < 2:
        nothing = np.full(np.shape(statistic(counts.sum(axis=0))), np.nan)
        return nothing, nothing
    drawn = bootstrap_distribution(counts, statistic, resamples, seed)
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if method == "percentile":
        with np.errstate(all="ignore"):
            low, high = _quantiles(drawn, tails)
        return low, high
    if drawn.ndim > 1:
        raise ValueError("Expected a statistic of one number for method 'bca', but got several; use 'percentile'")
    total = counts.sum(axis=0)
    observed = statistic(total)
    # Ties count half, so that a discrete statistic is not taken for a biased one.
    below = (np.sum(drawn < observed) + 0.5 * np.sum(drawn == observed)) / len(drawn)
    if not 0 < below < 1:
        return bootstrap_interval(counts, statistic, confidence, resamples, "percentile", seed)
    bias = ndtri(below)
    left_out = statistic(total - counts)
    spread = np.nanmean(left_out) - left_out
    scale = np.nansum(spread**2) ** 1.5
    skew = np.nansum(spread**3) / (6 * scale) if scale > 0 else 0.0
    z = bias + ndtri(tails)
    low, high = _quantiles(drawn, ndtr(bias + z / (1 - skew * z)))
    return low, high


def _quantiles(drawn: Array, at: Array) -> Array:
    """Quantiles over the first axis that pass over NaN (resamples without an entity); NaN where nothing else is."""
    if not np.isnan(drawn).any():
        return np.quantile(drawn, at, axis=0)
    columns = drawn[:, None] if drawn.ndim == 1 else drawn
    found = [np.quantile(kept, at) if (kept := c[~np.isnan(c)]).size else np.full(len(at), np.nan) for c in columns.T]
    return np.stack(found, axis=-1).reshape(len(at), *drawn.shape[1:])


class Randomisation(NamedTuple):
    """An approximate randomisation test: the difference seen, its two-sided p, and whether p is exact."""

    difference: float
    p: float
    exact: bool


def randomisation_test(
    first: NDArray[Any], second: NDArray[Any], statistic: Statistic, resamples: int = 10_000, seed: int = 0
) -> Randomisation:
    """Two-sided paired approximate randomisation (Noreen 1989; Yeh 2000) of `statistic(second) - statistic(first)`.

    If the two systems were alike, it would not matter which of them gave which output of a post. Outputs are swapped,
    post by post, at random; p is the share of swaps whose difference is at least as large as the one seen,
    (1 + as large) / (1 + resamples). Posts on which both have the same counts change nothing; where the others allow
    fewer than `resamples` swaps all of them are gone through, and p is exact.

    Args:
        first: (n, k) counts of one system.
        second: (n, k) counts of the other, on the same posts.
        statistic: From totals (…, k) to one number, such as F1.
        resamples: Random swaps.
        seed: Seed of the swaps.
    """
    if first.shape != second.shape:
        raise ValueError(f"Expected counts of the same posts, but got {first.shape} and {second.shape}")
    totals = first.sum(axis=0), second.sum(axis=0)
    observed = float(statistic(totals[1]) - statistic(totals[0]))
    gain = (second - first)[(first != second).any(axis=1)]  # (m, k), what a swap moves
    free = len(gain)
    exact = free < 63 and 2**free <= resamples
    trials = 2**free if exact else resamples
    rng = np.random.default_rng(seed)
    as_large, done = 0, 0
    for size in _blocks(trials, free):
        if exact:
            swapped = (np.arange(done, done + size)[:, None] >> np.arange(free)) & 1
        else:
            swapped = rng.integers(2, size=(size, free), dtype=np.int8)
        moved = swapped.astype(float) @ gain  # (size, k)
        with np.errstate(all="ignore"):
            difference = statistic(totals[1] - moved) - statistic(totals[0] + moved)
        # Rounding must not make a swap that is the same up to its sign count as smaller.
        as_large += int(np.sum(np.abs(difference) >= abs(observed) - 1e-12))
        done += size
    p = as_large / trials if exact else (1 + as_large) / (1 + trials)
    return Randomisation(observed, p, exact)
