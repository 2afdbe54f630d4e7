"""`MNERDataset`: posts, tokenised once, with their images or stored features."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mner.data.examples import Example
from mner.data.inputs import PostInputs, Regions, join_regions, stored_regions
from mner.data.padding import Item as Item
from mner.data.tokenizer import PostTokenizer
from mner.data.windows import encode_windows

if TYPE_CHECKING:
    from PIL.Image import Image


CHUNK = 20_000
"""Posts that are tokenised together."""

KNOWN = 200_000
"""Distinct words and texts whose pieces are kept from one chunk to the next; a million tweets have far more."""


class MNERDataset(Dataset[Item]):
    """Posts ready for `collate`.

    Token ids of all posts lie in one flat array, so that a million posts cost little more than their numbers. Posts
    longer than the encoder are windows (`mner.data.windows.encode_windows`).

    Args:
        examples: The posts.
        labels: The label list; tags become indices into it.
        tokenizer: Makes word pieces.
        open_image: Image id -> RGB image, or None where it is missing or broken. None for data without images.
        transform: Image -> (3, s, s) tensor; needed with `open_image`.
        regions: Stored features by image id, in place of images.
        context_dropout: Probability that a post is shown without its context; for training only.
        inputs: What each post needs beyond its regions.

    Raises:
        ValueError: If a tag is no label; it names the post.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        labels: Sequence[str],
        tokenizer: PostTokenizer,
        open_image: Callable[[str], Image | None] | None = None,
        transform: Callable[[Image], Tensor] | None = None,
        regions: Regions | None = None,
        context_dropout: float = 0.0,
        inputs: PostInputs | None = None,
    ) -> None:
        if open_image is not None and regions is not None:
            raise ValueError("Expected images or stored features, but got both; give one of `open_image`, `regions`")
        if open_image is not None and transform is None:
            raise ValueError("Expected argument `transform` with `open_image`, but got None")
        if not 0 <= context_dropout <= 1:
            raise ValueError(f"Expected argument `context_dropout` to be a probability, but got {context_dropout}")
        self.examples = list(examples)
        self.open_image = open_image
        self.transform = transform
        self.regions = regions
        self.context_dropout = context_dropout
        self.inputs = inputs or PostInputs()
        self._tokenize(tokenizer)
        self._index_tags({label: index for index, label in enumerate(labels)})

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) pieces of each post with its context, of longer ones those of the longest window; for bucketing."""
        lengths = np.diff(self._token_ends)
        return lengths if len(lengths) == len(self) else np.maximum.reduceat(lengths, self._row_ends[:-1])

    def __getitem__(self, index: int) -> Item:
        example = self.examples[index]
        bare = bool(self.context_dropout and random.random() < self.context_dropout)
        row, end = int(self._row_ends[index]), int(self._row_ends[index + 1])
        item = self._row(row, example, bare, end - row > 1)
        item["image"], item["image_mask"] = join_images([self._image(image_id) for image_id in example.image_ids])
        known: Any = self._of_image(example)
        item.update(known)
        if end - row > 1:
            item["rest"] = [self._row(further, example, bare, True) for further in range(row + 1, end)]
        return item

    def _row(self, row: int, example: Example, bare: bool, is_part: bool) -> Item:
        """A row: a whole post, or one window of it; `bare` without context."""
        start, end = self._token_ends[row], self._token_ends[row + 1]
        post_length = int(self._post_lengths[row])
        bounds = None if bare or self._bounds is None else self._bounds[row]
        word_start, word_end = self._word_ends[row], self._word_ends[row + 1]
        if is_part:
            first = self._word_ends[self._row_ends[np.searchsorted(self._row_ends, row, side="right") - 1]]
            begin, until = int(word_start - first), int(word_end - first)
            tags = None if example.tags is None else example.tags[begin:until]
            example = replace(example, words=example.words[begin:until], tags=tags)
        return Item(
            token_ids=self._token_ids[start : start + post_length if bare else end],
            post_length=post_length,
            bounds=bounds,
            word_starts=self._word_starts[word_start:word_end],
            words_end=int(self._words_ends[row]),
            tags=None if example.tags is None else self._tags[word_start:word_end],
            image=None,
            regions=None,
            example=example,
        )

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """The posts of a batch; a `DataLoader` asks for them together."""
        return [self[index] for index in indices]

    def _of_image(self, example: Example) -> dict[str, Any]:
        store, needs = self.regions, self.inputs.needs
        parts = [] if store is None else [stored_regions(store, image_id, needs) for image_id in example.image_ids]
        found = join_regions(parts)
        known: dict[str, Any] = {"regions": None if found is None else found.features}
        if found is not None and needs:
            known |= {"boxes": found.boxes, "scores": found.scores, "groups": found.groups}
        if "object_names" in needs:
            known["object_names"] = self.inputs.object_names(example, found)
        if "relation" in needs:
            known["relation"] = self.inputs.relation(example)
        return known

    def _image(self, image_id: str) -> Tensor | None:
        image = None if self.open_image is None else self.open_image(image_id)
        return None if image is None or self.transform is None else self.transform(image)

    def _tokenize(self, tokenizer: PostTokenizer) -> None:
        # Flat and growing: an array object for each of a million posts would take more memory than what is in it.
        ids, starts, post_lengths, bounds, words_ends = (array("i") for _ in range(5))
        texts = max((len(example.context) for example in self.examples), default=0)
        token_ends, word_ends, row_ends = array("q", [0]), array("q", [0]), array("q", [0])
        for begin in range(0, len(self.examples), CHUNK):
            chunk = self.examples[begin : begin + CHUNK]
            tokenizer.forget(beyond=KNOWN)
            known = tokenizer.learn(
                (word for example in chunk for word in example.words),
                (text for example in chunk for text in example.context if text),
            )
            for example in chunk:
                for window in encode_windows(tokenizer, example.words, example.context, known):
                    if texts > 1:  # of one text, segments tell all
                        bounds.extend(window.bounds + window.bounds[-1:] * (texts - len(example.context)))
                    ids.extend(window.ids)
                    starts.extend(window.word_starts)
                    post_lengths.append(window.post_length)
                    words_ends.append(window.words_end)
                    token_ends.append(len(ids))
                    word_ends.append(len(starts))
                row_ends.append(len(post_lengths))
        self._token_ids, self._word_starts, self._post_lengths, self._words_ends = map(
            _int32, (ids, starts, post_lengths, words_ends)
        )
        self._bounds = _int32(bounds).reshape(-1, texts + 1) if texts > 1 else None
        self._token_ends, self._word_ends, self._row_ends = (
            np.frombuffer(ends, dtype=np.int64) for ends in (token_ends, word_ends, row_ends)
        )

    def _index_tags(self, index: Mapping[str, int]) -> None:
        self._tags = np.zeros(len(self._word_starts), dtype=np.int32)
        for number, example in enumerate(self.examples):
            if example.tags is None:
                continue
            unknown = sorted(set(example.tags) - set(index))
            if unknown:
                raise ValueError(
                    f"Post {example.id!r} has tags {unknown} that are not among the labels {list(index)}; "
                    "expected the entity types of this data module (some take `types`)"
                )
            begin, end = self._word_ends[self._row_ends[number : number + 2]]
            self._tags[begin:end] = [index[tag] for tag in example.tags]


def _int32(numbers: array[int]) -> NDArray[np.int32]:
    return np.frombuffer(numbers, dtype=np.int32)  # no copy; "i" has 4 bytes wherever torch runs


def join_images(images: Sequence[Tensor | None]) -> tuple[Tensor | None, NDArray[np.bool_] | None]:
    """The images of a post as one tensor, and which of them are there.

    Args:
        images: n tensors (3, s, s); None where an image is missing or broken.

    Returns:
        The tensor (3, s, s) and no mask for one image; (n, 3, s, s) with zeros, and (n,), for several. None and None
        where none is there.
    """
    there = [image for image in images if image is not None]
    if not there:
        return None, None
    if len(images) == 1:
        return images[0], None
    stacked = torch.stack([torch.zeros_like(there[0]) if image is None else image for image in images])
    return stacked, np.array([image is not None for image in images])
