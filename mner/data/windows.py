"""Posts longer than the encoder as windows of words that overlap, and their emissions put together again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Window = tuple[int, int]


def windows(sizes: Sequence[int], room: int, share: float = 1.0) -> list[Window]:
    """Cut a post into windows of words.

    A post that fits with one piece a word stays whole, as in training; longer ones are cut so that words keep their
    pieces. Neighbours overlap by a quarter, so that each word has some words on both sides.

    Args:
        sizes: Pieces of each word.
        room: Pieces that fit.
        share: Part of the room that is for the post, where context has to fit too.

    Returns:
        Start and end of each window, in words.

    >>> windows([1] * 10, room=10), windows([1] * 10, room=4)
    ([(0, 10)], [(0, 4), (3, 7), (6, 10)])
    """
    if len(sizes) <= room:
        return [(0, len(sizes))]
    budget = max(1, int(room * share))
    cap = max(1, budget // 4)  # pieces of one word that count: the tokeniser cuts longer ones
    found: list[Window] = []
    start = 0
    while True:
        end, used = start, 0
        while end < len(sizes) and (end == start or used + min(sizes[end], cap) <= budget):
            used += min(sizes[end], cap)
            end += 1
        found.append((start, end))
        if end == len(sizes):
            return found
        start = max(start + 1, end - (end - start) // 4)


def stitch(parts: Sequence[Tensor], places: Sequence[Window]) -> Tensor:
    """Emissions of a post (w, l) from those of its windows (w_k, l): where two overlap, each gives its half.

    >>> stitch([torch.zeros(4, 1), torch.ones(4, 1)], [(0, 4), (2, 6)]).flatten().tolist()
    [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    """
    kept = []
    begin = 0
    for number, (part, (start, end)) in enumerate(zip(parts, places, strict=True)):
        until = (places[number + 1][0] + end) // 2 if number + 1 < len(places) else end
        kept.append(part[begin - start : until - start])
        begin = until
    return torch.cat(kept)
