"""Between posts and the decoder: a post as sections, and what was found in them as the post's entities."""

from __future__ import annotations

from collections.abc import Sequence

from mner.tagger.image_processor import NOTHING
from mner.tagger.post import Entity, Tagged
from mner.tagger.preprocessor import Prepared
from mner.tagger.sections import Found, Section

SECTION = 10_000
"""Words that are decoded together; longer texts are cut."""


def sections_of(prepared: Sequence[Prepared]) -> list[Section]:
    """The sections of all posts, in order; each knows its post by number."""
    return [
        Section(number, post.words[start : start + SECTION], post.context, post.seen, post.object_names, post.relation)
        for number, post in enumerate(prepared)
        for start in range(0, len(post.words), SECTION)
    ]


def tagged_of(post: Prepared, found: Sequence[Found], min_score: float = 0.0) -> Tagged:
    """The entities of a post from what was found in its sections, and apart from them those below `min_score`."""
    entities: list[Entity] = []
    left_out: list[Entity] = []
    tags: list[str] = []
    for section in found:
        before = len(tags)
        tags += section.tags
        for start, end, type_, score in section.entities:
            start, end = before + start, before + end
            first, last = post.words[start].start, post.words[end - 1].end
            entity = Entity(post.text[first:last], type_, first, last, round(score, 6), start, end)
            if score < min_score:
                left_out.append(entity)
                tags[start:end] = ["O"] * (end - start)
            else:
                entities.append(entity)
    return Tagged(
        entities,
        text=post.text,
        words=post.words,
        tags=tags,
        has_image=post.seen is not NOTHING,
        image_problem=post.opened.problem,
        context=post.context,
        left_out=left_out,
    )
