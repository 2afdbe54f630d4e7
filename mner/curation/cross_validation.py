"""Posteriors by models that did not see a post: k models, each trained without a fold, kept as files fold by fold."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mner.curation.posteriors import Posteriors, read_posteriors, write_posteriors
from mner.data.examples import Example, fingerprint
from mner.data.splitting import groups_of
from mner.errors import DataFormatError, MNERError
from mner.files import lock

log = logging.getLogger(__name__)
Train = Callable[[list[Example], list[Example], int], Posteriors]
"""From the posts to train on, those held out, and the fold's number, to the posteriors of those held out."""


def fold_of(posts: Sequence[Example], folds: int, seed: int = 0) -> list[int]:
    """The fold of each post: about equal in size, posts of one image or of nearly the same text in the same one.

    Raises:
        MNERError: If there are fewer than two folds, or fewer groups of posts than folds.

    >>> fold_of([Example(str(n), str(n // 2), (f"word{n}",)) for n in range(6)], folds=3)
    [1, 1, 2, 2, 0, 0]
    """
    groups = groups_of(posts)
    if not 2 <= folds <= len(groups):
        raise MNERError(f"Expected 2 folds or more, up to one for each of {len(groups)} groups of posts, got {folds}")
    order = np.random.default_rng(seed).permutation(len(groups))
    sizes, found = [0] * folds, [0] * len(posts)
    for place in order[np.argsort([-len(groups[place]) for place in order], kind="stable")]:
        fold = sizes.index(min(sizes))
        sizes[fold] += len(groups[place])
        for post in groups[place]:
            found[post] = fold
    return found


def cross_validate(
    posts: Sequence[Example],
    train: Train,
    folder: Path,
    folds: int = 5,
    seed: int = 0,
    about: Mapping[str, str] | None = None,
) -> list[Posteriors]:
    """Out-of-fold posteriors of all posts; `folder` keeps `fold-N.npz`, and a fold that is there is not trained again.

    Args:
        posts: Posts with gold.
        train: Trains on some posts and says of others what it thinks.
        folder: Where the folds are kept.
        folds: How many.
        seed: Of the folds.
        about: What else the folds depend on; those that were made with something else are refused.

    Raises:
        DataFormatError: If the folder has folds of other posts or options.
        BusyError: If another process is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = lock(folder / ".doubts.lock", folder)
    try:
        numbers = fold_of(posts, folds, seed)
        facts = {"data": fingerprint(posts), "folds": str(folds), "seed": str(seed), **(about or {})}
        found = []
        for fold in range(folds):
            path = folder / f"fold-{fold}.npz"
            if path.exists():
                known = read_posteriors(path)
                wrong = [f"{name} {known.about.get(name)!r}" for name in facts if known.about.get(name) != facts[name]]
                if wrong:
                    expected = ", ".join(f"{name} {value!r}" for name, value in facts.items())
                    advice = "Name another folder, or remove this one."
                    raise DataFormatError(path, None, f"a fold made with {', '.join(wrong)}", expected, advice)
                log.info("%s: done before", path)
            else:
                rest = [post for post, number in zip(posts, numbers, strict=True) if number != fold]
                out = [post for post, number in zip(posts, numbers, strict=True) if number == fold]
                known = train(rest, out, fold)
                known.about = facts
                write_posteriors(path, known)
            found.append(known)
        return found
    finally:
        held.release()


def use_posts(data: Any, parts: Mapping[str, Sequence[Example]], place: object, like: str = "train") -> None:
    """Let a data module take these posts as its splits, in place of those of its files.

    Args:
        data: An `MNERDataModule` that was not set up yet.
        parts: The posts of each split.
        place: What messages call the place that they come from.
        like: The split whose images and texts they are, where each split has its own.
    """
    image_source, read_source = data.image_source, data.read_source
    data.read = lambda split: (list(parts[split]), place)
    data.split_names = lambda: list(parts)
    data.image_source = lambda split: image_source(split and like)
    data.read_source = lambda name, split: read_source(name, like)
