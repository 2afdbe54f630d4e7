"""The verdict over posts and seeds, against scipy, the analysis of variance, and leaving posts out by hand."""

import numpy as np
import pytest
from scipy import stats

from mner.analysis import judge, mean_f1
from mner.analysis.scoring import f1_of


def drawn(seed, runs, posts, quality=0.7, spread=0.1):
    """Counts (runs, posts, 3); runs differ in quality, hard posts are hard for all."""
    rng = np.random.default_rng(seed)
    gold = np.random.default_rng(99).integers(0, 5, posts)
    hard = np.random.default_rng(98).uniform(-0.2, 0.2, posts)
    found = []
    for _ in range(runs):
        chance = np.clip(quality + hard + spread * rng.standard_normal(), 0.05, 0.95)
        correct = rng.binomial(gold, chance)
        found.append(np.stack([correct, correct + rng.binomial(2, 0.2, posts), gold], axis=-1))
    return np.array(found)


def of_equal_size(values):
    """Counts whose F1 is the mean of `values` (…, posts), in tenths: five entities are gold and five predicted."""
    correct = np.asarray(values)
    return np.stack([correct, np.full(correct.shape, 5), np.full(correct.shape, 5)], axis=-1)


def by_hand(first, second, confidence=0.95):
    """The formula of the docstring, leaving out one post after the other."""
    n = first.shape[1]

    def left_out(runs):  # (k, n), F1 of each run without each post
        return np.array([[f1_of(np.delete(run, post, axis=0).sum(axis=0)) for post in range(n)] for run in runs])

    def jackknife(values):
        return (n - 1) / n * ((values - values.mean()) ** 2).sum()

    f1 = [f1_of(runs.sum(axis=1)) for runs in (first, second)]
    without = [left_out(runs) for runs in (first, second)]
    alone = jackknife(without[1].mean(axis=0) - without[0].mean(axis=0))
    noise = sum(sum(jackknife(run - of.mean(axis=0)) for run in of) / (len(of) - 1) / len(of) for of in without)
    posts, seeds = max(alone - noise, 0), [of.var(ddof=1) / len(of) for of in f1]
    variance = posts + sum(seeds)
    df = variance**2 / (posts**2 / (n - 1) + sum(s**2 / (len(of) - 1) for s, of in zip(seeds, f1, strict=True)))
    value = f1[1].mean() - f1[0].mean()
    ways = [(variance, df), (alone, n - 1)]
    reach = max(stats.t.ppf((1 + confidence) / 2, freedom) * way**0.5 for way, freedom in ways)
    p = max(2 * stats.t.sf(abs(value) / way**0.5, freedom) for way, freedom in ways)
    return value, value - reach, value + reach, p, df, posts**0.5, sum(seeds) ** 0.5


@pytest.mark.parametrize(("runs", "spread"), [((3, 3), 0.1), ((2, 5), 0.05), ((4, 2), 0.0), ((5, 5), 0.02)])
@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_equals_the_formula_by_hand(runs, spread, confidence):
    first, second = drawn(1, runs[0], 40, spread=spread), drawn(2, runs[1], 40, 0.75, spread)
    assert judge(first, second, confidence) == pytest.approx(by_hand(first, second, confidence), rel=1e-9)


def test_without_seeds_it_is_scipys_paired_t_test():
    # Posts of one size: F1 is the mean over posts, and leaving posts out gives the usual variance of a mean.
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, 4, (2, 60))
    two = np.minimum(two + rng.integers(0, 2, 60), 5)
    found, reference = judge(of_equal_size([one]), of_equal_size([two])), stats.ttest_rel(two / 5, one / 5)
    interval = reference.confidence_interval(0.95)
    expected = reference.pvalue, interval.low, interval.high, 59
    assert (found.p, found.low, found.high, found.df) == pytest.approx(expected)
    assert np.isnan(found.se_seeds)


def test_where_posts_say_nothing_it_is_scipys_welch_test():
    # Each run has one F1 on every post, so that runs alone differ.
    first, second = (of_equal_size(np.repeat(np.array([f1]).T, 30, axis=1)) for f1 in ([1, 3, 2], [3, 4, 3, 4, 5]))
    found = judge(first, second)
    reference = stats.ttest_ind([0.6, 0.8, 0.6, 0.8, 1.0], [0.2, 0.6, 0.4], equal_var=False)
    interval = reference.confidence_interval(0.95)
    expected = reference.pvalue, interval.low, interval.high, reference.df
    assert (found.p, found.low, found.high, found.df) == pytest.approx(expected)
    assert found.se_posts == pytest.approx(0, abs=1e-9)


def test_variance_is_that_of_a_two_way_layout():
    # Posts of one size: the variance of the grand mean of posts x runs, both random, is (MS_p + MS_r - MS_e) / (k n).
    rng = np.random.default_rng(3)
    k, n = 4, 50
    values = np.clip(rng.integers(0, 5, n) + rng.integers(0, 2, (k, n)) + rng.integers(-1, 2, (k, 1)), 0, 5)
    x = values / 5
    posts, runs = x.mean(axis=0), x.mean(axis=1)
    ms_posts, ms_runs = k * posts.var(ddof=1), n * runs.var(ddof=1)
    ms_error = ((x - posts - runs[:, None] + x.mean()) ** 2).sum() / ((k - 1) * (n - 1))
    found = mean_f1(of_equal_size(values))
    assert found.se_posts**2 == pytest.approx((ms_posts - ms_error) / (k * n))
    assert found.se_seeds**2 == pytest.approx(ms_runs / (k * n))
    assert found.value == pytest.approx(x.mean())


@pytest.mark.parametrize("seed", range(20))
def test_seeds_never_make_a_claim_stronger(seed):
    rng = np.random.default_rng(seed)
    hard = rng.integers(0, 4, 30)  # posts of one size, where the mean of F1 is F1 of the mean
    first, second = (of_equal_size(hard + rng.integers(0, 2 + better, (3, 30))) for better in (0, 1))
    both = judge(first, second)
    posts = judge(first.mean(axis=0, keepdims=True), second.mean(axis=0, keepdims=True))
    assert both.value == pytest.approx(posts.value)
    assert both.p >= posts.p * (1 - 1e-9)
    assert both.low <= posts.low + 1e-12
    assert both.high >= posts.high - 1e-12


def test_order_of_posts_runs_and_systems():
    first, second = drawn(1, 3, 50), drawn(2, 4, 50, 0.8)
    found, mirrored = judge(first, second), judge(second, first)
    assert (mirrored.value, mirrored.low, mirrored.high, mirrored.p) == pytest.approx(
        (-found.value, -found.high, -found.low, found.p)
    )
    order = np.random.default_rng(0).permutation(50)
    assert judge(first[::-1][:, order], second[[2, 0, 3, 1]][:, order]) == pytest.approx(found)


def test_p_and_interval_are_one_method():
    for seed in range(12):
        first, second = drawn(seed, 3, 60), drawn(seed + 50, 3, 60, 0.74)
        found = judge(first, second)
        edge = judge(first, second, confidence=1 - found.p)  # the interval that just touches 0
        assert min(abs(edge.low), abs(edge.high)) == pytest.approx(0, abs=1e-9)


def test_more_runs_and_more_posts_narrow_it():
    def width(runs, posts):
        found = judge(drawn(1, runs, posts), drawn(2, runs, posts))
        return found.high - found.low

    assert width(10, 100) < width(3, 100)
    assert width(10, 1000) < width(10, 100)


def test_one_run_of_a_system_adds_no_seeds_of_it():
    one, several = drawn(1, 1, 60), drawn(2, 3, 60)
    found = judge(one, several)
    alone = judge(one, several.mean(axis=0, keepdims=True))
    assert found.se_seeds**2 == pytest.approx(f1_of(several.sum(axis=1)).var(ddof=1) / 3)
    assert np.isnan(alone.se_seeds)
    assert found.high - found.low > alone.high - alone.low


def test_intervals_end_where_scores_end():
    nearly = drawn(5, 2, 12, quality=0.95, spread=0.2)
    found = mean_f1(nearly, confidence=0.999)
    assert 0 <= found.low < found.value < found.high <= 1
    assert -1 <= judge(nearly, drawn(6, 2, 12, 0.2, 0.3), confidence=0.999).low


def test_systems_that_agree_and_systems_too_alike_to_be_tested():
    same = drawn(1, 2, 20)
    assert judge(same[:1], same[:1]) == pytest.approx((0, 0, 0, 1, np.nan, 0, np.nan), nan_ok=True)
    # All right against all wrong: no post moves either score, so there is nothing to reckon a variance from.
    right, wrong = of_equal_size([[5] * 9]), of_equal_size([[0] * 9])
    found = judge(wrong, right)
    assert found == pytest.approx((1, *[np.nan] * 6), nan_ok=True)
    assert np.isnan(judge(same[:, :1], same[::-1, :1]).p)  # one post
    assert np.isnan(judge(np.zeros((2, 9, 3)), np.zeros((2, 9, 3))).value)  # nothing gold, nothing predicted


def test_counts_of_other_posts_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 20, 3\) and \(2, 19, 3\)"):
        judge(drawn(1, 2, 20), drawn(1, 2, 19))
    with pytest.raises(ValueError, match="runs, posts, 3"):
        judge(drawn(1, 2, 20)[0], drawn(1, 2, 20)[0])
