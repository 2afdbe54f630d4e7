import math

import numpy as np
import pytest
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2

from mner.analysis import errors, score
from mner.analysis.scoring import averaged_counts, marked, post_counts, score_frame, surface
from mner.data.formats.predictions import Prediction
from mner.labels import Span
from tests.analysis_posts import post, random_posts, run


def test_score_of_a_post_counted_by_hand():
    # Gold: Kim PER, New York LOC. Predicted: Kim PER, New LOC, met ORG.
    table = score([post("Kim/B-PER met New/B-LOC York/I-LOC", "Kim/B-PER met/B-ORG New/B-LOC York")], resamples=0)
    assert table.loc[("lenient", "all")].to_dict() == pytest.approx(
        {"gold": 2, "predicted": 3, "correct": 1, "precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5}
    )
    assert table.loc[("lenient", "PER"), "f1"] == 1
    assert table.loc[("lenient", "ORG"), ["gold", "predicted"]].tolist() == [0, 1]
    assert math.isnan(table.loc[("lenient", "ORG"), "recall"])


def test_score_equals_seqeval_in_both_modes():
    posts = random_posts(60, seed=1)
    gold, pred = [list(p.gold) for p in posts], [list(p.pred) for p in posts]
    table = score(posts, resamples=0)
    for mode, options in (("lenient", {}), ("strict", {"mode": "strict", "scheme": IOB2})):
        for name, reference in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
            assert table.loc[(mode, "all"), name] == pytest.approx(reference(gold, pred, **options))
        by_type = f1_score(gold, pred, average=None, **options)
        assert table.loc[mode].drop("all")["f1"].tolist() == pytest.approx(by_type.tolist())
    assert table.loc[("lenient", "all"), "gold"] > table.loc[("strict", "all"), "gold"]


def test_interval_holds_the_score_and_narrows_with_posts():
    few, many = (score(random_posts(count, seed=2), resamples=300).loc[("lenient", "all")] for count in (30, 300))
    for row in (few, many):
        assert row["f1_low"] < row["f1"] < row["f1_high"]
    assert many["f1_high"] - many["f1_low"] < 0.6 * (few["f1_high"] - few["f1_low"])


def test_several_runs_are_averaged_post_by_post():
    one, two = random_posts(20, seed=1), random_posts(20, seed=2)
    both = averaged_counts([run(one), run(two)], "lenient", lambda posts: {"all": post_counts(posts)})["all"]
    assert both.tolist() == ((post_counts(marked(one)) + post_counts(marked(two))) / 2).tolist()
    assert score([one, two], resamples=0).loc[("lenient", "all"), "gold"] == score(one, resamples=0)["gold"].iloc[0]


def test_runs_on_other_posts_are_refused():
    with pytest.raises(ValueError, match="same posts"):
        score([random_posts(5, seed=1), random_posts(5, seed=1, gold_seed=9)])


def test_group_without_anything_has_no_score():
    table = score_frame({"none": np.zeros((4, 3), dtype=int)}, resamples=20)
    assert table[["precision", "recall", "f1", "f1_low"]].isna().all(axis=None)


def test_surface_is_case_folded():
    assert surface(["STRASSE", "Nord"], Span(0, 2, "LOC")) == surface(["straße", "nord"], Span(0, 2, "LOC"))


@pytest.mark.parametrize(
    ("posts", "message"),
    [
        ([], "at least one"),
        ([Prediction("7", None, ("a",), None, ("O",))], "post '7' has none"),
        ([Prediction("7", None, ("a", "b"), ("O",), ("O", "O"))], "2 words, 1 gold and 2 predicted"),
    ],
)
def test_posts_that_cannot_be_scored(posts, message):
    with pytest.raises(ValueError, match=message):
        score(posts)


@pytest.mark.parametrize("analysis", [score, errors])
def test_types_named_as_rows_of_tables_are_refused(analysis):
    with pytest.raises(ValueError, match="row `all`"):
        analysis([post("Kim/B-PER ran", "Kim/B-all ran")])
