"""`PostLoader`: a loader of batches as Lightning expects one, that a checkpoint can stop in the middle of an epoch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, Sampler

from mner.batch import Batch
from mner.data.batching import BucketSampler, Collate
from mner.data.dataset import MNERDataset
from mner.runtime import random_state, set_random_state

log = logging.getLogger(__name__)


class PostBatches(BatchSampler):
    """Lists of indices, one list a batch: those of a `BucketSampler`, or of any sampler in the order that it gives.

    Lightning builds it again with another `sampler` where it wants one (`overfit_batches`: the posts in file order).

    Args:
        sampler: A `BucketSampler`, which yields whole batches, or a sampler of indices.
        batch_size: Posts in a batch.
        drop_last: Whether an incomplete last batch is left out; not with a `BucketSampler`, which leaves nothing out.

    Attributes:
        start: Batches to leave out at the beginning, which an interrupted epoch has behind it.

    >>> list(PostBatches([3, 1, 2], batch_size=2))
    [[3, 1], [2]]
    """

    def __init__(
        self, sampler: BucketSampler | Sampler[int] | Iterable[int], batch_size: int, drop_last: bool = False
    ) -> None:
        super().__init__(sampler, batch_size, drop_last)  # type: ignore[arg-type]  # whole batches
        self.start = 0

    def __iter__(self) -> Iterator[list[int]]:
        batches = iter(self.sampler) if isinstance(self.sampler, BucketSampler) else super().__iter__()
        return islice(batches, self.start, None)

    def __len__(self) -> int:
        return len(self.sampler) if isinstance(self.sampler, BucketSampler) else super().__len__()


class PostLoader(DataLoader[Batch]):
    """A `DataLoader` of a map-style data set and `PostBatches`, whose place in the epoch is kept in checkpoints.

    Lightning saves and restores it through `state_dict`: a run that goes on from a checkpoint taken in the middle of an
    epoch sees the rest of that epoch and no post twice, with the random numbers (of dropout) that it would have had. An
    epoch begins when its first batch is asked for, not before: by then Lightning has set its number.
    """

    _resume: dict[str, Any] | None = None
    _epoch = 0
    _seen = 0

    @property
    def sampler(self) -> Any:
        """What orders the posts. Lightning sets the epoch here, and leaves a `DistributedSampler` as it is."""
        return getattr(self.batch_sampler, "sampler", None)

    @sampler.setter
    def sampler(self, value: Any) -> None:
        """PyTorch would put one here that plays no part beside a `batch_sampler`."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        resume, self._resume = self._resume, None
        self._epoch = getattr(self.sampler, "epoch", 0)
        inside = resume is not None and resume["epoch"] == self._epoch and 0 < resume["batches"] < resume["of"]
        if resume is not None and inside and resume["of"] != len(self):
            log.warning(
                "The checkpoint was taken after %d of %d batches of an epoch, which now has %d: some of its posts are "
                "seen twice or not at all. Resume with the same posts and batch size for an exact continuation",
                resume["batches"], resume["of"], len(self),
            )  # fmt: skip
        self._seen = min(resume["batches"], len(self)) if resume is not None and inside else 0
        if isinstance(self.batch_sampler, PostBatches):
            self.batch_sampler.start = self._seen
        if resume is not None and not inside:
            set_random_state(resume["random"])
        before = torch.get_rng_state()
        batches = super().__iter__()
        # It draws a random number when it is made, which with workers is once and without them each epoch: here always.
        torch.set_rng_state(before)
        torch.empty((), dtype=torch.int64).random_()
        if resume is not None and inside:
            set_random_state(resume["random"])
        for batch in batches:
            self._seen += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The place in the epoch, and the state of the random numbers; plain data and tensors."""
        if self._resume is not None:
            return self._resume
        return {"epoch": self._epoch, "batches": self._seen, "of": len(self), "random": random_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there with the next epoch that is asked for, if it is the same; another one begins anew."""
        self._resume = dict(state)


def post_loader(
    dataset: MNERDataset, collate: Collate, batch_size: int, shuffle: bool, seed: int = 0, workers: int = 0
) -> PostLoader:
    """Bucketed batches of a data set.

    Args:
        dataset: The posts.
        collate: Makes a batch of some of them.
        batch_size: Posts in a batch of one process.
        shuffle: Training order.
        seed: Of the shuffling.
        workers: Processes that prepare batches.
    """
    sampler = BucketSampler(dataset.lengths, batch_size, shuffle, seed=seed)
    return PostLoader(
        dataset,  # type: ignore[arg-type]  # of posts, which become batches
        batch_sampler=PostBatches(sampler, batch_size),
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
