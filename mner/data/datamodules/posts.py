"""Anybody's own posts: any folder with a file for each split, in any format that is read, with types from the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mner.data.datamodules.base import MNERDataModule
from mner.data.examples import Example
from mner.data.formats.posts import Reader, read_posts
from mner.data.sources import find_splits
from mner.errors import DataFormatError, DataNotFoundError
from mner.labels import bio_labels, split_tag


class PostsDataModule(MNERDataModule):
    """Posts of one's own.

    Args:
        root: Folder with a file for each split: `train`, `valid` (or `dev`, `val`, `validation`), `test`, with whatever
            suffix the format has.
        types: The entity types; None for those of the training split, in alphabetical order.
        format: How files are read: None to go by the suffix, or a function from a path to a list of `Example`, by its
            import path on the command line (`my_module.read_x`).
        kwargs: As for `MNERDataModule`.

    Raises:
        DataFormatError: If no post of the training split has an entity, so that there are no types.
    """

    def __init__(
        self, root: str, types: list[str] | None = None, format: str | Reader | None = None, **kwargs: Any
    ) -> None:
        self.format = format
        self.labels = bio_labels(types) if types is not None else self._labels_of(root)
        super().__init__(root, **kwargs)

    def split_names(self) -> list[str]:
        """The splits that are there."""
        return list(find_splits(self.root, self.format is not None))

    def read(self, split: str) -> tuple[list[Example], object]:
        """The posts of a split and its file."""
        return self._read(self.root, split)

    def _read(self, root: Path, split: str) -> tuple[list[Example], Path]:
        found = find_splits(root, self.format is not None)
        if split not in found:
            raise DataNotFoundError(f"No {split} split in {root}: found {sorted(found)}; name its file {split}.…")
        return read_posts(found[split], self.format), found[split]

    def _labels_of(self, root: str) -> list[str]:
        posts, file = self._read(Path(root), "train")
        types = {type_ for post in posts for tag in post.tags or () if (type_ := split_tag(tag)[1])}
        if not types:
            advice = "Give `types`, or posts with tags."
            raise DataFormatError(file, None, "no entity in any post", "the entity types of the data", advice)
        return bio_labels(sorted(types))
