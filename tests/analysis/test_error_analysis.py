import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mner.analysis import errors
from mner.analysis.error_analysis import KINDS, pair_up
from mner.labels import Span, spans
from tests.analysis_posts import post, random_posts

POSTS = [
    post("Kim/B-PER met New/B-LOC York/I-LOC", "Kim/B-PER met New/B-LOC York", "1"),  # correct, wrong boundary
    post("Fox/B-ORG and Fox/B-ORG", "Fox/B-PER and Fox/B-PER", "2"),  # wrong type, twice
    post("fox/B-ORG ran home", "fox ran home/B-LOC", "3"),  # missed, spurious
    post("The/B-ORG Who/I-ORG sang", "The Who/B-PER sang/I-PER", "4"),  # boundary and type
]


def test_each_kind_of_error_by_hand():
    kinds = errors(POSTS).kinds
    assert kinds["all"].to_dict() == {
        "correct": 1, "wrong type": 2, "wrong boundary": 1, "wrong boundary and type": 1, "missed": 1, "spurious": 1
    }  # fmt: skip
    assert kinds.loc["wrong type", "ORG"] == 2
    assert kinds.loc["spurious", "LOC"] == 1
    assert kinds.loc["missed", "ORG"] == 1


def test_confusion_surfaces_and_listing():
    found = errors(POSTS)
    assert found.confusion.loc["ORG", "PER"] == 3
    assert found.confusion.loc["ORG", "(none)"] == 1
    assert found.confusion.loc["(none)", "LOC"] == 1
    assert found.surfaces.iloc[0].to_dict() == {
        "kind": "wrong type", "gold": "fox", "gold_type": "ORG", "predicted": "fox", "predicted_type": "PER", "count": 2
    }  # fmt: skip
    missed = found.listing[found.listing["kind"] == "missed"].iloc[0]
    assert (missed["post"], missed["gold"], missed["predicted"], missed["text"]) == ("3", "fox", "", "fox ran home")


def test_best_partner_first():
    # The predicted PER overlaps both; it belongs to the gold entity with its type, the other is missed.
    pairs = pair_up([Span(0, 1, "ORG"), Span(1, 3, "PER")], [Span(0, 3, "PER")])
    assert [(pair.kind, pair.gold) for pair in pairs] == [
        ("missed", Span(0, 1, "ORG")), ("wrong boundary", Span(1, 3, "PER"))
    ]  # fmt: skip
    # Of two candidates of one kind the one with more words in common.
    pairs = pair_up([Span(0, 4, "PER")], [Span(0, 1, "PER"), Span(1, 4, "PER")])
    assert [(pair.kind, pair.pred) for pair in pairs] == [
        ("spurious", Span(0, 1, "PER")), ("wrong boundary", Span(1, 4, "PER"))
    ] or [pair.pred for pair in pairs if pair.kind == "wrong boundary"] == [Span(1, 4, "PER")]  # fmt: skip


TAGS = st.lists(st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]), min_size=8, max_size=8)


@settings(max_examples=100, deadline=None)
@given(TAGS, TAGS)
def test_every_entity_stands_in_one_pair(gold_tags, pred_tags):
    gold, pred = spans(gold_tags), spans(pred_tags)
    pairs = pair_up(gold, pred)
    assert sorted(pair.gold for pair in pairs if pair.gold) == gold
    assert sorted(pair.pred for pair in pairs if pair.pred) == pred
    for pair in pairs:
        assert (pair.kind == "correct") == (pair.gold == pair.pred)
        if pair.kind in ("wrong type", "wrong boundary", "wrong boundary and type"):
            assert min(pair.gold.end, pair.pred.end) > max(pair.gold.start, pair.pred.start)
    assert {pair for pair in pairs if pair.kind == "correct"} == {p for p in pairs if p.gold in set(pred)}


def test_kinds_add_up_to_gold_and_predicted():
    posts = random_posts(40, seed=7)
    kinds = errors(posts).kinds["all"]
    assert kinds.drop("spurious").sum() == sum(len(spans(p.gold)) for p in posts)
    assert kinds.drop("missed").sum() == sum(len(spans(p.pred)) for p in posts)
    assert set(kinds.index) == set(KINDS)


def test_calibration_by_hand():
    posts = [post("a/B-PER b/B-PER c", "a/B-PER b/B-LOC c/B-LOC", scores=(0.95, 0.91, 0.1))]
    found = errors(posts)
    assert found.calibration.index.tolist() == ["0-0.1", "0.9-1"]
    assert found.calibration["entities"].tolist() == [1, 2]
    assert found.calibration["confidence"].tolist() == pytest.approx([0.1, 0.93])
    assert found.calibration["correct"].tolist() == [0, 0.5]
    assert found.calibration_error == pytest.approx((0.1 + 2 * 0.43) / 3)


def test_no_scores_no_calibration():
    found = errors([post("a/B-PER", "a/B-PER", scores=(None,))])
    assert found.calibration is None
    assert found.calibration_error is None
    assert found.listing.empty
    assert found.surfaces.empty
