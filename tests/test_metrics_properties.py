"""Labels and `SpanF1` against seqeval on random tags; cutting into batches changes nothing."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2

from mner.labels import Span, bio_labels, repair, spans, stray_insides, tags_of
from mner.metrics import SpanF1

LABELS = bio_labels(["PER", "LOC", "geo-loc"])
SCORES = {"precision": precision_score, "recall": recall_score, "f1": f1_score}


@st.composite
def entities(draw: st.DrawFn) -> tuple[list[Span], int]:
    """Entities that do not overlap, and the number of words."""
    found, place = [], 0
    for gap, size, type_ in draw(
        st.lists(
            st.tuples(st.integers(0, 3), st.integers(1, 3), st.sampled_from(["PER", "LOC", "geo-loc"])), max_size=5
        )
    ):
        found.append(Span(place + gap, place + gap + size, type_))
        place += gap + size
    return found, place + draw(st.integers(0, 3))


@settings(max_examples=150, deadline=None)
@given(given=entities())
def test_tags_and_spans_are_each_others_inverse(given):
    found, length = given
    tags = tags_of(found, length)
    assert len(tags) == length
    assert spans(tags) == spans(tags, "strict") == found
    assert tags_of(spans(tags), length) == tags == repair(tags)
    assert stray_insides(tags) == []


index = st.integers(0, len(LABELS) - 1)
all_rows = st.lists(st.lists(st.tuples(index, index), min_size=1, max_size=7), min_size=1, max_size=6)


def padded(rows, side, fill, width):
    return torch.tensor([[pair[side] for pair in row] + [fill] * (width - len(row)) for row in rows])


def measured(rows, sizes, mode, fill):
    """A metric that saw the rows in batches of these sizes, each with padding of its own."""
    metric, start = SpanF1(LABELS, mode), 0
    for size in sizes:
        batch, start = rows[start : start + size], start + size
        if batch:
            width = max(map(len, batch)) + size % 2
            mask = torch.arange(width) < torch.tensor([len(row) for row in batch])[:, None]
            metric.update(padded(batch, 0, fill, width), padded(batch, 1, 0, width), mask)
    return metric


@pytest.mark.parametrize("mode", ["lenient", "strict"])
@settings(max_examples=50, deadline=None)
@given(rows=all_rows, sizes=st.lists(st.integers(1, 3), min_size=6, max_size=6), fill=st.sampled_from([0, 3, -100, 99]))
def test_scores_are_those_of_seqeval_however_cut(mode, rows, sizes, fill):
    whole, parts = measured(rows, [len(rows)], mode, 0), measured(rows, sizes, mode, fill)
    for name in ("tp", "fp", "fn"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))
    scores = parts.compute()
    pred, gold = ([[LABELS[pair[side]] for pair in row] for row in rows] for side in (0, 1))
    options = {"mode": "strict", "scheme": IOB2} if mode == "strict" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no entities at all: 0 in both
        for name, function in SCORES.items():
            expected = function(gold, pred, zero_division=0, **options)
            assert scores[name].item() == pytest.approx(expected, abs=1e-6)
