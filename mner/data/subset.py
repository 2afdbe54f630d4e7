"""Random parts of the training posts, for learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

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
