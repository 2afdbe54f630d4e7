"""Labels, spans, repair and constraints, against seqeval and against each other."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2, Entities

from mner.labels import (
    Span,
    allowed_transitions,
    bio_labels,
    check_types,
    entity_types,
    repair,
    spans,
    split_tag,
    stray_insides,
    tags_of,
)

LABELS = bio_labels(["PER", "LOC"])
tag_rows = st.lists(st.sampled_from(LABELS), max_size=10)


def test_bio_labels_begin_with_o():
    assert LABELS == ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    assert entity_types(LABELS) == ["PER", "LOC"]
    assert entity_types(["O"]) == []


@pytest.mark.parametrize("types", [[], ["PER", "PER"], ["PER", ""]])
def test_types_must_be_distinct_names(types):
    with pytest.raises(ValueError, match="distinct, non-empty names"):
        bio_labels(types)


def test_split_tag():
    assert split_tag("B-PER") == ("B", "PER")
    assert split_tag("I-geo-loc") == ("I", "geo-loc")
    assert split_tag("O") == ("O", "")


@pytest.mark.parametrize("tag", ["", "B", "B-", "PER", "E-PER", "O-PER", "b-PER", "-PER", "BPER", "0"])
def test_what_is_no_bio_tag_is_refused(tag):
    with pytest.raises(ValueError, match="Expected a BIO tag"):
        split_tag(tag)
    with pytest.raises(ValueError, match="Expected a BIO tag"):
        spans(["O", tag])


@settings(max_examples=300, deadline=None)
@given(tags=tag_rows)
def test_lenient_spans_are_those_of_seqeval(tags):
    assert spans(tags) == [Span(start, end + 1, type_) for type_, start, end in get_entities(tags)]


@settings(max_examples=300, deadline=None)
@given(tags=tag_rows)
def test_strict_spans_are_those_of_seqeval(tags):
    expected = [Span(entity.start, entity.end, entity.tag) for entity in Entities([tags], IOB2).entities[0]]
    assert spans(tags, "strict") == expected


def test_spans_of_unknown_mode():
    with pytest.raises(ValueError, match="to be one of"):
        spans(["O"], mode="loose")


@settings(max_examples=200, deadline=None)
@given(tags=tag_rows)
def test_repair_keeps_the_lenient_entities_and_leaves_nothing_stray(tags):
    repaired = repair(tags)
    assert spans(repaired, "strict") == spans(repaired, "lenient") == spans(tags, "lenient")
    assert stray_insides(repaired) == []
    assert repair(repaired) == repaired
    assert tags_of(spans(tags), len(tags)) == repaired


@settings(max_examples=200, deadline=None)
@given(tags=tag_rows)
def test_stray_insides_are_the_entities_that_open_with_i(tags):
    opens = [span.start for span in spans(tags, "lenient") if tags[span.start].startswith("I-")]
    assert stray_insides(tags) == opens


@pytest.mark.parametrize("entities", [[Span(0, 0, "PER")], [Span(2, 4, "PER")], [Span(-1, 1, "PER")]])
def test_tags_of_spans_outside(entities):
    with pytest.raises(ValueError, match="within 3 words"):
        tags_of(entities, 3)


def test_tags_of_spans_that_overlap():
    with pytest.raises(ValueError, match=r"1\.\.3 \(LOC\) meets another"):
        tags_of([Span(0, 2, "PER"), Span(1, 3, "LOC")], 3)
    assert tags_of([Span(0, 2, "PER"), Span(2, 3, "PER")], 3) == ["B-PER", "I-PER", "B-PER"]


@pytest.mark.parametrize("labels", [LABELS, ["I-PER", "O", "B-LOC", "B-PER", "I-LOC"]])
def test_allowed_are_exactly_the_sequences_without_stray_tags(labels):
    start, follow = allowed_transitions(labels)
    for path in itertools.product(range(5), repeat=3):
        allowed = start[path[0]] and all(follow[a][b] for a, b in itertools.pairwise(path))
        assert allowed == (not stray_insides([labels[index] for index in path]))


@pytest.mark.parametrize(
    ("type_", "reason"),
    [
        ("all", "row `all`"), ("strict", "val/strict/f1"), ("strict/PER", "val/strict/f1"), ("(none)", r"row `\(none"),
        ("-", "seqeval"), ("--", "seqeval"), ("-PER", "seqeval"), ("PER-", "seqeval"),
    ],
)  # fmt: skip
def test_types_whose_scores_would_be_mixed_are_refused(type_, reason):
    with pytest.raises(ValueError, match="rename the type") as caught:
        bio_labels(["PER", type_])
    assert repr(type_) in str(caught.value)
    with pytest.raises(ValueError, match=reason):
        check_types([type_])


@pytest.mark.parametrize(
    ("type_", "reason"),
    [
        ("all", "tables of scores have a row `all` for all types together"),
        ("strict", "strict scores are logged as `val/strict/f1`, as F1 of such a type would be"),
        ("(none)", "tables of errors have a row `(none)` for what is missed or spurious"),
        ("-", "seqeval's strict mode drops a `-` at the ends of a type, so that scores of several would be mixed"),
    ],
)
def test_the_reason_is_told(type_, reason):
    with pytest.raises(ValueError, match="Expected types") as caught:
        check_types([type_])
    assert str(caught.value) == f"Expected types that scores can name, but got {type_!r}: {reason}; rename the type"


def test_seqeval_takes_the_refused_types_for_one():
    tags = [["B--", "O"], ["B---", "O"], ["B-PER-", "O"]]
    assert [entity.tag for row in Entities(tags, IOB2).entities for entity in row] == ["_", "_", "PER"]
