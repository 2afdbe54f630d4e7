"""Errors by kind (missed, spurious, wrong type, wrong boundary), and how far confidence can be trusted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mner.analysis.scoring import Marked, Posts, marked
from mner.labels import Mode, Span, check_types
from mner.tagger.calibration import bins_of, expected_calibration_error

if TYPE_CHECKING:
    from pandas import DataFrame

KINDS: dict[str, str] = {
    "correct": "same words, same type",
    "wrong type": "same words, another type",
    "wrong boundary": "overlapping words, same type",
    "wrong boundary and type": "overlapping words, another type",
    "missed": "gold, and nothing predicted is left that overlaps it",
    "spurious": "predicted, and nothing gold is left that overlaps it",
}
NONE = "(none)"


class Pair(NamedTuple):
    """A gold entity and the predicted one that it is held against; one of them is None if missed or spurious."""

    kind: str
    gold: Span | None
    pred: Span | None


def pair_up(gold: list[Span], pred: list[Span]) -> list[Pair]:
    """Pair each gold entity with at most one predicted one, best matches first; every entity stands in one pair.

    >>> pair_up([Span(0, 2, "PER"), Span(4, 5, "LOC")], [Span(0, 1, "PER")])
    [Pair(kind='wrong boundary', gold=Span(start=0, end=2, type='PER'), pred=Span(start=0, end=1, type='PER')), \
Pair(kind='missed', gold=Span(start=4, end=5, type='LOC'), pred=None)]
    """
    kinds = list(KINDS)[:4]
    candidates = []
    for one in gold:
        for two in pred:
            overlap = min(one.end, two.end) - max(one.start, two.start)
            if overlap > 0:
                rank = 2 * (one[:2] != two[:2]) + (one.type != two.type)
                candidates.append((rank, -overlap, one, two))
    pairs, free = [], {"gold": set(gold), "pred": set(pred)}
    for rank, _, one, two in sorted(candidates):
        if one in free["gold"] and two in free["pred"]:
            free["gold"].remove(one)
            free["pred"].remove(two)
            pairs.append(Pair(kinds[rank], one, two))
    pairs += [Pair("missed", one, None) for one in free["gold"]] + [Pair("spurious", None, two) for two in free["pred"]]
    return sorted(pairs, key=lambda pair: (pair.gold or pair.pred, pair.gold is None))


@dataclass(frozen=True)
class Errors:
    """The result of `errors`.

    Attributes:
        kinds: Rows are the kinds of `KINDS`, columns the types (the gold type; the predicted one where spurious) and
            `all`. The rows but `spurious` add up to the gold entities; all but `missed` to the predicted ones, though
            by type only where types agree.
        confusion: Gold types in rows, predicted types in columns, counts of paired entities; `(none)` is missed
            (column) and spurious (row).
        surfaces: Erroneous surface forms, most frequent first: kind, gold, gold type, predicted, predicted type, count.
        listing: Every error: post id, kind, gold, gold type, predicted, predicted type, and the whole text.
        calibration: Predicted entities in bins of confidence: entities, mean confidence, share correct. None where
            the predictions carry no scores (CoNLL).
        calibration_error: Expected calibration error: the mean distance of confidence from the share correct over bins,
            weighted by entities. None without scores.
    """

    kinds: DataFrame
    confusion: DataFrame
    surfaces: DataFrame
    listing: DataFrame
    calibration: DataFrame | None
    calibration_error: float | None


def errors(predictions: Posts, mode: Mode = "lenient", bins: int = 10) -> Errors:
    """Sort all errors by kind, type and surface form.

    Args:
        predictions: Posts with gold tags.
        mode: Reading of tag sequences.
        bins: Bins of confidence, of equal width.
    """
    import pandas as pd

    posts = marked(predictions, mode)
    pairs = [(post, pair) for post in posts for pair in pair_up(post.gold, post.pred)]
    types = sorted({span.type for post in posts for span in [*post.gold, *post.pred]})
    check_types(types)
    count = Counter((pair.kind, (pair.gold or pair.pred).type) for _, pair in pairs)  # type: ignore[union-attr]
    kinds = pd.DataFrame([[count[kind, type_] for type_ in types] for kind in KINDS], index=list(KINDS), columns=types)
    kinds["all"] = kinds.sum(axis=1)
    met = Counter((pair.gold.type if pair.gold else NONE, pair.pred.type if pair.pred else NONE) for _, pair in pairs)
    both = [*types, NONE]
    confusion = pd.DataFrame([[met[one, two] for two in both] for one in both], index=both, columns=both)
    listing = pd.DataFrame(
        [_describe(post, pair) for post, pair in pairs if pair.kind != "correct"],
        columns=["post", "kind", "gold", "gold_type", "predicted", "predicted_type", "text"],
    )
    calibration, calibration_error = _calibration(posts, bins)
    return Errors(
        kinds.rename_axis(index="kind", columns="type"),
        confusion.rename_axis(index="gold", columns="predicted"),
        _frequent(listing),
        listing,
        calibration,
        calibration_error,
    )


def _describe(marked_post: Marked, pair: Pair) -> dict[str, str]:
    words = marked_post.post.words

    def text(span: Span | None) -> tuple[str, str]:
        return (" ".join(words[span.start : span.end]), span.type) if span else ("", "")

    gold, pred = text(pair.gold), text(pair.pred)
    return {
        "post": marked_post.post.id,
        "kind": pair.kind,
        "gold": gold[0],
        "gold_type": gold[1],
        "predicted": pred[0],
        "predicted_type": pred[1],
        "text": " ".join(words),
    }


def _frequent(listing: DataFrame) -> DataFrame:
    """Errors with the same case-folded surfaces and types, counted."""
    columns = ["kind", "gold", "gold_type", "predicted", "predicted_type"]
    folded = listing[columns].assign(gold=listing["gold"].str.casefold(), predicted=listing["predicted"].str.casefold())
    counted = folded.groupby(columns, as_index=False).size().rename(columns={"size": "count"})
    return counted.sort_values(["count", *columns], ascending=[False] + [True] * 5, ignore_index=True)


def _calibration(posts: list[Marked], bins: int) -> tuple[DataFrame | None, float | None]:
    import pandas as pd

    scores, right = [], []
    for post, gold, _ in posts:
        known = set(gold)
        for entity in post.entities or ():
            start, end, type_, score = (_field(entity, name) for name in ("start", "end", "type", "score"))
            if score is not None:
                scores.append(float(score))
                right.append(Span(start, end, type_) in known)
    if not scores:
        return None, None
    edges = np.linspace(0, 1, bins + 1)
    frame = (
        pd.DataFrame({"bin": bins_of(scores, bins), "confidence": scores, "correct": right})
        .groupby("bin")
        .agg(entities=("correct", "size"), confidence=("confidence", "mean"), correct=("correct", "mean"))
    )
    frame.index = pd.Index([f"{edges[row]:.2g}-{edges[row + 1]:.2g}" for row in frame.index], name="confidence bin")
    return frame, expected_calibration_error(scores, right, bins)


def _field(entity: Any, name: str) -> Any:
    return entity.get(name) if isinstance(entity, dict) else getattr(entity, name)
