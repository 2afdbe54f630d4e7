"""Posts as spaCy learns from them."""

from __future__ import annotations

from typing import Any

from spacy.tokens import Doc, Span
from spacy.training import Example


def example_of(nlp: Any, record: dict[str, Any]) -> Example:
    """A post with its entities."""
    gold = Doc(nlp.vocab, words=record["words"])
    spans, start, type_ = [], None, ""
    for place, tag in enumerate([*record["tags"], "O"]):
        if start is not None and not (tag.startswith("I-") and tag[2:] == type_):
            spans.append(Span(gold, start, place, label=type_))
            start = None
        if tag != "O" and start is None:
            start, type_ = place, tag[2:]
    gold.set_ents(spans)
    return Example(Doc(nlp.vocab, words=record["words"]), gold)
