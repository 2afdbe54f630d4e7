"""`BatchLoading`: a data module's second half, from data sets to batches with what the model needs."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from mner.batch import Batch
from mner.data.batching import Collate
from mner.data.dataset import MNERDataset
from mner.data.examples import Example, Split
from mner.data.formats.context import Texts, find_text
from mner.data.formats.feature_store import FeatureStore
from mner.data.formats.images import ImageSource
from mner.data.formats.relations import read_relations
from mner.data.inputs import OF_REGIONS, TAGS, PostInputs, check_needs
from mner.data.loader import post_loader
from mner.data.sources import find_place, read_source, report_coverage
from mner.data.tokenizer import PostTokenizer

log = logging.getLogger(__name__)


class BatchLoading(pl.LightningDataModule):
    """Batches of the data sets that `MNERDataModule` makes, with the inputs that the model needs.

    Attributes:
        needs: Inputs beyond regions that batches carry; see `serve`.
        datasets: The splits that were set up, by name.
        broken_images: Ids of images whose files turned out not to be readable; known once they were used.
    """

    root: Path
    batch_size: int
    eval_batch_size: int
    num_workers: int
    seed: int
    labels: list[str]
    relations: str | None
    object_names: str | None

    def __init__(self) -> None:
        super().__init__()
        self.needs: frozenset[str] = frozenset()
        self.predict_split: Split = "test"
        self.datasets: dict[str, MNERDataset] = {}
        self.broken_images: set[str] = set()
        self._folders: list[ImageSource] = []
        self._served: Any = None
        self._told: dict[str, frozenset[str]] = {}

    # What the other half knows

    @property
    def store(self) -> FeatureStore | None:
        """The stored features; None without."""
        raise NotImplementedError

    @property
    def region_width(self) -> int | None:
        """Their width; None without."""
        raise NotImplementedError

    @property
    def context_names(self) -> list[str]:
        """A name for each context source."""
        raise NotImplementedError

    @property
    def post_tokenizer(self) -> PostTokenizer:
        """The tokeniser."""
        raise NotImplementedError

    def dataset(self, split: Split) -> MNERDataset:
        """One split, tokenised."""
        raise NotImplementedError

    # What the model needs

    def serve(self, model: Any) -> None:
        """Let batches carry what a model `needs`. Before training, the model itself asks for it.

        Args:
            model: A `FusionModule`.

        Raises:
            ValueError: If it needs something that is not known.
        """
        self.needs = check_needs(getattr(model, "needs", ()), type(model).__name__)
        self._served = model

    @property
    def names_from(self) -> Literal["file", "regions", "context"] | None:
        """Where the names of objects come from: `object_names`, stored regions, or the context source `tags`."""
        if self.object_names is not None:
            return "file"
        if self.store is not None and self.store.kind == "regions":
            return "regions"
        return "context" if TAGS in self.context_names else None

    def post_inputs(self) -> PostInputs:
        """What a post gets beyond its regions.

        Raises:
            DataNotFoundError: If a file that was named is not there.
            DataFormatError: If it holds something else.
        """
        origin = self.names_from if "object_names" in self.needs else None
        return PostInputs(
            self.needs,
            self._names if origin == "file" else None,
            self.context_names.index(TAGS) if origin == "context" else None,
            self._relations if "relation" in self.needs else None,
        )

    @cached_property
    def _relations(self) -> dict[str, float]:
        return {} if self.relations is None else read_relations(find_place(self.root, self.relations, "relations"))

    @cached_property
    def _names(self) -> Texts:
        return Texts({}, {}) if self.object_names is None else read_source(self.object_names, self.root)

    # Lightning's hooks

    def _ready(self, split: Split) -> MNERDataset:
        """A split, read unless it is at hand; loaders by hand may ask before anybody called `setup`."""
        if split not in self.datasets:
            self.datasets[split] = self.dataset(split)
        return self.datasets[split]

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Note the images that have a file, but could not be opened."""
        if "image" in batch and not batch["has_image"].all():
            for image_id, there in zip(batch["image_id"], batch["has_image"].tolist(), strict=True):
                if not there and image_id is not None and any(image_id in folder for folder in self._folders):
                    self.broken_images.add(image_id)
        return batch

    def teardown(self, stage: str) -> None:
        """Report the images that could not be opened."""
        if self.broken_images:
            log.warning(
                "%d image files could not be read (%s); their posts had the learned 'no image' vector. "
                "`mner data verify` says what is wrong with them",
                len(self.broken_images),
                ", ".join(sorted(self.broken_images)[:5]) + (" …" if len(self.broken_images) > 5 else ""),
            )
            self.broken_images.clear()

    def train_dataloader(self) -> DataLoader[Batch]:
        """Bucketed, shuffled batches of the training split."""
        return self._loader(self._ready("train"), self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Batches of the valid split, each post once."""
        return self._loader(self._ready("valid"), self.eval_batch_size, shuffle=False)

    def test_dataloader(self) -> DataLoader[Batch]:
        """Batches of the test split, each post once."""
        return self._loader(self._ready("test"), self.eval_batch_size, shuffle=False)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Batches of `predict_split`."""
        return self._loader(self._ready(self.predict_split), self.eval_batch_size, shuffle=False)

    # From data sets to batches

    def collate(self, dataset: MNERDataset) -> Collate:
        """What makes batches of posts that this data module prepared."""
        dataset.inputs = self.post_inputs()
        split = next((name for name, known in self.datasets.items() if known is dataset), None)
        if split is not None and self._told.get(split) != self.needs:
            self._told[split] = self.needs
            self._report(split, dataset.examples, dataset.inputs)
        image_shape, grid = None, (1, 1)
        if dataset.transform is not None:
            size: int = dataset.transform.size  # type: ignore[attr-defined]
            image_shape = (3, size, size)
            encoder = getattr(self._served, "image_encoder", None)
            if encoder is not None and self.needs & OF_REGIONS:
                grid = encoder.grid(size)
        tokenizer = self.post_tokenizer
        return Collate(
            tokenizer.pad_id, image_shape, self.region_width, self.needs, grid, self.labels, tokenizer.fingerprint
        )

    def _report(self, split: str, posts: Sequence[Example], inputs: PostInputs) -> None:
        """How many posts the files of names and of relations say nothing about."""
        if (names := inputs.names) is not None:
            without = sum(not find_text(names, post) for post in posts)
            report_coverage(f"object_names {self.object_names}", "text", without, len(posts), split)
        if inputs.relations is not None:
            seen = [post for post in posts if post.image_id is not None]
            without = sum(math.isnan(inputs.relation(post)) for post in seen)
            if split == "train" or without < len(seen):  # training alone may have been labelled
                report_coverage(f"relations {self.relations}", "value", without, len(seen), split)
            else:
                log.warning("%s: none of %d posts has a value in relations %s", split, without, self.relations)

    def _loader(self, dataset: MNERDataset, batch_size: int, shuffle: bool) -> DataLoader[Batch]:
        return post_loader(dataset, self.collate(dataset), batch_size, shuffle, self.seed, self.num_workers)
