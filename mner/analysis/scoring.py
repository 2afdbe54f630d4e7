"""Counting: per post, how many entities are gold, how many predicted, how many of these are right.

Every table of scores here is a sum of such counts over posts, so that one bootstrap over posts gives all intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mner.analysis.resampling import bootstrap_interval
from mner.data.formats.predictions import Prediction, Predictions
from mner.labels import MODES, Mode, Span, check_types, spans

if TYPE_CHECKING:
    from pandas import DataFrame

Counts = NDArray[np.int64]  # (n, 3): correct, predicted, gold of each post
Posts = Predictions | Sequence[Prediction]
"""One run: a prediction file that was read, or its posts."""
Runs = Posts | Sequence[Posts]
"""One run, or several of one system (seeds) on the same posts."""


class Marked(NamedTuple):
    """One post with its entities read off the tags."""

    post: Prediction
    gold: list[Span]
    pred: list[Span]


def marked(predictions: Posts, mode: Mode = "lenient") -> list[Marked]:
    """The gold and predicted entities of each post.

    Raises:
        ValueError: If there is no post, or a post has no gold tags or a wrong number of tags.
    """
    posts = predictions.posts if isinstance(predictions, Predictions) else list(predictions)
    if not posts:
        raise ValueError("Expected at least one post with gold and predicted tags, but got none")
    found = []
    for post in posts:
        if post.gold is None:
            raise ValueError(
                f"Expected gold tags in every post, but post {post.id!r} has none. "
                "Analyses need predictions on a labelled split."
            )
        if not len(post.gold) == len(post.pred) == len(post.words):
            raise ValueError(
                f"Expected one gold and one predicted tag a word, but post {post.id!r} has {len(post.words)} words, "
                f"{len(post.gold)} gold and {len(post.pred)} predicted tags"
            )
        found.append(Marked(post, spans(post.gold, mode), spans(post.pred, mode)))
    return found


def surface(words: Sequence[str], span: Span) -> str:
    """What an entity is looked up by: its words joined by a space, case-folded.

    >>> surface(["in", "New", "YORK"], Span(1, 3, "LOC"))
    'new york'
    """
    return " ".join(words[span.start : span.end]).casefold()


def each_run(predictions: Runs) -> list[Posts]:
    """One run, or several, as a list of runs."""
    if isinstance(predictions, Predictions):
        return [predictions]
    items: list[Any] = list(predictions)
    if not items:
        raise ValueError("Expected at least one run with posts, but got none")
    return [items] if isinstance(items[0], Prediction) else items


def averaged_counts(
    predictions: Runs, mode: Mode, count: Callable[[Sequence[Marked]], Mapping[str, Counts]]
) -> dict[str, NDArray[Any]]:
    """What `count` makes of a run, averaged post by post over all runs.

    Raises:
        ValueError: If the runs are not of the same posts with the same gold.
    """
    runs = [marked(run, mode) for run in each_run(predictions)]
    for run in runs[1:]:
        same = len(run) == len(runs[0]) and all(
            one.gold == two.gold and list(one.post.words) == list(two.post.words)
            for one, two in zip(runs[0], run, strict=True)
        )
        if not same:
            raise ValueError("Expected runs on the same posts with the same gold tags, but they differ")
    counts = [count(run) for run in runs]
    if len(counts) == 1:
        return dict(counts[0])
    return {name: np.mean([of_run[name] for of_run in counts], axis=0) for name in counts[0]}


def post_counts(posts: Sequence[Marked]) -> Counts:
    """Correct, predicted and gold entities of each post, (n, 3)."""
    return np.array([(len(set(gold) & set(pred)), len(pred), len(gold)) for _, gold, pred in posts], dtype=np.int64)


def grouped_counts(
    posts: Sequence[Marked], groups: Sequence[str], group_of: Callable[[Marked, Span], Iterable[str]]
) -> dict[str, Counts]:
    """Counts (n, 3) of each group, where `group_of` puts an entity, gold or predicted alike, into any number of groups.

    A predicted entity is placed by what is predicted. Where it is right it is the gold entity, so it stands in the same
    groups, and precision and recall of a group speak of one set of correct entities.
    """
    index = {name: column for column, name in enumerate(groups)}
    table = np.zeros((len(groups), len(posts), 3), dtype=np.int64)
    for row, post in enumerate(posts):
        right = set(post.gold) & set(post.pred)
        for span in post.pred:
            for name in group_of(post, span):
                table[index[name], row, 1] += 1
                table[index[name], row, 0] += span in right
        for span in post.gold:
            for name in group_of(post, span):
                table[index[name], row, 2] += 1
    return dict(zip(groups, table, strict=True))


def f1_of(counts: NDArray[Any]) -> NDArray[np.float64]:
    """F1 from counts (…, 3); NaN where nothing is gold and nothing predicted."""
    correct, total = 2.0 * counts[..., 0], np.asarray(counts[..., 1] + counts[..., 2], dtype=float)
    with np.errstate(invalid="ignore"):
        return np.asarray(correct / total)


def score_frame(groups: Mapping[str, NDArray[Any]], resamples: int = 1000, seed: int = 0) -> DataFrame:
    """Precision, recall and F1 of each group of counts, with a 95 % bootstrap interval of F1 over posts.

    Scores are fractions of 1. What has nothing to divide by is NaN: precision where nothing is predicted, recall where
    nothing is gold, F1 where both are so.

    Args:
        groups: Counts (n, 3) of the same posts, by the name of the group.
        resamples: Bootstrap samples; 0 leaves the interval out.
        seed: Seed of the bootstrap.

    Returns:
        One row a group: gold, predicted, correct, precision, recall, f1 and, unless left out, f1_low and f1_high.
    """
    import pandas as pd

    rows = []
    for counts in groups.values():
        correct, predicted, gold = counts.sum(axis=0).tolist()  # int, or float where averaged over runs
        gold = round(gold)
        rows.append(
            {
                "gold": gold,
                "predicted": predicted,
                "correct": correct,
                "precision": correct / predicted if predicted else float("nan"),
                "recall": correct / gold if gold else float("nan"),
                "f1": float(f1_of(counts.sum(axis=0))),
            }
        )
    frame = pd.DataFrame(rows, index=pd.Index(list(groups), name="group"))
    if resamples and groups:
        stacked = np.concatenate(list(groups.values()), axis=1)  # (n, 3 groups)

        def each_f1(totals: NDArray[Any]) -> NDArray[np.float64]:
            return f1_of(totals.reshape(*totals.shape[:-1], len(groups), 3))

        low, high = bootstrap_interval(stacked, each_f1, resamples=resamples, method="percentile", seed=seed)
        frame["f1_low"], frame["f1_high"] = low, high
    return frame


def score(predictions: Runs, resamples: int = 1000, seed: int = 0) -> DataFrame:
    """Precision, recall, F1 and counts: all entities together (micro) and by type, lenient and strict.

    Lenient is seqeval's default reading of a tag sequence, strict its `mode="strict", scheme=IOB2`; they differ only on
    an `I-` that continues nothing. Twitter-2015's gold has such tags, so that the two differ in gold entities.

    Args:
        predictions: One run with gold tags, or several, whose counts are averaged.
        resamples: Bootstrap samples of the F1 interval; 0 leaves it out.
        seed: Seed of the bootstrap.

    Returns:
        A frame with index (mode, type), `type` being `all` for the micro average, and the columns of `score_frame`.
    """
    import pandas as pd

    frames = {}
    for mode in MODES:
        runs = [marked(run, mode) for run in each_run(predictions)]
        types = sorted({span.type for run in runs for post in run for span in [*post.gold, *post.pred]})
        check_types(types)
        count = partial(_counts_by_type, types=types)
        frames[mode] = score_frame(averaged_counts(predictions, mode, count), resamples, seed)
    return pd.concat(frames, names=["mode", "type"])


def _counts_by_type(posts: Sequence[Marked], types: Sequence[str]) -> dict[str, Counts]:
    return {"all": post_counts(posts), **grouped_counts(posts, types, lambda _, span: [span.type])}
