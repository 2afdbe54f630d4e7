"""Table 5: what one source of captions costs, and another repairs, on the posts where it matters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mner.analysis.alignment import align
from mner.analysis.scoring import Posts, marked, post_counts, score_frame
from mner.labels import Mode

if TYPE_CHECKING:
    from pandas import DataFrame


def caption_quality(
    text_only: Posts,
    captions: Posts,
    others: Mapping[str, Posts] | None = None,
    mode: Mode = "lenient",
    force: bool = False,
    names: tuple[str, str] = ("text only", "captions"),
) -> DataFrame:
    """Scores on the posts that text only gets right and captions get wrong, on the reverse, and on all.

    A post is right if its predicted entities are exactly the gold ones. The paper takes the first subset, replaces the
    captions by hand-made ones and finds a higher F1 (Table 5). Mind that posts chosen because a system fails on them
    flatter every other system: also the same model with another seed, or with shuffled captions, would gain there.
    Give such a control among `others`, and read the reverse subset too.

    Args:
        text_only: Predictions without captions.
        captions: Predictions with the captions in question.
        others: Predictions with other captions (corrected, of another captioner, shuffled), by name.
        mode: Reading of tag sequences.
        force: Compare although posts or gold differ; see `align`.
        names: What the first two are called in the table.

    Returns:
        Index (subset, system); columns posts, then those of `score_frame`.
    """
    import pandas as pd

    systems: dict[str, Posts] = {names[0]: text_only, names[1]: captions, **(others or {})}
    if len(systems) != 2 + len(others or {}):
        raise ValueError(f"Expected distinct names of systems, but got {[*names, *(others or {})]}")
    runs = align(systems, force).runs
    posts = {name: marked(of_system[0], mode) for name, of_system in runs.items()}
    counts = {name: post_counts(of_system) for name, of_system in posts.items()}
    right = {name: np.array([post.gold == post.pred for post in posts[name]]) for name in names}
    subsets = {
        f"only {names[0]} right": right[names[0]] & ~right[names[1]],
        f"only {names[1]} right": right[names[1]] & ~right[names[0]],
        "all posts": np.ones(len(right[names[0]]), dtype=bool),
    }
    frames = {}
    for subset, chosen in subsets.items():
        frame = score_frame({name: of_system[chosen] for name, of_system in counts.items()}, resamples=0)
        frame.insert(0, "posts", int(chosen.sum()))
        frames[subset] = frame
    return pd.concat(frames, names=["subset", "system"])
