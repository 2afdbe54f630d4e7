"""The Snapchat format of Chen et al. (2021): JSON lines of posts and of captions, images in one folder a split."""

from __future__ import annotations

from typing import Any

from mner.data.datamodules.base import MNERDataModule
from mner.labels import bio_labels


class SnapchatDataModule(MNERDataModule):
    """Posts in the Snapchat format; the authors' own data are private.

    Args:
        args: As for `MNERDataModule`.
        types: The entity types.
        kwargs: As for `MNERDataModule`.
    """

    types = ("PER", "LOC", "ORG", "MISC")
    labels = bio_labels(types)

    def __init__(self, *args: Any, types: list[str] | None = None, **kwargs: Any) -> None:
        if types is not None:
            self.labels = bio_labels(types)
        super().__init__(*args, **kwargs)
