"""Comparing systems on the same posts: scores with intervals, the verdict over posts and seeds, and older tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from mner.analysis.alignment import align
from mner.analysis.resampling import randomisation_test
from mner.analysis.scoring import Runs, each_run, f1_of, marked, post_counts
from mner.analysis.verdict import judge, mean_f1
from mner.labels import Mode

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`.

    Attributes:
        scores: One row a system: runs, precision, recall, f1 (means over runs), sd of f1 over runs, and the interval
            of f1.
        tests: One row a pair (first, second), all about F1: the verdict, and tests that take runs or posts as given;
            see `compare`.
        post_means: One row a pair: the paper's paired t-test over posts. It tests the mean F1 of a post, which is
            another number than F1, and two systems of one F1 can be far apart in it.
        notes: What was not taken into account, was forced or could not be tested, in sentences.
    """

    scores: DataFrame
    tests: DataFrame
    post_means: DataFrame
    notes: list[str]

    def tables(self) -> list[tuple[str, str, DataFrame]]:
        """The tests as people read them: a name, a sentence that says what is tested, a table.

        One pair has no correction to show; of several pairs the corrected p are shown.
        """
        several = len(self.tests) > 1

        def shown(frame: DataFrame, *columns: str) -> DataFrame:
            chosen = [f"{name}_holm" if several and f"{name}_holm" in frame else name for name in columns]
            return frame[chosen].dropna(axis=1, how="all")

        found = [
            ("verdict", VERDICT, shown(self.tests, "difference", "low", "high", "p", "se_posts", "se_seeds")),
            ("given", GIVEN, shown(self.tests, "p_randomisation", "p_seeds", "dz_seeds")),
            ("post_means", POST_MEANS, shown(self.post_means, "post_f1_difference", "p_posts", "dz_posts")),
        ]
        return [(name, sentence, frame) for name, sentence, frame in found if len(frame.columns)]


VERDICT = "Verdict on F1: posts, and where a system has several runs its seeds too, are taken as drawn by chance."
GIVEN = (
    "Other tests of F1, each with half of the chance left out: randomisation takes these trainings as the only ones, "
    "the t-test over seeds these posts."
)
POST_MEANS = (
    "The paper's t-test over posts. It tests the mean F1 of a post and not F1: a system can be ahead in one and behind "
    "in the other."
)


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

    The verdict: would the difference of mean F1 hold for other posts of this kind and for other seeds? `difference`,
    its interval `low`..`high` and `p` are those of `mner.analysis.judge`, with `df`, `se_posts` and `se_seeds`. The
    interval of a single system is made the same way. Systems may have different numbers of runs; the seeds of a system
    with one run are not taken into account, which a note says.

    Beside it, in `tests`: `p_randomisation`, two-sided approximate randomisation of F1 over posts, with the runs as
    given; and with two or more runs each `p_seeds`, the paired t-test on F1 of runs, with the posts as given and
    `dz_seeds`. Runs are paired by the header's seed where all have one, else in the order given.

    In `post_means`: `p_posts`, the paper's paired t-test over posts, on `post_f1_difference`, the difference of the
    mean F1 of a post (1 where nothing is gold and nothing predicted), with `dz_posts`.

    Each p also stands corrected for the number of pairs (Holm), as `…_holm`.

    Args:
        systems: Predictions by name; several runs of a system in a list. Order matters: the first of a pair is the
            one named earlier.
        baseline: Compare each other system with this one only; without it, all pairs.
        mode: Reading of tag sequences.
        force: Compare although fingerprints, posts or gold differ; see `align`.
        resamples: Random swaps of the randomisation test.
        confidence: Of the intervals.
        seed: Seed of the swaps.

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
    scores = pd.DataFrame({name: _score(of_system, confidence) for name, of_system in counts.items()})
    scores = scores.T.rename_axis("system")
    scores["runs"] = scores["runs"].astype(int)
    notes += _notes_on_runs(scores)
    pairs = list(combinations(systems, 2))
    if baseline is not None:
        pairs = [(baseline, name) for name in systems if name != baseline]
    tests, means = {}, {}
    for pair in pairs:
        one, two = (counts[name] for name in pair)
        found = judge(one, two, confidence)
        if found.p != found.p and abs(found.value) > 0:
            notes.append(f"{pair[0]} and {pair[1]}: the difference is the same on every post, too alike to be tested.")
        given = randomisation_test(one.mean(axis=0), two.mean(axis=0), f1_of, resamples, seed)
        first, second = ((name, counts[name], seeds[name]) for name in pair)
        over_seeds = paired_t(*_paired_seeds(first, second, notes))
        tests[pair] = {
            "difference": found.value,
            **{name: getattr(found, name) for name in ("low", "high", "p", "df", "se_posts", "se_seeds")},
            "posts": one.shape[1],
            "p_randomisation": given.p,
            "t_seeds": over_seeds.t,
            "p_seeds": over_seeds.p,
            "dz_seeds": over_seeds.dz,
            "seeds": over_seeds.pairs,
        }
        over_posts = paired_t(post_f1(one.mean(axis=0)), post_f1(two.mean(axis=0)))
        means[pair] = {
            "post_f1_difference": over_posts.difference,
            "t_posts": over_posts.t,
            "p_posts": over_posts.p,
            "dz_posts": over_posts.dz,
            "posts": over_posts.pairs,
        }
    return Comparison(scores, _by_pair(tests), _by_pair(means), notes)


def _by_pair(rows: Mapping[tuple[str, str], Mapping[str, float]]) -> DataFrame:
    """A frame with one row a pair, and with each p corrected for the number of pairs."""
    import pandas as pd

    frame = pd.DataFrame(list(rows.values()), index=pd.MultiIndex.from_tuples(rows, names=["first", "second"]))
    for column in [name for name in frame if name == "p" or str(name).startswith("p_")]:
        frame[f"{column}_holm"] = holm(frame[column].tolist())
    return frame


def _score(runs: NDArray[np.int64], confidence: float) -> dict[str, float]:
    """Means over runs, from counts (runs, n, 3)."""
    totals = runs.sum(axis=1).astype(float)
    correct, predicted, gold = totals.T
    f1, found = f1_of(totals), mean_f1(runs, confidence)
    return {
        "runs": len(runs),
        "precision": float(np.mean(correct / np.maximum(predicted, 1))),
        "recall": float(np.mean(correct / np.maximum(gold, 1))),
        "f1": float(f1.mean()),
        "sd": float(f1.std(ddof=1)) if len(runs) > 1 else float("nan"),
        "low": found.low,
        "high": found.high,
    }


def _notes_on_runs(scores: DataFrame) -> list[str]:
    """What one run of a system, or unlike numbers of runs, mean for the tests."""
    single = [str(name) for name in scores.index[scores["runs"] == 1]]
    if len(single) == len(scores):
        return [
            "Seeds were not taken into account: there is one run of each system. Intervals and p say what to expect of "
            "these very trainings on other posts. Trained again with other seeds, the same systems can come out the "
            "other way round: if seeds move F1 by 1.5 points (standard deviation), two equal systems have p <= .05 in "
            "about 4 of 10 such comparisons. For a verdict on the systems, give three or more runs of each."
        ]
    notes = []
    if single:
        spread = ", ".join(f"{name} {100 * sd:.2f}" for name, sd in scores["sd"].dropna().items())
        notes.append(
            f"Seeds of {', '.join(single)} were not taken into account: there is one run. For pairs with it, intervals "
            "and p hold for this very training and are too sure where the system is meant: another seed of it may move "
            f"F1 as seeds move the others (standard deviation in points: {spread})."
        )
    if scores["runs"].nunique() > 1:
        listed = ", ".join(f"{name} {runs}" for name, runs in scores["runs"].items())
        notes.append(
            f"The systems have different numbers of runs ({listed}). The verdict reckons with that; the randomisation "
            "test takes two systems as exchangeable, and is only a guide for averages over unlike numbers of runs."
        )
    return notes


def f1_difference(totals: NDArray[Any]) -> NDArray[np.float64]:
    """F1 of the last three counts less F1 of the first three, (…, 6)."""
    return f1_of(totals[..., 3:]) - f1_of(totals[..., :3])


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
        if 1 < len(common) < max(len(one_seeds), len(two_seeds)):
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
