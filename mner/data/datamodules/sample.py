"""The built-in sample data as a data module: nothing to download."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mner.data.datamodules.base import MNERDataModule
from mner.data.examples import Example, Split
from mner.data.formats.feature_store import FeatureStore
from mner.data.sample.objects import FEATURES, RELATIONS, TAGS
from mner.data.sample.texts import VERSION, write_sample
from mner.files import cache_folder
from mner.labels import bio_labels


class SampleDataModule(MNERDataModule):
    """Generated posts in which the image, not the text, tells the type of many entities; see `mner.data.sample`.

    Args:
        root: Folder to write them to; None for a cache folder.
        images: `images`, or None for a run without.
        features: `objects` for stored regions of what is drawn, in place of images.
        train: Posts to train on; the valid and test splits have two fifths of it, at least 120.
        sample_seed: Of the generated posts and pictures.
        kwargs: As for `MNERDataModule`.
    """

    types: ClassVar[Sequence[str]] = ("PER", "LOC", "ORG", "MISC")
    labels = bio_labels(types)

    def __init__(
        self, root: str | None = None, *args: Any, train: int = 600, sample_seed: int = 0, **kwargs: Any
    ) -> None:
        self.train_posts = train
        self.sample_seed = sample_seed
        folder = Path(root) if root is not None else cache_folder() / f"sample-{VERSION}-{train}-{sample_seed}"
        super().__init__(str(folder), *args, **kwargs)
        self.relations = self.relations or RELATIONS  # exact, since the pictures are drawn

    def serve(self, model: Any) -> None:
        """Let batches carry what a model `needs`; names of what is drawn, unless stored regions have names."""
        super().serve(model)
        if self.names_from is None:
            self.object_names = TAGS

    @property
    def store(self) -> FeatureStore | None:
        """The stored features; those of what is drawn are written first if they are not there."""
        if self.features == FEATURES:
            self.prepare_data()
        return super().store

    def examples(self, split: Split) -> list[Example]:
        """The posts of a split; written first if they are not there."""
        self.prepare_data()
        return super().examples(split)

    def prepare_data(self) -> None:
        """Write the files, once."""
        evaluation = max(120, self.train_posts * 2 // 5)
        write_sample(self.root, self.train_posts, evaluation, evaluation, self.sample_seed)
