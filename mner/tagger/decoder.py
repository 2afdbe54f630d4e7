"""Tags sections with a model of PyTorch: batches of tensors on its device, in its precision."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from mner.batch import Batch
from mner.data.batching import Collate
from mner.data.inputs import OF_REGIONS
from mner.data.padding import Item
from mner.data.tokenizer import PostTokenizer
from mner.encoders.text import TextEncoder
from mner.errors import MNERError
from mner.nn.neighbours import WordNeighbours, use_neighbours
from mner.runtime import LOWER, Precision, automatic_precision, pick_device
from mner.tagger.names import Names
from mner.tagger.sections import Found, Section, SectionDecoder

if TYPE_CHECKING:
    from mner.fusion.base import FusionModule

log = logging.getLogger(__name__)


class Decoder(SectionDecoder):
    """Tags sections with a model of PyTorch, as `SectionDecoder` says.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokeniser.
        device: Where it is.
        names: Names that are always, or never, entities of a type.
        precision: What label scores are computed in; decoding is always in full precision.
    """

    def __init__(
        self,
        model: FusionModule,
        tokenizer: PostTokenizer,
        device: torch.device,
        names: Names | None = None,
        precision: Precision = "32-true",
    ) -> None:
        super().__init__(model, tokenizer, names)
        self.lower = LOWER[precision]
        self.device = device
        if device.type != "cpu":
            self.start = 100_000  # a launch costs more than padding; guessed, since no GPU was there to measure it
        self.label_set: str | None = getattr(model, "label_set", None)  # taggers with other sets may share the model

    @torch.inference_mode()
    def __call__(self, sections: Sequence[Section], batch_size: int) -> list[Found]:
        """Tags and entities of each section."""
        return super().__call__(sections, batch_size)

    @torch.inference_mode()
    def scored(self, sections: Sequence[Section], batch_size: int) -> Iterator[tuple[list[int], Tensor, Batch]]:
        """Numbers of sections, and what is decoded of them: label scores (b, w, l) and what else decoding needs."""
        yield from super().scored(sections, batch_size)

    def label_scores(self, batch: Batch) -> Tensor:
        """Label scores (b, w, l)."""
        if self.lower is None:
            return self.model.label_scores(batch)  # type: ignore[no-any-return]
        with torch.autocast(self.device.type, self.lower):
            scores: Tensor = self.model.label_scores(batch).float()
            return scores

    def batch(self, items: Sequence[Item]) -> Batch:
        """Items as a batch on the model's device."""
        image = next((item["image"] for item in items if item["image"] is not None), None)
        regions = next((item["regions"] for item in items if item["regions"] is not None), None)
        needs: frozenset[str] = self.model.needs
        grid = (1, 1)
        if image is not None and needs & OF_REGIONS and self.model.image_encoder is not None:
            grid = self.model.image_encoder.grid(image.shape[-1])
        collate = Collate(
            self.tokenizer.pad_id,
            None if image is None else (3, image.shape[-2], image.shape[-1]),
            None if regions is None else regions.shape[1],
            needs,
            grid,
        )
        batch = self._of_set(collate(items))
        moved: Any = {name: v.to(self.device) if isinstance(v, Tensor) else v for name, v in batch.items()}
        return cast(Batch, moved)

    def join(self, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Emissions (w, l) of windows as those of their post (1, w, l), and its word mask (1, w)."""
        joined = torch.cat(list(parts))[None]
        return joined, torch.ones(joined.shape[:2], dtype=torch.bool, device=joined.device)

    def without(self, emissions: Tensor, forbidden: Any) -> Tensor:
        """Emissions (b, w, l) that leave labels out (b, w, l)."""
        return emissions.masked_fill(torch.from_numpy(forbidden).to(emissions.device), -torch.inf)

    def _of_set(self, batch: Any) -> Batch:
        if self.label_set is not None:
            batch["label_set"] = self.label_set
        known: Batch = batch
        return known


def place(
    model: FusionModule,
    device: str,
    precision: str,
    label_set: str | None,
    neighbours: WordNeighbours | str | PathLike[str] | None,
) -> tuple[torch.device, Precision, str | None]:
    """Make a model ready to tag on a device; gives the device, the precision and the label set."""
    where = pick_device(device)
    model.eval().to(where)
    for part in model.modules():  # an ensemble has several
        if isinstance(part, TextEncoder) and where.type == "cpu":
            part.fuse()
    chosen = choose_precision(model, where, precision), choose_label_set(model, label_set)
    if neighbours is not None:
        use_neighbours(model, neighbours)
    return where, *chosen


def choose_precision(model: FusionModule, device: torch.device, precision: str) -> Precision:
    """What label scores are computed in.

    Raises:
        ValueError: If there is no such precision.
    """
    if precision not in (*LOWER, "auto"):
        raise ValueError(f"Expected argument `precision` to be auto, {', '.join(LOWER)}, but got {precision!r}")
    if precision == "auto":
        return automatic_precision(device, model.text_encoder.width, training=False)
    return cast(Precision, precision)


def choose_label_set(model: FusionModule, label_set: str | None) -> str | None:
    """Use a label set of a model, and say so where nobody chose among several."""
    sets = list(model.label_sets)
    if label_set is None and not sets:
        return None
    if not sets:
        raise MNERError(f"Expected no label set for a model with one list of labels, but got {label_set!r}")
    if label_set is None and len(sets) > 1:
        log.warning("The model has label sets %s; tagging with %r, as label_set= chooses no other", sets, sets[0])
    model.use(label_set or sets[0])
    return model.label_set
