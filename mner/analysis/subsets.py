"""Table 6: scores on seen and unseen, ambiguous and unambiguous entities, by each definition that the paper gives."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from mner.analysis.scoring import (
    Marked,
    Runs,
    averaged_counts,
    each_run,
    grouped_counts,
    marked,
    post_counts,
    score_frame,
    surface,
)
from mner.data.examples import Example
from mner.labels import Mode, Span, spans

if TYPE_CHECKING:
    from pandas import DataFrame


Definition = Literal["caption", "surface", "text"]
OVERLAP: dict[Definition, str] = {
    "caption": "seen: the surface occurs in train with this type (Table 6's caption); unseen: it does not",
    "surface": "seen: the surface occurs in train with whatever type (section 5.3, “appeared in the training”); "
    "unseen: it does not",
    "text": "section 5.3 to the letter. seen: occurs in train with this type; unseen: occurs in the evaluated split "
    "with this type, which is true of every gold entity, so the two subsets overlap",
}
AMBIGUITY: dict[Definition, str] = {
    "caption": "ambiguous: the surface occurs in train with several types; non-ambiguous: only with this type "
    "(Table 6's caption); other: not in train, or only with another type",
    "surface": "ambiguous: the surface occurs in train with several types; non-ambiguous: with one type, whichever; "
    "other: not in train",
    "text": "ambiguous: the surface is gold with several types in the evaluated split itself; non-ambiguous: with one "
    "type (section 5.3); other: no gold entity of the split has this surface (spurious predictions only)",
}


def types_by_surface(posts: Iterable[tuple[Sequence[str], Sequence[Span]]]) -> dict[str, set[str]]:
    """The entity types with which each case-folded surface occurs, from (words, entities) of posts."""
    found: dict[str, set[str]] = {}
    for words, entities in posts:
        for span in entities:
            found.setdefault(surface(words, span), set()).add(span.type)
    return found


def train_types(train: Iterable[Example], mode: Mode = "lenient") -> dict[str, set[str]]:
    """`types_by_surface` of labelled examples.

    Raises:
        ValueError: If an example has no tags.
    """
    examples = list(train)
    for example in examples:
        if example.tags is None:
            raise ValueError(f"Expected train posts with tags, but post {example.id!r} has none")
    return types_by_surface((example.words, spans(example.tags or (), mode)) for example in examples)


def overlap_group(definition: Definition, types: Collection[str], type_: str) -> list[str]:
    """The subsets of one entity of type `type_`, whose surface has the types `types` in train."""
    if definition == "surface":
        return ["seen" if types else "unseen"]
    seen = type_ in types
    if definition == "caption":
        return ["seen" if seen else "unseen"]
    return ["seen", "unseen"] if seen else ["unseen"]


def ambiguity_group(definition: Definition, types: Collection[str], type_: str) -> list[str]:
    """The subset of one entity of type `type_`, whose surface has `types` in train (in the split, for `text`)."""
    if len(types) > 1:
        return ["ambiguous"]
    single = len(types) == 1 and (definition != "caption" or type_ in types)
    return ["non-ambiguous" if single else "other"]


def by_overlap(
    predictions: Runs,
    train: Iterable[Example],
    definition: Definition = "caption",
    mode: Mode = "lenient",
    resamples: int = 1000,
    seed: int = 0,
) -> DataFrame:
    """Scores on entities seen and not seen in training; `OVERLAP` has the definitions in words.

    Recall is over the gold entities of a subset. For precision predictions must be put into subsets too, and the paper
    does not say how: here a predicted entity is looked up by its own surface and its own predicted type. Recall is
    the column that needs no such rule.

    Args:
        predictions: One run with gold tags, or several, whose counts are averaged.
        train: The posts that the model was trained on.
        definition: One of `caption`, `surface`, `text`.
        mode: Reading of tag sequences, in both.
        resamples: Bootstrap samples of the F1 interval; 0 leaves it out.
        seed: Seed of the bootstrap.

    Returns:
        Rows `seen` and `unseen`, columns of `score_frame`.

    Example:
        >>> from mner.data.formats.predictions import Prediction
        >>> post = Prediction("1", None, ("Fox", "met", "Kim"), ("B-ORG", "O", "B-PER"), ("B-ORG", "O", "B-ORG"))
        >>> train = [Example("2", None, ("Fox",), ("B-ORG",))]
        >>> by_overlap([post], train, resamples=0).iloc[:, :3]  # doctest: +NORMALIZE_WHITESPACE
                gold  predicted  correct
        group
        seen       1          1        1
        unseen     1          1        0
    """
    _check(definition, OVERLAP)
    return _by_types(
        predictions, train_types(train, mode), definition, overlap_group, ["seen", "unseen"], mode, resamples, seed
    )


def by_ambiguity(
    predictions: Runs,
    train: Iterable[Example] | None,
    definition: Definition = "caption",
    mode: Mode = "lenient",
    resamples: int = 1000,
    seed: int = 0,
) -> DataFrame:
    """Scores on entities whose surface has several types and on those with one; `AMBIGUITY` has the definitions.

    Predictions are put into subsets by their own surface and predicted type, as in `by_overlap`.

    Args:
        predictions: One run with gold tags, or several, whose counts are averaged.
        train: The posts that the model was trained on; definition `text` does without and takes None.
        definition: One of `caption`, `surface`, `text`.
        mode: Reading of tag sequences, in both.
        resamples: Bootstrap samples of the F1 interval; 0 leaves it out.
        seed: Seed of the bootstrap.

    Returns:
        Rows `ambiguous`, `non-ambiguous` and `other`, columns of `score_frame`.
    """
    _check(definition, AMBIGUITY)
    if definition == "text":
        known = types_by_surface((post.words, gold) for post, gold, _ in marked(each_run(predictions)[0], mode))
    elif train is None:
        raise ValueError(f"Expected train posts for definition {definition!r}, but got None; only 'text' does without")
    else:
        known = train_types(train, mode)
    names = ["ambiguous", "non-ambiguous", "other"]
    return _by_types(predictions, known, definition, ambiguity_group, names, mode, resamples, seed)


def _check(definition: str, known: Mapping[Definition, str]) -> None:
    if definition not in known:
        raise ValueError(f"Expected argument `definition` to be one of {tuple(known)}, but got {definition!r}")


def _by_types(
    predictions: Runs,
    known: Mapping[str, set[str]],
    definition: Definition,
    group: Callable[[Definition, Collection[str], str], list[str]],
    names: Sequence[str],
    mode: Mode,
    resamples: int,
    seed: int,
) -> DataFrame:
    def group_of(post: Marked, span: Span) -> list[str]:
        return group(definition, known.get(surface(post.post.words, span), ()), span.type)

    counts = averaged_counts(predictions, mode, lambda posts: grouped_counts(posts, names, group_of))
    return score_frame(counts, resamples, seed)


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
