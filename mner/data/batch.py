"""What travels: one post read from a file (`Example`), and a padded batch of them (`Batch`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Example:
    """One post.

    Attributes:
        id: The post's id, unique in its file.
        image_id: Names the image and the texts derived from it; None where a post has no image.
        words: The words, as the file splits them.
        tags: One BIO tag a word, or None where gold is unknown.
        context: Texts that accompany the post (captions, object tags, knowledge), in order of their sources.
    """

    id: str
    image_id: str | None
    words: tuple[str, ...]
    tags: tuple[str, ...] | None = None
    context: tuple[str, ...] = ()


class Batch(TypedDict, total=False):
    """A padded batch. b posts, t word pieces, w words, r image regions, f region width, s pixels. Masks are bool."""

    token_ids: Tensor  # (b, t) int64
    token_mask: Tensor  # (b, t) bool
    segment_ids: Tensor  # (b, t) int64, 0 for the post and 1 for its context
    word_starts: Tensor  # (b, w) int64, position of each word's first piece; 0 where padded
    word_mask: Tensor  # (b, w) bool
    tags: Tensor  # (b, w) int64, index into the labels; 0 where padded; absent where gold is unknown
    image: Tensor  # (b, 3, s, s) float32, zeros where there is no image
    regions: Tensor  # (b, r, f) stored features instead of `image`
    region_mask: Tensor  # (b, r) bool
    has_image: Tensor  # (b,) bool
    characters: Tensor  # (b, w, c) of `words`; absent where the model makes them itself
    words: list[tuple[str, ...]]
    id: list[str]
    image_id: list[str | None]
