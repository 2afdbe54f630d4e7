import math
from itertools import pairwise

import pytest

from mner.analysis import learning_curve, nested_subsets, score
from tests.analysis_posts import post, random_posts, run


def test_subsets_are_nested_ordered_and_repeatable():
    fractions = (0.1, 0.25, 0.5, 1)
    subsets = nested_subsets(range(101), fractions, seed=3)
    assert [len(subsets[fraction]) for fraction in fractions] == [10, 25, 50, 101]
    for small, large in pairwise(fractions):
        assert set(subsets[small]) < set(subsets[large])
    assert all(part == sorted(part) for part in subsets.values())
    assert nested_subsets(range(101), [0.25], seed=3)[0.25] == subsets[0.25]
    assert nested_subsets(range(101), [0.25], seed=4)[0.25] != subsets[0.25]


def test_subset_is_never_empty_and_fractions_are_checked():
    assert len(nested_subsets("abc", [0.01])[0.01]) == 1
    for fraction in (0, 1.5):
        with pytest.raises(ValueError, match="fraction"):
            nested_subsets("abc", [fraction])


def test_curve_of_predictions_and_numbers():
    posts = random_posts(30, seed=1)
    f1 = score(posts, resamples=0)["f1"].iloc[0]
    perfect = [post("Kim/B-PER", "Kim/B-PER")]
    table = learning_curve({"text": {0.5: run(posts), 1: [0.5, 0.7]}, "captions": {1: [run(perfect), perfect]}})
    assert table.loc[("text", 0.5), "f1"] == pytest.approx(f1)
    assert math.isnan(table.loc[("text", 0.5), "sd"])
    assert table.loc[("text", 1), ["runs", "f1", "sd"]].tolist() == pytest.approx([2, 0.6, 0.02**0.5])
    assert table.loc[("captions", 1), ["runs", "f1", "sd", "gain"]].tolist() == pytest.approx([2, 1, 0, 0.4])


def test_curve_refuses_nothing_and_unknown_baselines():
    with pytest.raises(ValueError, match="at least one system"):
        learning_curve({})
    with pytest.raises(ValueError, match="baseline"):
        learning_curve({"text": {1: 0.5}}, baseline="captions")
    with pytest.raises(ValueError, match="at least one run"):
        learning_curve({"text": {1: []}})
