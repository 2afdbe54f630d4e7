"""`MNERDataset`: posts, tokenised once, with their images or stored features."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from mner.data.examples import Example
from mner.data.tokenizer import PostTokenizer, PostTooLongError

if TYPE_CHECKING:
    from PIL.Image import Image


CHUNK = 20_000
"""Posts that are tokenised together."""

KNOWN = 200_000
"""Distinct words and texts whose pieces are kept from one chunk to the next; a million tweets have far more."""


class Regions(Protocol):
    """What the data set needs of a feature store: features (r, f) by image id."""

    def __contains__(self, image_id: str) -> bool: ...

    def __getitem__(self, image_id: str) -> NDArray[np.floating]: ...


class Item(TypedDict, total=False):
    """One post as `collate` takes it; see `Batch` for the fields."""

    token_ids: NDArray[np.int32]  # (t,)
    post_length: int
    word_starts: NDArray[np.int32]  # (w,)
    tags: NDArray[np.int32] | None  # (w,)
    image: Tensor | None  # (3, s, s); None where it is missing or broken
    regions: NDArray[np.floating] | None  # (r, f)
    example: Example


class MNERDataset(Dataset[Item]):
    """Posts ready for `collate`.

    Token ids of all posts lie in one flat array, so that a million posts cost little more than their numbers.

    Args:
        examples: The posts.
        labels: The label list; tags become indices into it.
        tokenizer: Makes word pieces.
        open_image: Image id -> RGB image, or None where it is missing or broken. None for data without images.
        transform: Image -> (3, s, s) tensor; needed with `open_image`.
        regions: Stored features by image id, in place of images.
        context_dropout: Probability that a post is shown without its context; for training only.

    Raises:
        ValueError: If a tag is no label, or a post is too long for the encoder; it names the post.
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
        self._tokenize(tokenizer)
        self._index_tags({label: index for index, label in enumerate(labels)})

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) pieces of each post with its context, for bucketing."""
        return np.diff(self._token_ends)

    def __getitem__(self, index: int) -> Item:
        example = self.examples[index]
        start, end = self._token_ends[index], self._token_ends[index + 1]
        post_length = int(self._post_lengths[index])
        if self.context_dropout and random.random() < self.context_dropout:
            end = start + post_length
        word_start, word_end = self._word_ends[index], self._word_ends[index + 1]
        return Item(
            token_ids=self._token_ids[start:end],
            post_length=post_length,
            word_starts=self._word_starts[word_start:word_end],
            tags=None if example.tags is None else self._tags[word_start:word_end],
            image=self._image(example.image_id),
            regions=self._regions(example.image_id),
            example=example,
        )

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """The posts of a batch; a `DataLoader` asks for them together."""
        return [self[index] for index in indices]

    def _image(self, image_id: str | None) -> Tensor | None:
        if self.open_image is None or image_id is None:
            return None
        image = self.open_image(image_id)
        return None if image is None or self.transform is None else self.transform(image)

    def _regions(self, image_id: str | None) -> NDArray[np.floating] | None:
        if self.regions is None or image_id is None or image_id not in self.regions:
            return None
        found = self.regions[image_id]
        return found if len(found) else None

    def _tokenize(self, tokenizer: PostTokenizer) -> None:
        # Flat and growing: an array object for each of a million posts would take more memory than what is in it.
        ids, starts, post_lengths = array("i"), array("i"), array("i")
        token_ends, word_ends = array("q", [0]), array("q", [0])
        for begin in range(0, len(self.examples), CHUNK):
            chunk = self.examples[begin : begin + CHUNK]
            tokenizer.forget(beyond=KNOWN)
            tokenizer.learn(
                (word for example in chunk for word in example.words),
                (text for example in chunk for text in example.context if text),
            )
            for example in chunk:
                try:
                    pieces, word_starts, post_length = tokenizer.encode_plain(example.words, example.context)
                except PostTooLongError as error:
                    raise ValueError(f"Post {example.id!r}: {error}") from None
                ids.extend(pieces)
                starts.extend(word_starts)
                post_lengths.append(post_length)
                token_ends.append(len(ids))
                word_ends.append(len(starts))
        self._token_ids, self._word_starts, self._post_lengths = map(_int32, (ids, starts, post_lengths))
        self._token_ends, self._word_ends = (np.frombuffer(ends, dtype=np.int64) for ends in (token_ends, word_ends))

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
            begin, end = self._word_ends[number], self._word_ends[number + 1]
            self._tags[begin:end] = [index[tag] for tag in example.tags]


def _int32(numbers: array[int]) -> NDArray[np.int32]:
    return np.frombuffer(numbers, dtype=np.int32)  # no copy; "i" has 4 bytes wherever torch runs
