"""Labels damaged on purpose, so that what finds wrong labels can be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from mner.data.examples import Example
from mner.labels import Span, spans, tags_of

Kind = Literal["type", "edge", "missing"]
KINDS: tuple[Kind, ...] = ("type", "edge", "missing")


class Damage(NamedTuple):
    """A span before and after; None where it is gone."""

    id: str
    kind: Kind
    before: Span
    after: Span | None


def damage(posts: Sequence[Example], share: float = 0.1, seed: int = 0) -> tuple[list[Example], list[Damage]]:
    """Damage a share of all spans: a third get another type, a third an edge one word off, a third are gone.

    An edge goes out or in by a word, start or end, as it comes, where that neither meets another span nor leaves
    nothing; a span that has no such edge gets another type.

    Args:
        posts: The posts; those without gold stay as they are.
        share: Share of the spans.
        seed: Of the draw.

    Returns:
        The posts with these labels, and what was done.

    Raises:
        ValueError: If there is one type alone, so that there is no other.

    >>> posts = [Example("1", None, ("In", "Oslo"), ("O", "B-LOC")), Example("2", None, ("Ana",), ("B-PER",))]
    >>> damaged, done = damage(posts, share=0.5, seed=1)
    >>> done[0].id, done[0].kind, damaged[0].tags
    ('1', 'type', ('O', 'B-PER'))
    """
    random = np.random.default_rng(seed)
    found = [spans(post.tags or ()) for post in posts]
    types = sorted({span.type for some in found for span in some})
    if len(types) < 2:
        raise ValueError(f"Expected spans of two types or more, but got {types}")
    places = [(row, number) for row, some in enumerate(found) for number in range(len(some))]
    order = random.permutation(len(places))[: round(share * len(places))]
    done = []
    for count, place in enumerate(order.tolist()):
        row, number = places[place]
        before, kind = found[row][number], KINDS[count % len(KINDS)]
        edges = _edges(found[row], number, len(posts[row].words)) if kind == "edge" else []
        after: Span | None = None
        if edges:
            after = before._replace(**dict([edges[random.integers(len(edges))]]))
        elif kind != "missing":
            others = [type_ for type_ in types if type_ != before.type]
            kind, after = "type", before._replace(type=others[random.integers(len(others))])
        done.append(Damage(posts[row].id, kind, before, after))
        found[row][number] = after if after is not None else Span(0, 0, "")
    hit = {posts[places[place][0]].id for place in order.tolist()}
    damaged = [
        replace(post, tags=tuple(tags_of([span for span in some if span.type], len(post.words))))
        if post.id in hit
        else post
        for post, some in zip(posts, found, strict=True)
    ]
    return damaged, done


def _edges(of_post: Sequence[Span], number: int, words: int) -> list[tuple[str, int]]:
    """The edges that a span could have instead."""
    start, end, _ = of_post[number]
    others = {word for place, span in enumerate(of_post) if place != number for word in range(span.start, span.end)}
    moved = [("start", start - 1)] * (start > 0 and start - 1 not in others)
    moved += [("end", end + 1)] * (end < words and end not in others)
    if end - start > 1:
        moved += [("start", start + 1), ("end", end - 1)]
    return moved
