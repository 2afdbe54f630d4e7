"""What travels from the data to the model: a padded batch of posts."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from torch import Tensor


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
    labels: tuple[str, ...]  # what `tags` count; absent where nobody says
    tokenizer: str  # fingerprint of what made the word pieces; absent where nobody says
