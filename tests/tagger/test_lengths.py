"""Cutting posts into batches by length: least by enumeration, and the tags do not change."""

from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from mner.tagger import Tagger
from mner.tagger.lengths import cut
from mner.tagger.sections import SectionDecoder


def cost(lengths: list[int], ends: tuple[int, ...], start: int) -> int:
    return sum((end - begin) * lengths[end - 1] + start for begin, end in pairwise((0, *ends)))


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=9).map(sorted), st.integers(1, 9), st.integers(0, 120),
)  # fmt: skip
def test_the_least_is_computed(lengths, most, start):
    """Of all ways to cut there are."""
    count = len(lengths)
    ways = [(*some, count) for size in range(count) for some in combinations(range(1, count), size)]
    allowed = [ends for ends in ways if all(end - begin <= most for begin, end in pairwise((0, *ends)))]
    ends = tuple(cut(lengths, most, start))
    assert ends in allowed
    assert cost(lengths, ends, start) == min(cost(lengths, ends, start) for ends in allowed)


def test_no_posts_have_no_batch():
    assert cut([], 4) == []


def test_posts_get_the_same_tags_however_they_are_cut(checkpoint, monkeypatch):
    tagger = Tagger.from_checkpoint(checkpoint, device="cpu")
    texts = ["Anna", "Anna visits Lagos " * 9, "Bo in Old Town", "x", "Anna visits Lagos and Old Town " * 4]
    sizes, batch = [], tagger.decoder.batch
    monkeypatch.setattr(tagger.decoder, "batch", lambda items: sizes.append(len(items)) or batch(items))
    found = []
    for start in (0, 10**6):
        monkeypatch.setattr(SectionDecoder, "start", start)
        found.append([tagged.tags for tagged in tagger(texts)])
    assert sizes == [1, 1, 1, 1, 1, 5]
    assert found[0] == found[1]
