"""A post as it is read from a file, and what is known of a list of them: fingerprint, nested random parts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")


@dataclass(frozen=True, slots=True)
class Example:
    """One post.

    Attributes:
        id: The post's id, unique in its file.
        image_id: Names the image and the texts derived from it; None where a post has no image.
        words: The words, as the file splits them.
        tags: One BIO tag a word, or None where gold is unknown.
        context: Texts that accompany the post (captions, object tags, knowledge), in order of their sources.
        more_images: The ids of further images, where a post has several.

    >>> Example("1", "a", ("Oslo",), more_images=("b",)).image_ids
    ('a', 'b')
    """

    id: str
    image_id: str | None
    words: tuple[str, ...]
    tags: tuple[str, ...] | None = None
    context: tuple[str, ...] = ()
    more_images: tuple[str, ...] = ()

    @property
    def image_ids(self) -> tuple[str, ...]:
        """The ids of all its images, `image_id` first."""
        return () if self.image_id is None else (self.image_id, *self.more_images)


class Posts(list[Example]):
    """The posts of one file; their tags are IOB2.

    Args:
        posts: The posts.
        scheme: The tag scheme that the file is in: IOB2, IOB1, IOBES or BILOU.
        format: The format that it is in, by its name in `mner.data.formats.posts`.
        notes: What was found in it that had to be decided, with counts, a line each.
    """

    def __init__(
        self, posts: Iterable[Example] = (), scheme: str = "IOB2", format: str = "", notes: Iterable[str] = ()
    ) -> None:
        super().__init__(posts)
        self.scheme = scheme
        self.format = format
        self.notes = tuple(notes)


def fingerprint(examples: Iterable[Example]) -> str:
    """The first 16 hexadecimal digits of SHA-256 over each post's id and tags, in file order.

    Words are left out, so that a copy with other white space or entities of HTML keeps the name of its labels.

    >>> fingerprint([Example("1", "1", ("Oslo",), ("B-LOC",))])
    '964a74020ba0a284'
    """
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps([example.id, example.tags]).encode() + b"\n")
    return digest.hexdigest()[:16]


Item = TypeVar("Item")


def nested_subset(posts: Sequence[Item], fraction: float, seed: int = 0) -> list[Item]:
    """A random part of the posts, in file order; of one seed each larger part holds all smaller ones.

    Args:
        posts: All posts.
        fraction: The share to keep, over 0 and up to 1, rounded to a number of posts, at least one.
        seed: Seed of the draw.

    >>> quarter, half = nested_subset("abcdefgh", 0.25), nested_subset("abcdefgh", 0.5)
    >>> len(quarter), len(half), set(quarter) <= set(half)
    (2, 4, True)
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"Expected argument `fraction` over 0 and up to 1, but got {fraction}")
    order = np.random.default_rng(seed).permutation(len(posts))
    return [posts[place] for place in sorted(order[: max(1, round(fraction * len(posts)))])]
