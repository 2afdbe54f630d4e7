from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from mner.analysis import bootstrap_interval, holm, paired_t, randomisation_test
from mner.analysis.comparison import f1_difference, post_f1
from mner.analysis.resampling import CELLS, _blocks, bootstrap_distribution
from mner.analysis.scoring import f1_of


def counts_of(rng, posts, quality=0.7):
    gold = rng.integers(0, 4, posts)
    found = rng.binomial(gold, quality)
    return np.stack([found, found + rng.binomial(2, 0.2, posts), gold], axis=1)


def by_hand_p(one, two):
    """The exact two-sided p over all 2**n swaps, by the definition."""
    seen = abs(f1_of(two.sum(0)) - f1_of(one.sum(0)))
    large = 0
    for swaps in product([False, True], repeat=len(one)):
        first = np.where(np.array(swaps)[:, None], two, one).sum(0)
        second = np.where(np.array(swaps)[:, None], one, two).sum(0)
        large += abs(f1_of(second) - f1_of(first)) >= seen - 1e-12
    return large / 2 ** len(one)


def test_paired_t_equals_scipy():
    rng = np.random.default_rng(0)
    one = rng.normal(0.7, 0.1, 9)
    two = one + rng.normal(0.03, 0.05, 9)
    found, reference = paired_t(one, two), stats.ttest_rel(two, one)
    interval = reference.confidence_interval(0.95)
    assert (found.t, found.p) == pytest.approx((reference.statistic, reference.pvalue))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.dz == pytest.approx(found.t / 3)  # t = dz * sqrt(pairs)
    assert found.difference == pytest.approx((two - one).mean())


def test_paired_t_takes_any_numbers():
    one, two = np.array([5, 6, 9], np.uint8), np.array([4, 7, 3], np.uint8)
    assert paired_t(one, two) == paired_t([5.0, 6.0, 9.0], [4.0, 7.0, 3.0])
    assert paired_t([False, True, True], [True, True, False]).difference == 0


def test_paired_t_at_its_edges():
    same = paired_t([0.5, 0.6], [0.5, 0.6])
    assert same == (0, 0, 0, 0, 1, 0, 2)  # nothing differs: no difference, for certain
    assert paired_t([0.0, 1.0], [0.25, 1.25]) == (0.25, 0.25, 0.25, np.inf, 0, np.inf, 2)
    assert paired_t([0.25, 1.25], [0.0, 1.0]) == (-0.25, -0.25, -0.25, -np.inf, 0, -np.inf, 2)
    one = paired_t([0.5], [0.75])
    assert (one.difference, one.pairs) == (0.25, 1)
    assert np.isnan([one.low, one.high, one.t, one.p, one.dz]).all()
    none = paired_t([], [])
    assert none.pairs == 0
    assert np.isnan(none[:-1]).all()
    with pytest.raises(ValueError, match="paired"):
        paired_t([0.5], [0.6, 0.7])


def test_f1_of_a_post_with_nothing_to_find():
    assert post_f1(np.array([[0, 0, 0], [0, 1, 0], [1, 1, 2]])).tolist() == pytest.approx([1, 0, 2 / 3])


@pytest.mark.parametrize("seed", range(5))
def test_randomisation_is_exact_on_few_posts(seed):
    rng = np.random.default_rng(seed)
    one, two = counts_of(rng, 7, 0.8), counts_of(rng, 7, 0.4)
    two[:, 2] = one[:, 2]
    two[:, 0] = np.minimum(two[:, 0], two[:, 2])
    found = randomisation_test(one, two, f1_of)
    assert found.exact
    assert found.p == pytest.approx(by_hand_p(one, two))
    assert found.difference == pytest.approx(float(f1_of(two.sum(0)) - f1_of(one.sum(0))))


def test_sampled_randomisation_comes_near_the_exact_p():
    rng = np.random.default_rng(1)
    one, two = counts_of(rng, 12, 0.7), counts_of(rng, 12, 0.6)
    exact = randomisation_test(one, two, f1_of, resamples=5000)
    sampled = randomisation_test(one, two, f1_of, resamples=2000)
    assert exact.exact
    assert not sampled.exact
    assert sampled.p == pytest.approx(exact.p, abs=4 * (exact.p * (1 - exact.p) / 2000) ** 0.5 + 1e-3)


def test_randomisation_equals_scipys_permutation_test():
    rng = np.random.default_rng(5)
    one, two = counts_of(rng, 8, 0.9), counts_of(rng, 8, 0.5)

    def difference(first, second, axis):
        # scipy permutes indices of posts between the two; each system's counts lie at i and i + 8.
        both = np.concatenate([one, two])
        return f1_of(both[second.astype(int)].sum(axis=-2)) - f1_of(both[first.astype(int)].sum(axis=-2))

    reference = stats.permutation_test(
        (np.arange(8.0), np.arange(8.0) + 8),
        difference,
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    )
    assert randomisation_test(one, two, f1_of).p == pytest.approx(reference.pvalue)


def test_swaps_are_drawn_by_the_seed():
    rng = np.random.default_rng(1)
    one, two = counts_of(rng, 40, 0.7), counts_of(rng, 40, 0.6)
    p = [randomisation_test(one, two, f1_of, 500, seed).p for seed in (0, 0, 1, 2, 3)]
    assert p[0] == p[1]
    assert len(set(p)) > 1
    assert randomisation_test(one, two, f1_of, 500).p == p[0]
    assert bootstrap_interval(one, f1_of, resamples=50) == bootstrap_interval(one, f1_of, resamples=50, seed=0)
    assert bootstrap_interval(one, f1_of, resamples=50) != bootstrap_interval(one, f1_of, resamples=50, seed=1)


def test_systems_that_agree_are_not_different():
    one = counts_of(np.random.default_rng(0), 10)
    assert randomisation_test(one, one.copy(), f1_of) == (0.0, 1.0, True)
    with pytest.raises(ValueError, match="same posts"):
        randomisation_test(one, one[:-1], f1_of)


def test_randomisation_holds_its_level():
    # Systems drawn from one distribution: p <= .1 in about 10 % of the trials (4 sd of 200 trials: 8.5 %).
    rng = np.random.default_rng(2)
    p = [randomisation_test(counts_of(rng, 60), counts_of(rng, 60), f1_of, resamples=199).p for _ in range(200)]
    assert 0.02 <= np.mean(np.array(p) <= 0.1) <= 0.185


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_interval_equals_scipys(method):
    rng = np.random.default_rng(3)
    both = np.hstack([counts_of(rng, 80, 0.6), counts_of(rng, 80, 0.8)])

    def statistic(index, axis):
        return f1_difference(both[index.astype(int)].sum(axis=-2))

    reference = stats.bootstrap(
        (np.arange(80.0),), statistic, method=method, n_resamples=4000, vectorized=True, rng=np.random.default_rng(9)
    ).confidence_interval
    low, high = bootstrap_interval(both, f1_difference, method=method, resamples=4000)
    # Two independent draws: the ends differ by their Monte Carlo error only.
    width = reference.high - reference.low
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=0.06 * width)


@pytest.mark.parametrize("quality", [0.5, 0.95])
def test_corrected_interval_is_scipys_on_the_same_samples(quality):
    # F1 of 15 posts is skew, so that both corrections matter.
    counts = counts_of(np.random.default_rng(8), 15, quality)
    drawn = bootstrap_distribution(counts, f1_of, 3000, seed=2)

    def statistic(index, axis):
        return f1_of(counts[index.astype(int)].sum(axis=-2))

    reference = stats.bootstrap(
        (np.arange(15.0),),
        statistic,
        confidence_level=0.9,
        method="BCa",
        n_resamples=0,
        bootstrap_result=SimpleNamespace(bootstrap_distribution=drawn),
        vectorized=True,
    ).confidence_interval
    found = bootstrap_interval(counts, f1_of, 0.9, 3000, seed=2)
    assert found == pytest.approx((reference.low, reference.high), rel=1e-9)


def test_percentiles_of_several_numbers_are_those_of_each():
    counts = counts_of(np.random.default_rng(9), 30)
    low, high = bootstrap_interval(counts, lambda totals: totals[..., :2], 0.8, 500, "percentile", seed=3)
    drawn = bootstrap_distribution(counts, lambda totals: totals, 500, seed=3)
    for number in (0, 1):
        assert (low[number], high[number]) == pytest.approx(tuple(np.percentile(drawn[:, number], [10, 90])))


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_interval_covers_the_true_f1(method):
    # 200 data sets of 80 posts from one distribution; 4 sd of the coverage of 90 % are 8.5 %.
    rng = np.random.default_rng(4)
    truth = f1_of(counts_of(rng, 200_000).sum(axis=0))
    hits = 0
    for trial in range(200):
        low, high = bootstrap_interval(counts_of(rng, 80), f1_of, 0.9, 400, method, seed=trial)
        hits += low <= truth <= high
    assert 0.82 <= hits / 200 <= 0.985


def test_bootstrap_draws_each_post_as_often():
    drawn = bootstrap_distribution(np.eye(5), lambda totals: totals, 2000)  # (2000, 5): how often each was drawn
    assert (drawn.sum(axis=1) == 5).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(5), abs=0.1)
    assert drawn.var(axis=0) == pytest.approx(np.full(5, 0.8), abs=0.15)


def test_bootstrap_at_its_edges():
    one_post = np.array([[1, 1, 1]])
    assert np.isnan(bootstrap_interval(one_post, f1_of)).all()
    perfect = np.array([[2, 2, 2]] * 6)
    assert bootstrap_interval(perfect, f1_of, resamples=50) == (1, 1)
    # Posts without entities leave some resamples without a score.
    sparse = np.array([[0, 0, 0]] * 5 + [[1, 1, 2]])
    low, high = bootstrap_interval(sparse, f1_of, resamples=200)
    assert (low, high) == pytest.approx((2 / 3, 2 / 3))
    with pytest.raises(ValueError, match="one number"):
        bootstrap_interval(np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1]]), lambda totals: totals, method="bca")


@pytest.mark.parametrize("beyond", [1, -1])
def test_samples_all_on_one_side_have_no_correction(beyond):
    """Where every sample is above (or below) the number seen, its bias cannot be told: percentiles are taken."""
    counts = counts_of(np.random.default_rng(0), 8)
    seen = float(f1_of(counts.sum(axis=0)))
    drawn = {seed: bootstrap_distribution(counts, f1_of, 2, seed) for seed in range(200)}
    seed = next(seed for seed, both in drawn.items() if (beyond * both > beyond * seen).all() and both[0] != both[1])
    found = bootstrap_interval(counts, f1_of, 0.9, 2, "bca", seed)
    assert found == pytest.approx(tuple(np.percentile(drawn[seed], [5, 95])))


def test_large_inputs_are_done_in_blocks():
    assert list(_blocks(10, CELLS // 4)) == [4, 4, 2]
    assert list(_blocks(3, 10 * CELLS)) == [1, 1, 1]


def test_holm_by_hand():
    # Sorted .005, .01, .03, .04 times 4, 3, 2, 1, never below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []
    with_gap = holm([0.01, float("nan"), 0.02])
    assert with_gap[::2] == pytest.approx([0.02, 0.02])
    assert np.isnan(with_gap[1])
