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
    word_ends: Tensor  # (b, w) int64, position behind each word's last piece; 0 where padded; absent where nobody says
    word_mask: Tensor  # (b, w) bool
    tags: Tensor  # (b, w) int64, index into the labels; 0 where padded; absent where gold is unknown
    image: Tensor  # (b, 3, s, s) float32, zeros where there is no image; (b, n, 3, s, s) where a post has several
    image_mask: Tensor  # (b, n) bool, beside `image` of five dimensions only
    regions: Tensor  # (b, r, f) stored features instead of `image`
    region_mask: Tensor  # (b, r) bool
    has_image: Tensor  # (b,) bool
    # Where the strategy `needs` them; see mner.data.inputs.
    region_boxes: Tensor  # (b, r, 4) float32: left, top, right, bottom in 0..1; zeros where there is no region
    region_scores: Tensor  # (b, r) float32; zeros where there is no region
    region_group: Tensor  # (b, r) int64, which of a post's images or crops; 0 where there is no region
    object_names: list[list[str]]  # of the regions, in their order, or of a text; r or more, "" where none is
    context_ids: Tensor  # (b, t) int64, whose text a piece is of: 1 for the first source, 0 where it is of none
    relation: Tensor  # (b,) float32 in 0..1, NaN where it is not known
    characters: Tensor  # (b, w, c) of `words`; absent where the model makes them itself
    windows: list[int]  # rows of each post, where posts longer than the encoder take several; absent where none does
    words: list[tuple[str, ...]]
    id: list[str]
    image_id: list[str | None]
    label_set: str  # whose labels `tags` count, of a model with several sets; absent where there is one
    labels: tuple[str, ...]  # what `tags` count; absent where nobody says
    tokenizer: str  # fingerprint of what made the word pieces; absent where nobody says
