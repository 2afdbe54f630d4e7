"""A small run of benchmarks/level_and_coverage.py: the verdict keeps its level and covers, the older tests do not."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mner.analysis import judge, paired_t, randomisation_test
from mner.analysis.comparison import post_f1
from mner.analysis.scoring import f1_of

TRIALS = 400
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def script(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its annotations are read by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def simulation():
    yield script("level_and_coverage")
    sys.modules.pop("level_and_coverage")


def percent(level, sides=4):
    """What counts of `TRIALS` stay within `sides` standard deviations of a level, in percent."""
    reach = sides * 100 * (level / 100 * (1 - level / 100) / TRIALS) ** 0.5
    return level - reach, level + reach


@pytest.mark.parametrize(("runs", "sd"), [(3, 0.0), (3, 1.5), (5, 0.5), (5, 3.0)])
def test_level_and_coverage(simulation, runs, sd):
    level, coverage, swapped, posts, power, *_ = simulation.cell(np.random.default_rng(1), TRIALS, 300, runs, sd)
    assert percent(4)[0] <= level <= percent(5.5)[1]
    assert percent(94.5)[0] <= coverage <= percent(96)[1]
    assert power > level
    assert posts > 15  # equal F1, unlike mean F1 of a post: the paper's test finds "a difference"
    if sd >= 1.5:
        assert swapped > 15  # takes the runs as the only ones


def test_one_run_is_about_that_run(simulation):
    rng = np.random.default_rng(2)
    assert percent(4)[0] <= simulation.cell(rng, TRIALS, 300, 1, 0.0)[0] <= percent(5.5)[1]
    assert simulation.cell(rng, TRIALS, 300, 1, 1.5)[0] > 15


def test_unlike_numbers_of_runs(simulation):
    kinds = (simulation.PRECISE, 3), (simulation.COMPLETE, 10)
    systems = [simulation.System(kind, 0.84, 1.5, runs) for kind, runs in kinds]
    wrong = [simulation.shipped(*pair) for pair in simulation.trials(np.random.default_rng(3), TRIALS, 300, systems)]
    assert percent(4)[0] <= 100 * np.mean(wrong) <= percent(6)[1]


@pytest.mark.parametrize("kind", ["PRECISE", "COMPLETE", "PLAIN"])
def test_simulated_systems_have_the_f1_that_they_should(simulation, kind):
    # 400 runs on 2,000 posts: the mean is F1 of the system, the spread that of the seeds and a little of the posts.
    system = simulation.System(getattr(simulation, kind), 0.84, 3.0, 1)
    f1 = [f1_of(runs[0].sum(0)) for (runs,) in simulation.trials(np.random.default_rng(4), 400, 2000, [system])]
    assert np.mean(f1) == pytest.approx(0.84, abs=4 * 0.031 / 20)
    assert 0.027 <= np.std(f1) <= 0.036
    (counts,) = next(simulation.trials(np.random.default_rng(5), 1, 20_000, [system._replace(sd=0.0)]))
    correct, predicted, gold = counts[0].sum(0)
    assert gold == counts[0, :, 2].sum()
    assert (counts[0, :, 0] <= counts[0, :, 1:].min(axis=1)).all()
    assert {"PRECISE": correct / predicted > 0.9, "COMPLETE": correct / gold > 0.87, "PLAIN": True}[kind]


def test_old_tests_of_the_simulation_are_the_librarys(simulation):
    rng = np.random.default_rng(6)
    kinds = [simulation.System(kind, 0.84, 0.5, 1) for kind in (simulation.PRECISE, simulation.COMPLETE)]
    pairs = np.stack([np.concatenate([one[0], two[0]], axis=1) for one, two in simulation.trials(rng, 6, 300, kinds)])
    posts = simulation.over_posts(pairs.astype(np.float32))
    swapped = simulation.randomisation(pairs.astype(np.float32), rng, swaps=4000)
    for pair, over_posts, randomised in zip(pairs, posts, swapped, strict=True):
        one, two = pair[:, :3], pair[:, 3:]
        assert over_posts == pytest.approx(paired_t(post_f1(one), post_f1(two)).p, rel=1e-3)
        expected = randomisation_test(one, two, f1_of, 4000).p
        assert randomised == pytest.approx(expected, abs=5 * (2 * expected * (1 - expected) / 4000) ** 0.5 + 1e-3)


def test_seeds_alone_is_scipys_welch_test(simulation):
    runs = [np.array([[[n, 10, 10]] * 5 for n in of]) for of in ((4, 5, 6), (7, 8, 9))]
    expected = stats.ttest_ind([0.7, 0.8, 0.9], [0.4, 0.5, 0.6], equal_var=False).pvalue
    assert simulation.over_seeds(*runs) == (expected <= 0.05)


def test_what_a_table_says_holds_the_verdict(simulation):
    """A table has the interval over posts and the spreads only; what is reckoned from it must not be surer."""
    bounds = script("verdict_from_table").bounds
    kinds = [simulation.System(kind, f1, 0.5, 3) for kind, f1 in ((simulation.PRECISE, 0.84), (simulation.PLAIN, 0.86))]
    for one, two in simulation.trials(np.random.default_rng(7), 30, 500, kinds):
        found = judge(one, two)
        alone = judge(one.mean(0, keepdims=True), two.mean(0, keepdims=True))
        spreads = [100 * f1_of(runs.sum(1)).std(ddof=1) for runs in (one, two)]
        half = 100 * stats.norm.ppf(0.975) * alone.se_posts
        reach, least, largest = bounds(100 * found.value, -half, half, *spreads, posts=500, runs=3)
        assert reach >= 100 * (found.high - found.low) / 2 * 0.999
        assert least * 0.98 <= found.p <= largest * 1.02
    sys.modules.pop("verdict_from_table")
