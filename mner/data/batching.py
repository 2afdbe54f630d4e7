"""Padding items into a `Batch`, and batches of similar length."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from mner.batch import Batch as Batch  # a public name of mner.data
from mner.data.inputs import cell_boxes
from mner.data.padding import Item, padded_regions, padded_text


class Collate:
    """Pads items to the longest among them.

    Posts longer than the encoder take several rows, one for each window; `windows` then says how many each post has.
    Posts without image get `has_image` False and zeros in `image`, or no valid region in `regions`. `tags` is left out
    when any post has no gold. What is needed of regions is 0 where there is none.

    Args:
        pad_id: Id of the padding piece.
        image_shape: (3, s, s) where posts have images.
        region_width: f where posts have stored features.
        needs: Inputs beyond regions that the strategy needs, of `mner.data.inputs.NEEDS`.
        grid: Rows and columns of what the model's encoder makes of an image, if that is to have boxes.
        labels: What `tags` count, and
        tokenizer: the fingerprint of what made the pieces: told in each batch, so that a model can refuse it.
    """

    def __init__(
        self,
        pad_id: int = 0,
        image_shape: tuple[int, int, int] | None = None,
        region_width: int | None = None,
        needs: Collection[str] = (),
        grid: tuple[int, int] = (1, 1),
        labels: Sequence[str] | None = None,
        tokenizer: str | None = None,
    ) -> None:
        self.pad_id = pad_id
        self.image_shape = image_shape
        self.region_width = region_width
        self.needs = frozenset(needs)
        self.cells = cell_boxes(*grid)
        self.labels = None if labels is None else tuple(labels)
        self.tokenizer = tokenizer

    def __call__(self, items: Sequence[Item]) -> Batch:
        """Pad `items` into one batch."""
        windows = [1 + len(item.get("rest", ())) for item in items]
        items = [row for item in items for row in _rows(item)]
        text = padded_text(items, self.pad_id)
        batch = Batch(
            token_ids=torch.from_numpy(text["token_ids"]),
            token_mask=torch.from_numpy(text["token_mask"]),
            segment_ids=torch.from_numpy(text["segment_ids"]),
            word_starts=torch.from_numpy(text["word_starts"]),
            word_mask=torch.from_numpy(text["word_mask"]),
            has_image=self._has_image(items),
            words=[item["example"].words for item in items],
            id=[item["example"].id for item in items],
            image_id=[item["example"].image_id for item in items],
        )
        if "word_ends" in text:
            batch["word_ends"] = torch.from_numpy(text["word_ends"])
        if len(items) > len(windows):
            batch["windows"] = windows
        if all(item["tags"] is not None for item in items):
            batch["tags"] = self._tags(items, text["word_mask"].shape)
        if self.labels is not None:
            batch["labels"] = self.labels
        if self.tokenizer is not None:
            batch["tokenizer"] = self.tokenizer
        if self.image_shape is not None:
            self._put_images(batch, items, self.image_shape)
        if self.region_width is not None:
            regions, region_mask = padded_regions(items, self.region_width)
            batch["regions"], batch["region_mask"] = torch.from_numpy(regions), torch.from_numpy(region_mask)
        if self.needs:
            self._put_needed(batch, items)
        return batch

    @staticmethod
    def _tags(items: Sequence[Item], shape: tuple[int, ...]) -> Tensor:
        tags = np.zeros(shape, dtype=np.int64)
        for row, item in enumerate(items):
            if (gold := item["tags"]) is not None:
                tags[row, : len(gold)] = gold
        return torch.from_numpy(tags)  # (b, w)

    @staticmethod
    def _has_image(items: Sequence[Item]) -> Tensor:
        return torch.tensor([item.get("image") is not None or item.get("regions") is not None for item in items])

    @staticmethod
    def _put_images(batch: Batch, items: Sequence[Item], shape: tuple[int, int, int]) -> None:
        found = [item.get("image") for item in items]
        n = max([1, *(len(image) for image in found if image is not None and image.dim() == 4)])
        stacked, mask = torch.zeros(len(items), n, *shape), torch.zeros(len(items), n, dtype=torch.bool)
        for row, (item, image) in enumerate(zip(items, found, strict=True)):
            if image is None:
                continue
            several = image.dim() == 4
            count = len(image) if several else 1
            stacked[row, :count] = image
            there = item.get("image_mask") if several else None
            mask[row, :count] = True if there is None else torch.from_numpy(there)
        if n == 1:
            batch["image"] = stacked[:, 0]  # (b, 3, s, s)
        else:
            batch["image"], batch["image_mask"] = stacked, mask  # (b, n, 3, s, s), (b, n)

    def _put_needed(self, batch: Batch, items: Sequence[Item]) -> None:
        b, cells = len(items), len(self.cells)
        if "region_mask" in batch:
            r = batch["region_mask"].shape[1]
        elif "image" in batch:
            r = cells * (batch["image_mask"].shape[1] if "image_mask" in batch else 1)
        else:
            r = 1  # the model puts its "no image" there
        boxes, scores = np.zeros((b, r, 4), np.float32), np.zeros((b, r), np.float32)
        groups = np.zeros((b, r), np.int64)
        for row, item in enumerate(items):
            image, regions = item.get("image"), item.get("regions")
            if image is not None:  # a grid of cells for each of its images
                there = item.get("image_mask")
                for group in range(1) if there is None else np.flatnonzero(there):
                    span = slice(group * cells, (group + 1) * cells)
                    boxes[row, span], scores[row, span], groups[row, span] = self.cells, 1.0, group
            elif regions is not None:
                known: list[tuple[NDArray[Any], NDArray[Any] | None]] = [
                    (boxes, item.get("boxes")), (scores, item.get("scores")), (groups, item.get("groups"))
                ]  # fmt: skip
                for whole, some in known:
                    if some is not None:
                        whole[row, : len(regions)] = some
        if "boxes" in self.needs:
            batch["region_boxes"] = torch.from_numpy(boxes)
        if "scores" in self.needs:
            batch["region_scores"] = torch.from_numpy(scores)
        if "groups" in self.needs:
            batch["region_group"] = torch.from_numpy(groups)
        if "object_names" in self.needs:
            names = [list(item.get("object_names") or ()) for item in items]
            batch["object_names"] = [some + [""] * (r - len(some)) for some in names]
        if "contexts" in self.needs:
            batch["context_ids"] = self._sources(batch["segment_ids"], items)
        if "relation" in self.needs:
            batch["relation"] = torch.tensor([item.get("relation", float("nan")) for item in items])

    @staticmethod
    def _sources(segment_ids: Tensor, items: Sequence[Item]) -> Tensor:
        found = segment_ids.clone()  # of one text at most, which is the first
        for row, item in enumerate(items):
            bounds = item.get("bounds")
            if bounds is not None:
                found[row] = 0
                for number, (start, end) in enumerate(pairwise(bounds.tolist()), start=1):
                    found[row, start:end] = number
        return found


_OF_IMAGE = ("image", "image_mask", "regions", "boxes", "scores", "groups", "object_names", "relation")


def _rows(item: Item) -> list[Item]:
    """A post's windows, each with what there is of its image."""
    if "rest" not in item:
        return [item]
    known: Any = {key: value for key, value in item.items() if key in _OF_IMAGE}
    rest: Any = [{**row, **known} for row in item["rest"]]
    return [item, *rest]


class BucketSampler(DistributedSampler[list[int]]):
    """Yields whole batches of posts of similar length, shared out among processes.

    Training: shuffled, then sorted by length within pools of some batches; the batches come in random order, and every
    process gets the same number (the last ones are shortened, never repeated). Evaluation: sorted by length over all
    posts, each post in exactly one batch of one process, so that counts are exact under distributed evaluation.

    It is a `DistributedSampler`, so Lightning neither replaces it nor forgets `set_epoch`.

    Args:
        lengths: (n,) pieces of each post.
        batch_size: Posts in a batch of one process.
        shuffle: Training order; False for evaluation.
        seed: Of the shuffling; the epoch is added.
        num_replicas: Processes; None for those of torch.distributed.
        rank: Of this process.
        pool: Batches within which posts are sorted by length.
    """

    def __init__(
        self,
        lengths: NDArray[np.int64],
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
        pool: int = 100,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"Expected argument `batch_size` to be at least 1, but got {batch_size}")
        self._given = num_replicas is not None
        super().__init__(
            _Sized(len(lengths)), num_replicas=num_replicas or 1, rank=rank or 0, shuffle=shuffle, seed=seed
        )
        self.lengths = lengths
        self.batch_size = batch_size
        self.pool = pool
        self._join()

    def _join(self) -> None:
        """Find this process among the others, which may have come up since a loader was made by hand."""
        if not self._given and torch.distributed.is_available() and torch.distributed.is_initialized():
            self.num_replicas, self.rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        if len(self.lengths) < self.num_replicas:
            raise ValueError(
                f"Expected at least one post for each of {self.num_replicas} processes, but got {len(self.lengths)} "
                "posts"
            )

    def __len__(self) -> int:
        self._join()
        n = len(self.lengths)
        per_process = math.ceil(n / (self.batch_size * self.num_replicas))
        return min(per_process, n // self.num_replicas)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches()
        return iter(batches[self.rank :: self.num_replicas])

    def _batches(self) -> list[list[int]]:
        n = len(self.lengths)
        count = len(self) * self.num_replicas
        if not self.shuffle:
            order = np.argsort(self.lengths, kind="stable")
            return [part.tolist() for part in np.array_split(order, count)]
        generator = np.random.default_rng((self.seed, self.epoch))
        order = generator.permutation(n)
        pools = np.array_split(order, math.ceil(count / self.pool))
        order = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])
        batches = [part.tolist() for part in np.array_split(order, count)]
        # Neighbours go to different processes in one step, so that no process waits for another's longer batch.
        steps = [batches[start : start + self.num_replicas] for start in range(0, count, self.num_replicas)]
        return [batch for step in generator.permutation(len(steps)) for batch in steps[step]]


class _Sized(Dataset[list[int]]):
    """What DistributedSampler wants to know of a data set: how long it is."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length
