"""The verdict on a difference of F1, with posts and seeds both taken as drawn by chance.

A score is measured on some posts of many, with some trainings of many. Either draw moves it, and a difference is held
against both (docs/statistics.md has the formula and the simulation that chose it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from mner.analysis.scoring import f1_of

Array = NDArray[np.float64]


class Verdict(NamedTuple):
    """A mean over runs, or a difference of two, with its interval and test.

    Attributes:
        value: Mean F1 of the runs, or the difference second - first of two such means. Fractions of 1, as all below.
        low: Lower end of the interval.
        high: Upper end.
        p: Two-sided p of `value` = 0.
        df: Satterthwaite's degrees of freedom.
        se_posts: Standard error that the draw of posts brings.
        se_seeds: Standard error that the draw of seeds brings; NaN where no system has several runs.
    """

    value: float
    low: float
    high: float
    p: float
    df: float
    se_posts: float
    se_seeds: float


class _Part(NamedTuple):
    """One system: mean F1, what each post adds to it (n), and two variances of the mean over k runs."""

    f1: float
    posts: Array
    seeds: float  # s² / k of the runs' F1; 0 with one run
    noise: float  # the part of it that also stands in the variance over posts: chance of a run on each post
    runs: int


def mean_f1(runs: NDArray[Any], confidence: float = 0.95) -> Verdict:
    """Mean F1 of one system's runs with its interval; as `judge`, with a single system.

    Args:
        runs: Counts (k, n, 3) of k runs on n posts: correct, predicted, gold entities.
        confidence: Share of repetitions in which the interval should hold the true F1.

    >>> counts = np.array([[[1, 1, 2], [1, 2, 1], [2, 2, 2]], [[2, 2, 2], [1, 1, 1], [1, 2, 2]]])
    >>> found = mean_f1(counts)
    >>> [round(number, 3) for number in (found.value, found.low, found.high)]
    [0.8, 0.622, 0.978]
    """
    part = _part(np.asarray(runs))
    return _weigh(part.f1, part.posts, [part], confidence, 0.0)


def judge(first: NDArray[Any], second: NDArray[Any], confidence: float = 0.95) -> Verdict:
    """Is the mean F1 of one system's runs another than that of another system's, on other posts and with other seeds?

    With F1 of each run, what leaving out each post changes in it, and s² the variance of F1 over a system's k runs::

        V  = V_posts + s_1² / k_1 + s_2² / k_2
        df = V² / (V_posts² / (n - 1) + (s_1² / k_1)² / (k_1 - 1) + (s_2² / k_2)² / (k_2 - 1))
        t  = difference / sqrt(V), two-sided, with df degrees of freedom

    V_posts is the jackknife variance over posts of the difference of means, less what single runs add to it by chance
    on single posts: that chance moves F1 of runs too, so that it stands in s² already. The degrees of freedom are
    Satterthwaite's (1946). Runs of the two systems are not paired: one seed in two models has nothing in common.

    Seeds never make a claim stronger: where posts alone, with the runs as they are, give the wider interval (s² came
    out small by chance), that interval and its p are taken.

    A system with one run adds no s²: then the verdict is on that one training, not on the system.

    Args:
        first: Counts (k_1, n, 3) of k_1 runs on n posts: correct, predicted, gold entities.
        second: Counts (k_2, n, 3) on the same posts.
        confidence: Share of repetitions in which the interval should hold the true difference.

    Returns:
        The verdict. Where nothing varies from post to post and run to run there is no test: interval and p are NaN,
        unless the two agree everywhere.

    Raises:
        ValueError: If the two are not counts of the same number of posts.
    """
    one, two = np.asarray(first), np.asarray(second)
    if one.ndim != 3 or two.ndim != 3 or one.shape[1:] != two.shape[1:] or one.shape[2] != 3:
        raise ValueError(
            f"Expected counts (runs, posts, 3) of the same posts, but got shapes {one.shape} and {two.shape}"
        )
    parts = _part(one), _part(two)
    return _weigh(parts[1].f1 - parts[0].f1, parts[1].posts - parts[0].posts, parts, confidence, -1.0)


def _part(runs: NDArray[Any]) -> _Part:
    k = len(runs)
    counts = runs.astype(float)  # (k, n, 3)
    f1 = f1_of(counts.sum(axis=1))  # (k,)
    size = counts[..., 1] + counts[..., 2]  # (k, n)
    with np.errstate(all="ignore"):
        # F1 less F1 without the post, exactly: 2 (C - c) / (S - s) written without a difference of near numbers.
        moves = (2 * counts[..., 0] - f1[:, None] * size) / (size.sum(axis=1, keepdims=True) - size)  # (k, n)
    mean = moves.mean(axis=0)  # (n,)
    if k == 1:
        return _Part(float(f1[0]), mean, 0.0, 0.0, 1)
    noise = float(_jackknife(moves - mean).sum()) / (k - 1)
    return _Part(float(f1.mean()), mean, float(f1.var(ddof=1)) / k, noise / k, k)


def _jackknife(moves: Array) -> Array:
    """Variance of numbers (…) from what leaving out each post changes in them (…, n)."""
    return np.asarray((moves.shape[-1] - 1) * moves.var(axis=-1))


def _weigh(value: float, moves: Array, parts: Sequence[_Part], confidence: float, least: float) -> Verdict:
    n, alone = len(moves), float(_jackknife(moves))
    posts = max(alone - sum(part.noise for part in parts), 0.0)
    seeds = sum(part.seeds for part in parts)
    several = [part for part in parts if part.runs > 1]
    se_seeds = seeds**0.5 if several else float("nan")
    nothing = Verdict(value, *[float("nan")] * 6)
    if n < 2 or not np.isfinite(value + alone + seeds):
        return nothing
    if max(alone, posts + seeds) <= 1e-24:  # rounding of nothing
        return Verdict(value, value, value, 1.0, float("nan"), 0.0, se_seeds) if abs(value) <= 1e-12 else nothing
    variance, df = posts + seeds, float(n - 1)
    if seeds:
        df = variance**2 / (posts**2 / (n - 1) + sum(part.seeds**2 / (part.runs - 1) for part in several))
    ways = [(variance, df)] * (variance > 0) + [(alone, n - 1)] * (alone > 0)
    reach = max(float(stdtrit(freedom, (1 + confidence) / 2)) * way**0.5 for way, freedom in ways)
    p = max(2 * float(stdtr(freedom, -abs(value) / way**0.5)) for way, freedom in ways)
    return Verdict(value, max(value - reach, least), min(value + reach, 1.0), p, df, posts**0.5, se_seeds)
