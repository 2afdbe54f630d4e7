"""Which posts share a batch: as many of similar length as are worth their padding."""

from __future__ import annotations

from collections.abc import Sequence


def cut(lengths: Sequence[int], most: int, start: int = 0) -> list[int]:
    """Where batches end, of posts in order of length, so that the least is computed.

    A batch costs its posts times the longest one, and `start` pieces more, since each has to be begun. Exact, by
    dynamic programming over the last batch.

    Args:
        lengths: Of posts, in pieces, ascending.
        most: Posts in a batch.
        start: What beginning a batch costs, in pieces.

    Returns:
        Ends of the batches, ascending; the last is the number of posts.

    >>> cut([5, 5, 6, 40], 4, start=20)  # 3 * 6 + 1 * 40 + 2 * 20 pieces, not 4 * 40 + 20
    [3, 4]
    >>> cut([5, 5, 6, 40], 4, start=200)
    [4]
    >>> cut([5, 5, 6, 40], 2, start=200)
    [2, 4]
    """
    least: list[float] = [0]
    begin = [0]  # of the last batch, for each number of posts
    for end in range(1, len(lengths) + 1):
        longest = lengths[end - 1]
        best, place = min((least[i] + (end - i) * longest, i) for i in range(max(0, end - most), end))
        least.append(best + start)
        begin.append(place)
    ends = []
    end = len(lengths)
    while end:
        ends.append(end)
        end = begin[end]
    return ends[::-1]
