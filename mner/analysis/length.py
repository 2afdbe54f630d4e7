"""Figure 2: scores by the length of the post, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mner.analysis.counts import Runs, averaged_counts, each_run, marked, post_counts, score_frame
from mner.labels import Mode

if TYPE_CHECKING:
    from pandas import DataFrame

EDGES = (7, 14, 21, 28)
"""Last length of each bucket but the open one. The paper's cut is “no more than seven words”; the others go on by 7."""


def by_length(
    predictions: Runs,
    edges: Sequence[int] = EDGES,
    mode: Mode = "lenient",
    resamples: int = 1000,
    seed: int = 0,
) -> DataFrame:
    """Scores by the number of words of the post.

    Args:
        predictions: One run with gold tags, or several, whose counts are averaged.
        edges: The last length of each bucket, growing; a last bucket takes all longer posts.
        mode: Reading of tag sequences.
        resamples: Bootstrap samples of the F1 interval; 0 leaves it out.
        seed: Seed of the bootstrap.

    Returns:
        One row a bucket (`1-7`, `8-14`, …, `29+`): the number of posts, then the columns of `score_frame`.
    """
    if not edges or list(edges) != sorted(set(edges)) or edges[0] < 1:
        raise ValueError(f"Expected argument `edges` to be growing, positive lengths, but got {tuple(edges)}")
    counts = averaged_counts(predictions, mode, lambda posts: {"all": post_counts(posts)})["all"]
    lengths = [len(post.post.words) for post in marked(each_run(predictions)[0], mode)]
    bucket = np.searchsorted(edges, lengths)  # length 7 -> 0, 8 -> 1
    starts = [1, *(edge + 1 for edge in edges)]
    names = [f"{start}-{end}" if start < end else f"{end}" for start, end in zip(starts, edges, strict=False)]
    names.append(f"{starts[-1]}+")
    groups = {name: counts * (bucket == row)[:, None] for row, name in enumerate(names)}
    frame = score_frame(groups, resamples, seed).rename_axis("words")
    frame.insert(0, "posts", np.bincount(bucket, minlength=len(names)))
    return frame
