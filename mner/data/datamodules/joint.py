"""`JointDataModule`: data sets with other entity types, as batches for one model with several label sets.

Each batch is of one data set and says which (`label_set`), so that what one data set does not label is no negative
example for another.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset

from mner.batch import Batch
from mner.data.batching import BucketSampler, Collate
from mner.data.datamodules.base import MNERDataModule
from mner.data.dataset import Item, MNERDataset
from mner.data.examples import Split
from mner.data.inputs import described as described  # was here
from mner.data.loader import PostBatches, PostLoader
from mner.errors import MNERError

Part = tuple[str, Item]


class JointDataModule(pl.LightningDataModule):
    """Batches of several data sets for training one model, `FusionModule(labels=data.labels)`.

    Training: an epoch shows each post of each data set once, the batches of all in random order. Evaluation: one data
    set after the other. Batch sizes are those of the data modules. One process only.

    Args:
        data: The data modules by name; the names are those of the model's label sets. All have one tokeniser, which
            they take from the model unless another was asked for. On the command line, one with `images` names its
            `image_encoder` too.
        num_workers: Processes that prepare batches.
        seed: Of the order of the batches; None for that of the first data module.

    Attributes:
        parts: The data modules by name.
        labels: The BIO labels of each, by name.

    Raises:
        ValueError: If there is no data module.

    For example::

        data = JointDataModule({"twitter2015": Twitter2015DataModule(a), "twitter2017": Twitter2017DataModule(b)})
        model = TextOnly(data.labels, text_encoder="bert-base-cased")
    """

    def __init__(self, data: Mapping[str, MNERDataModule], num_workers: int = 0, seed: int | None = None) -> None:
        super().__init__()
        if not data:
            raise ValueError("Expected one data module at least, but got none")
        self.parts = dict(data)
        self.labels = {name: list(part.labels) for name, part in data.items()}
        self.num_workers = num_workers
        self.seed = next(iter(data.values())).seed if seed is None else seed

    @property
    def region_width(self) -> int | None:
        """F of the stored features, which the model checks for each data set; None without."""
        return next((part.region_width for part in self.parts.values() if part.region_width is not None), None)

    def describe(self) -> dict[str, Any]:
        """Plain facts for checkpoints: those of the first data set, and those of each under `label_sets`."""
        first = next(iter(self.parts.values()))
        sets = {name: part.describe_inputs() for name, part in self.parts.items()}
        return {**first.describe(), "label_sets": sets}

    # Lightning's hooks

    def prepare_data(self) -> None:
        """Let each data module prepare its files."""
        for part in self.parts.values():
            part.prepare_data()

    def setup(self, stage: str) -> None:
        """Read and tokenise what `stage` needs.

        Raises:
            MNERError: If there are several processes, or data modules have different tokenisers.
        """
        _refuse_processes(1 if self.trainer is None else self.trainer.world_size)
        for part in self.parts.values():
            part.trainer = self.trainer
            part.setup(stage)

    def teardown(self, stage: str) -> None:
        """Let each data module report."""
        for part in self.parts.values():
            part.teardown(stage)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Let the data module of the batch see it."""
        return self.parts[batch["label_set"]].on_before_batch_transfer(batch, dataloader_idx)

    def train_dataloader(self) -> PostLoader:
        """Batches of the training splits, in random order."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> PostLoader:
        """Batches of the valid splits, one data set after the other."""
        return self._loader("valid", shuffle=False)

    def test_dataloader(self) -> PostLoader:
        """Batches of the test splits, one data set after the other."""
        return self._loader("test", shuffle=False)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Not here: predictions are of one data set.

        Raises:
            MNERError: Always.
        """
        return chosen_part(self, None).predict_dataloader()

    def _loader(self, split: Split, shuffle: bool) -> PostLoader:
        if len({part.post_tokenizer.fingerprint for part in self.parts.values()}) > 1:
            names = {name: part.tokenizer or part.text_encoder for name, part in self.parts.items()}
            raise MNERError(
                f"Expected data sets with one tokeniser, but got those of {names}; leave out `text_encoder`, "
                "`tokenizer` and other settings of words in all of them, or give them all the same"
            )
        datasets = {name: part._ready(split) for name, part in self.parts.items()}
        collates = {name: part.collate(datasets[name]) for name, part in self.parts.items()}
        sizes = [part.batch_size if split == "train" else part.eval_batch_size for part in self.parts.values()]
        samplers = [
            BucketSampler(dataset.lengths, size, shuffle, seed=part.seed)
            for part, dataset, size in zip(self.parts.values(), datasets.values(), sizes, strict=True)
        ]
        return PostLoader(
            JointDataset(datasets),  # type: ignore[arg-type]  # of posts, which become batches
            batch_sampler=PostBatches(JointSampler(samplers, shuffle, self.seed), max(sizes)),
            collate_fn=_JointCollate(collates),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )


class JointDataset(Dataset[Part]):
    """The posts of several data sets, one after the other; each comes with the name of its own.

    Args:
        datasets: The data sets by name.
    """

    def __init__(self, datasets: Mapping[str, MNERDataset]) -> None:
        self.names = list(datasets)
        self.datasets = list(datasets.values())
        self._starts = list(accumulate((len(dataset) for dataset in self.datasets), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Part:
        part = bisect_right(self._starts, index) - 1
        return self.names[part], self.datasets[part][index - self._starts[part]]


class JointSampler(BucketSampler):
    """The batches of several samplers, each batch of one of them: in random order, or one sampler after the other.

    Args:
        parts: The samplers; indices of one follow those of the one before.
        shuffle: Training order; False for evaluation.
        seed: Of the order of the batches; the epoch is added.
    """

    def __init__(self, parts: Sequence[BucketSampler], shuffle: bool, seed: int = 0) -> None:
        self.parts = list(parts)
        lengths = np.concatenate([part.lengths for part in parts])
        super().__init__(lengths, max(part.batch_size for part in parts), shuffle, seed)

    def __len__(self) -> int:
        self._join()
        _refuse_processes(self.num_replicas)
        return sum(len(part) for part in self.parts)

    def _batches(self) -> list[list[int]]:
        batches: list[list[int]] = []
        start = 0
        for part in self.parts:
            part.set_epoch(self.epoch)
            batches += [[start + index for index in batch] for batch in part._batches()]
            start += len(part.lengths)
        if not self.shuffle:
            return batches
        generator = np.random.default_rng((self.seed, self.epoch))
        return [batches[place] for place in generator.permutation(len(batches))]


class _JointCollate:
    """Makes a batch of posts of one data set, and says which."""

    def __init__(self, collates: Mapping[str, Collate]) -> None:
        self.collates = dict(collates)

    def __call__(self, items: Sequence[Part]) -> Batch:
        names = sorted({name for name, _ in items})
        if len(names) > 1:
            raise MNERError(f"Expected a batch of one data set, but got one of {names}; leave out overfit_batches")
        batch = self.collates[names[0]]([item for _, item in items])
        batch["label_set"] = names[0]
        return batch


def _refuse_processes(count: int) -> None:
    if count > 1:
        raise MNERError(
            f"Expected one process for JointDataModule, but got {count}: in each step some heads would have no "
            "gradient; train with devices=1"
        )


def parts_of(data: Any, model: Any) -> dict[str, MNERDataModule]:
    """The data modules of a run by label set; under an empty name one that was given alone.

    Args:
        data: What a Trainer has as data module, None too.
        model: The model that it serves.

    Raises:
        MNERError: If the model has other label sets.
    """
    if isinstance(data, MNERDataModule):
        return {"": data}
    if not isinstance(data, JointDataModule):
        return {}
    if data.labels != model.label_sets:
        found = cast(dict[str, Any], model.label_sets) or "one list of labels"
        raise MNERError(f"Expected a model with `labels=data.labels`, {data.labels}, but got one with {found}")
    return data.parts


def chosen_part(data: MNERDataModule | JointDataModule, label_set: str | None) -> MNERDataModule:
    """The one data set that predictions are made of.

    Args:
        data: The data module of a run.
        label_set: Which of several data sets; None if there is but one.

    Raises:
        MNERError: If it is none of them.
    """
    if isinstance(data, JointDataModule):
        if label_set not in data.parts:
            names = " or ".join(map(repr, data.parts))
            raise MNERError(f"Expected the data set to predict, {names}, as `label_set`, but got {label_set!r}")
        return data.parts[label_set]
    if label_set is not None:
        raise MNERError(f"Expected no label set, since there is one data set, but got {label_set!r}")
    return data
