"""Small strategies that use each input beyond regions, and one that uses all of them."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.fusion import FusionModule
from mner.nn import masked_mean


class Placed(FusionModule):
    """What a region is known by is added to it: box, score, group, name, and how far the image adds to the text."""

    needs = frozenset({"boxes", "scores", "object_names", "relation", "groups"})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.facts = nn.Linear(4 + 1 + 1 + 1, self.width)
        self.names = nn.Embedding(64, self.width)

    def regions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        regions, mask = super().regions(batch)
        known = torch.zeros(*mask.shape, 7)
        if "boxes" in self.needs:
            known[..., :4] = batch["region_boxes"]
        if "scores" in self.needs:
            known[..., 4] = batch["region_scores"]
        if "groups" in self.needs:
            known[..., 5] = batch["region_group"].float()
        if "relation" in self.needs:
            known[..., 6] = batch["relation"].nan_to_num(0.5)[:, None]
        regions = regions + self.facts(known)
        if "object_names" in self.needs:
            regions = regions + torch.stack([self._named(names) for names in batch["object_names"]])[:, None]
        return regions, mask

    def _named(self, names: list[str]) -> Tensor:
        rows = sorted(zlib.crc32(name.encode()) % 64 for name in names if name)
        return self.names(torch.tensor(rows)).mean(0) if rows else self.names.weight.sum() * torch.zeros(self.width)

    def fuse(self, words: Tensor, word_mask: Tensor, regions: Tensor, region_mask: Tensor) -> Tensor:
        return words + masked_mean(regions, region_mask)[:, None]


class Boxed(Placed):
    """Boxes alone."""

    needs = frozenset({"boxes"})


class Scored(Placed):
    """Scores alone."""

    needs = frozenset({"scores"})


class Named(Placed):
    """Names alone."""

    needs = frozenset({"object_names"})


class Related(Placed):
    """The relation alone."""

    needs = frozenset({"relation"})


class Grouped(Placed):
    """Groups alone."""

    needs = frozenset({"groups"})


class Plain(Placed):
    """Nothing."""

    needs = frozenset()


class Misspelt(Placed):
    """What nobody knows."""

    needs = frozenset({"box"})


class NamesInText(FusionModule):
    """The mean of the objects' names beside the words, without an image (OCSGA's use of names)."""

    uses_image = False
    needs = frozenset({"object_names"})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.names = nn.Embedding(64, self.width)

    def emissions(self, batch: Batch) -> Tensor:
        words = self.encode(batch)
        shown = torch.stack([Placed._named(self, names) for names in batch["object_names"]])  # type: ignore[arg-type]
        return self.head(self.dropout(words + shown[:, None]))
