"""Twitter-2015 (Zhang et al. 2018) and Twitter-2017 (Lu et al. 2018, in the splits of Yu et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from mner.data.datamodules.base import MNERDataModule
from mner.labels import bio_labels


class Twitter2015DataModule(MNERDataModule):
    """Twitter-2015: 4,000/1,000/3,257 posts; `OTHER` is its fourth type."""

    types: ClassVar[Sequence[str]] = ("PER", "LOC", "ORG", "OTHER")
    labels = bio_labels(types)


class Twitter2017DataModule(MNERDataModule):
    """Twitter-2017: 3,373/723/723 posts in the public splits; `MISC` is its fourth type."""

    types: ClassVar[Sequence[str]] = ("PER", "LOC", "ORG", "MISC")
    labels = bio_labels(types)
