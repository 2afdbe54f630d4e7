"""Bringing several systems' predictions onto the same posts, or saying why they cannot be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mner.analysis.scoring import Posts, Runs, each_run
from mner.data.formats.predictions import Prediction, Predictions
from mner.errors import MNERError

Key = tuple[str, ...]


class NotComparableError(MNERError, ValueError):
    """Predictions that are not of the same posts with the same gold; the message says where they part."""


class Aligned(NamedTuple):
    """Runs on common posts, in one order, and what had to be forced to get there."""

    runs: dict[str, list[list[Prediction]]]
    notes: list[str]


def align(systems: Mapping[str, Runs], force: bool = False) -> Aligned:
    """The posts of each run of each system, in the order of the first run.

    Posts are paired by their words where all runs have the same words in the same order (a peer's file has no ids),
    else, when forced, by words in whatever order, or by id.

    Args:
        systems: For each system one run, or several (seeds).
        force: Compare what differs all the same, each run against its own gold, on the posts that all have; each thing
            that was forced becomes a note.

    Raises:
        NotComparableError: If fingerprints, posts or gold tags differ, unless forced; if no post is common.
    """
    runs = {name: each_run(of_system) for name, of_system in systems.items()}
    notes: list[str] = []
    named = [
        (f"{name}, run {number}", run) for name, of_system in runs.items() for number, run in enumerate(of_system, 1)
    ]
    first_name = named[0][0]
    prints = {name: getattr(run, "header", {}).get("fingerprint") for name, run in named}
    known = {name: value for name, value in prints.items() if value}
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{name} {value}" for name, value in known.items())
        _refuse_or_note(force, notes, f"the data fingerprints differ ({listed}), so posts or labels are not the same")
    posts = {name: _posts(run) for name, run in named}
    for name, _ in named[1:]:
        reason = _difference(posts[first_name], posts[name])
        if reason:
            _refuse_or_note(force, notes, f"{first_name} and {name} differ: {reason}")
    if any([list(p.words) for p in posts[name]] != [list(p.words) for p in posts[first_name]] for name, _ in named[1:]):
        posts = _common(posts, notes)
    ordered = iter(posts.values())
    return Aligned({name: [next(ordered) for _ in of_system] for name, of_system in runs.items()}, notes)


def _posts(run: Posts) -> list[Prediction]:
    return list(run.posts if isinstance(run, Predictions) else run)


def _refuse_or_note(force: bool, notes: list[str], reason: str) -> None:
    if not force:
        raise NotComparableError(
            f"Expected predictions on the same posts with the same gold tags, but {reason}. "
            "Predict again on the same files, or force the comparison, which then holds for common posts only, "
            "each system against its own gold."
        )
    notes.append(f"Forced although {reason}.")


def _difference(first: Sequence[Prediction], other: Sequence[Prediction]) -> str:
    """What differs between two runs' posts and gold, in words; empty if nothing does."""
    if len(first) != len(other):
        return f"{len(first)} and {len(other)} posts"
    for place, (one, two) in enumerate(zip(first, other, strict=True), 1):
        if list(one.words) != list(two.words):
            return f"post {place} is {_excerpt(one)} in one and {_excerpt(two)} in the other"
        if list(one.gold or ()) != list(two.gold or ()):
            return f"the gold tags of post {place}, {_excerpt(one)}, are not the same"
    return ""


def _excerpt(post: Prediction) -> str:
    text = " ".join(post.words)
    return f"{post.id!r} ({text[:40] + '…' if len(text) > 40 else text})"


def _common(posts: Mapping[str, Sequence[Prediction]], notes: list[str]) -> dict[str, list[Prediction]]:
    """The posts that all runs have, by their words, else by id; only reached when forced."""
    for kind, key_of in (("words", _word_keys), ("id and number of words", _id_keys)):
        tables = {name: dict(zip(key_of(run), run, strict=True)) for name, run in posts.items()}
        first, *others = tables.values()
        shared = [key for key in first if all(key in other for other in others)]
        if shared:
            largest = max(len(run) for run in posts.values())
            notes.append(f"Compared on the {len(shared)} of {largest} posts whose {kind} all have.")
            return {name: [table[key] for key in shared] for name, table in tables.items()}
    raise NotComparableError(
        "Expected predictions with common posts, but no sequence of words and no post id is in all of them. "
        "Are they of the same data set and split?"
    )


def _word_keys(run: Sequence[Prediction]) -> list[Key]:
    """The words of each post, and how often they came before: a text can be posted twice."""
    before: Counter[Key] = Counter()
    keys = []
    for post in run:
        words = tuple(post.words)
        keys.append((*words, str(before[words])))
        before[words] += 1
    return keys


def _id_keys(run: Sequence[Prediction]) -> list[Key]:
    # Where a file has no ids they are only its places, so that the number of words must agree too.
    return [(post.id, str(len(post.words))) for post in run]
