"""Posts dealt out to splits so that no image and no near-duplicate text is in two of them."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import regex

from mner.data.examples import SPLITS, Example

ALIKE = 0.8
"""Share of their pieces that two texts have in common, from which on they are near-duplicates (Jaccard)."""
_SIZE = 4
_HASHES, _ROWS = 32, 4
_DROPPED = regex.compile(r"https?:\S*|@\w+|\brt\b|[^\p{L}\p{N} ]")


def by_group(posts: Sequence[Example], shares: Mapping[str, float], seed: int = 0) -> dict[str, list[Example]]:
    """Splits of about the given shares; posts of one image or of nearly the same text are together.

    Texts are compared without URLs, users and signs, by the sets of their pieces of four characters; pairs to compare
    are found by MinHash (Broder 1997).

    Args:
        posts: All posts.
        shares: Share of each split; they are divided by their sum.
        seed: Of the order in which groups are dealt out.

    >>> parts = by_group([Example(str(n), str(n // 2), (f"word{n}",)) for n in range(10)], {"train": 4, "valid": 1})
    >>> {name: len(part) for name, part in parts.items()}
    {'train': 8, 'valid': 2}
    """
    wanted = {name: share for name, share in shares.items() if share > 0}
    if not wanted or set(wanted) - set(SPLITS):
        raise ValueError(f"Expected shares over 0 of {SPLITS}, but got {dict(shares)}")
    groups = groups_of(posts)
    order = np.random.default_rng(seed).permutation(len(groups))
    order = order[np.argsort([-len(groups[place]) for place in order], kind="stable")]
    total = sum(wanted.values())
    room = {name: len(posts) * share / total for name, share in wanted.items()}
    found: dict[str, list[int]] = {name: [] for name in wanted}
    for place in order:
        name = max(room, key=lambda name: room[name] / wanted[name])
        found[name] += groups[place]
        room[name] -= len(groups[place])
    return {name: [posts[place] for place in sorted(places)] for name, places in found.items()}


def groups_of(posts: Sequence[Example]) -> list[list[int]]:
    """Places of posts that belong together: of one image, or of nearly the same text."""
    parent = list(range(len(posts)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    first: dict[str, int] = {}
    for place, post in enumerate(posts):
        for image in post.image_ids:
            parent[root(place)] = root(first.setdefault(image, place))
    pieces = [text_pieces(" ".join(post.words)) for post in posts]
    for one, other in _candidates(pieces):
        if root(one) != root(other) and near_duplicates(pieces[one], pieces[other]):
            parent[root(one)] = root(other)
    groups = defaultdict(list)
    for place in range(len(posts)):
        groups[root(place)].append(place)
    return list(groups.values())


def near_duplicates(one: frozenset[int], other: frozenset[int]) -> bool:
    """Whether two texts, given by their `text_pieces`, have a share of `ALIKE` of their pieces in common.

    >>> near_duplicates(text_pieces("Rain in Oslo"), text_pieces("RT @bo: rain in Oslo http://t.co/1"))
    True
    """
    both = len(one & other)
    return both >= ALIKE * (len(one) + len(other) - both)


def text_pieces(text: str) -> frozenset[int]:
    """Checksums of the pieces of four characters of a text without URLs, users and signs."""
    bare = " ".join(_DROPPED.sub(" ", text.lower()).split()) or text
    return frozenset(
        zlib.crc32(bare[place : place + _SIZE].encode(errors="replace"))
        for place in range(max(1, len(bare) - _SIZE + 1))
    )


def _candidates(pieces: Sequence[frozenset[int]]) -> set[tuple[int, int]]:
    random = np.random.default_rng(0)
    prime = np.uint64(4_294_967_311)
    factors = random.integers(1, 2**31, (_HASHES, 1), dtype=np.uint64)
    shifts = random.integers(0, 2**31, (_HASHES, 1), dtype=np.uint64)
    bands: dict[tuple[int, bytes], int] = {}
    pairs = set()
    for place, some in enumerate(pieces):
        values = np.fromiter(some, np.uint64, len(some))
        smallest = ((factors * values + shifts) % prime).min(axis=1)
        for band in range(0, _HASHES, _ROWS):
            key = band, smallest[band : band + _ROWS].tobytes()
            if (other := bands.setdefault(key, place)) != place:
                pairs.add((other, place))
    return pairs
