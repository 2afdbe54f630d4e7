"""Posts as `Collate` and taggers take them, and their words and pieces padded into arrays; nothing here needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from mner.data.examples import Example

if TYPE_CHECKING:
    from torch import Tensor


class Item(TypedDict, total=False):
    """One post as `Collate` takes it; see `Batch` for the fields. Of a longer one it is the first window."""

    token_ids: NDArray[np.int32]  # (t,)
    post_length: int
    bounds: NDArray[np.int32] | None  # where the first text beside the post begins, and where each ends
    word_starts: NDArray[np.int32]  # (w,)
    words_end: int  # where the last word's pieces end; each other word ends where the next one begins
    tags: NDArray[np.int32] | None  # (w,)
    image: Tensor | None  # (3, s, s), or (n, 3, s, s) of a post with several; None where it is missing or broken
    image_mask: NDArray[np.bool_] | None  # (n,) which of several are there
    regions: NDArray[np.floating] | None  # (r, f)
    boxes: NDArray[np.float32] | None  # (r, 4) in 0..1; this and what follows only where it is needed
    scores: NDArray[np.float32] | None  # (r,)
    groups: NDArray[np.int64] | None  # (r,)
    object_names: list[str]
    relation: float
    example: Example
    rest: list[Item]  # further windows, without image and regions, which are those of the first


def padded_text(items: Sequence[Item], pad_id: int) -> dict[str, NDArray[Any]]:
    """The text of items as in a `Batch`.

    `token_ids`, `token_mask`, `segment_ids` (b, t), `word_starts`, `word_mask` (b, w), and `word_ends` (b, w) where all
    items say where their words end.
    """
    b = len(items)
    t = max(len(item["token_ids"]) for item in items)
    w = max(len(item["word_starts"]) for item in items)
    token_ids = np.full((b, t), pad_id, dtype=np.int64)
    token_mask = np.zeros((b, t), dtype=np.bool_)
    segment_ids = np.zeros((b, t), dtype=np.int64)
    word_starts = np.zeros((b, w), dtype=np.int64)
    word_ends = np.zeros((b, w), dtype=np.int64)
    word_mask = np.zeros((b, w), dtype=np.bool_)
    for row, item in enumerate(items):
        pieces, starts = item["token_ids"], item["word_starts"]
        token_ids[row, : len(pieces)] = pieces
        token_mask[row, : len(pieces)] = True
        segment_ids[row, item["post_length"] : len(pieces)] = 1
        word_starts[row, : len(starts)] = starts
        word_ends[row, : len(starts) - 1] = starts[1:]
        word_ends[row, len(starts) - 1] = item.get("words_end", 0)
        word_mask[row, : len(starts)] = True
    ends = {"word_ends": word_ends} if all("words_end" in item for item in items) else {}
    return ends | {
        "token_ids": token_ids,
        "token_mask": token_mask,
        "segment_ids": segment_ids,
        "word_starts": word_starts,
        "word_mask": word_mask,
    }


def padded_regions(items: Sequence[Item], width: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """`regions` (b, r, f) and `region_mask` (b, r) of items."""
    found = [item.get("regions") for item in items]
    # One slot at least: a post without image gets its learned vector there.
    r = max([1, *(len(regions) for regions in found if regions is not None)])
    # As stored: float16 is half as much to copy, and the model casts it on its device.
    dtype = next((regions.dtype for regions in found if regions is not None), np.dtype(np.float32))
    stacked = np.zeros((len(items), r, width), dtype=dtype)
    mask = np.zeros((len(items), r), dtype=np.bool_)
    for row, regions in enumerate(found):
        if regions is not None:
            stacked[row, : len(regions)] = regions
            mask[row, : len(regions)] = True
    return stacked, mask
