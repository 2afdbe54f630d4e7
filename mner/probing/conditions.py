"""What is done to images and context to see whether a model uses them: taken away, blanked, shuffled, made noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from mner.batch import Batch
from mner.data.dataset import MNERDataset
from mner.data.examples import Example

ChangePosts = Callable[[Sequence[Example], np.random.Generator], list[Example]]
ChangeBatch = Callable[[Batch, torch.Generator], Batch]


@dataclass(frozen=True)
class Condition:
    """One way to take a modality's information away.

    Attributes:
        name: What the row of the table is called.
        meaning: What is done, in words.
        posts: Changes the posts, or None.
        batch: Changes a batch, or None.
        random: Whether it draws, so that it is worth repeating.
    """

    name: str
    meaning: str
    posts: ChangePosts | None = None
    batch: ChangeBatch | None = None
    random: bool = False


def image_conditions(dataset: MNERDataset) -> list[Condition]:
    """What is done to images, opened or stored as features."""
    mean, sd = _moments(dataset) if dataset.regions is not None else (torch.zeros(()), torch.ones(()))
    blank = (
        "every region has the mean feature vector"
        if dataset.regions is not None
        else "the picture is one colour, the mean"
    )
    noise = (
        "features of random normal numbers, mean and sd as real ones"
        if dataset.regions is not None
        else "random pixels"
    )

    def blanked(batch: Batch, generator: torch.Generator) -> Batch:
        return _fill(batch, lambda size: mean.expand(size).clone())

    def noisy(batch: Batch, generator: torch.Generator) -> Batch:
        return _fill(batch, lambda size: mean + sd * torch.randn(size, generator=generator))

    return [
        Condition("no image", "as a post without image is seen", posts=_without_image),
        Condition("blank image", blank, batch=blanked),
        Condition("shuffled images", "each post has another post's image", posts=_shuffled(images=True), random=True),
        Condition("noise for images", noise, batch=noisy, random=True),
    ]


def context_conditions() -> list[Condition]:
    """What is done to context texts (captions)."""
    return [
        Condition("no context", "the post alone", posts=_without_context),
        Condition("shuffled context", "each post has another post's texts", posts=_shuffled(context=True), random=True),
        Condition(
            "noise for context", "random words of all texts, as many as there were", posts=_noise_context, random=True
        ),
    ]


def both_conditions() -> list[Condition]:
    """What is done where a model has images and context."""
    meaning = "each post has another post's image and texts"
    return [Condition("both shuffled", meaning, posts=_shuffled(images=True, context=True), random=True)]


def derangement(count: int, rng: np.random.Generator) -> list[int]:
    """A random order in which nothing stays in its place, each such order as likely.

    Raises:
        ValueError: If there are fewer than two things.
    """
    if count < 2:
        raise ValueError(f"Expected at least two posts to shuffle between, but got {count}")
    while True:  # a random order is one with probability 1/e
        order = rng.permutation(count)
        if (order != np.arange(count)).all():
            return [int(place) for place in order]


def _without_image(posts: Sequence[Example], rng: np.random.Generator) -> list[Example]:
    return [replace(post, image_id=None) for post in posts]


def _without_context(posts: Sequence[Example], rng: np.random.Generator) -> list[Example]:
    return [replace(post, context=()) for post in posts]


def _shuffled(images: bool = False, context: bool = False) -> ChangePosts:
    def change(posts: Sequence[Example], rng: np.random.Generator) -> list[Example]:
        changed = []
        for post, place in zip(posts, derangement(len(posts), rng), strict=True):
            other = posts[place]
            changed.append(
                replace(
                    post,
                    image_id=other.image_id if images else post.image_id,
                    more_images=other.more_images if images else post.more_images,
                    context=other.context if context else post.context,
                )
            )
        return changed

    return change


def _noise_context(posts: Sequence[Example], rng: np.random.Generator) -> list[Example]:
    words = [word for post in posts for text in post.context for word in text.split()]

    def noise(text: str) -> str:
        return " ".join(words[place] for place in rng.integers(len(words), size=len(text.split())))

    return [replace(post, context=tuple(noise(text) for text in post.context)) for post in posts]


def _fill(batch: Batch, values: Callable[[torch.Size], Tensor]) -> Batch:
    """The batch with other values in every image or region that is there."""
    changed = dict(batch)
    if "image" in batch:
        here = batch["image_mask"] if "image_mask" in batch else batch["has_image"]
        here = here[..., None, None, None]
        changed["image"] = torch.where(here, values(batch["image"].shape), batch["image"])
    if "regions" in batch:
        here = batch["region_mask"][..., None]
        changed["regions"] = torch.where(here, values(batch["regions"].shape), batch["regions"])
    return cast(Batch, changed)


def _moments(dataset: MNERDataset) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (f) of the stored features of the posts' images."""
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    for post in dataset.examples:
        for image_id in post.image_ids:
            if dataset.regions is None or image_id not in dataset.regions:
                continue
            found = np.asarray(dataset.regions[image_id], dtype=np.float64)  # (r, f)
            count += len(found)
            total = total + found.sum(axis=0)
            squares = squares + np.square(found).sum(axis=0)
    mean = total / max(count, 1)
    sd = np.sqrt(np.maximum(squares / max(count, 1) - np.square(mean), 0))
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(sd, dtype=torch.float32)
