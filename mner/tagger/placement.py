"""Where a tagger's model runs and what decodes its scores: with tensors, or without torch for an exported one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from mner.data.tokenizer import PostTokenizer
from mner.errors import MNERError
from mner.tagger.engines import Exported
from mner.tagger.names import Names
from mner.tagger.sections import SectionDecoder

if TYPE_CHECKING:
    from mner.fusion.base import FusionModule
    from mner.nn.neighbours import WordNeighbours
    from mner.runtime import Precision


def placed(
    model: FusionModule | Exported,
    device: str,
    precision: str,
    label_set: str | None,
    neighbours: WordNeighbours | str | os.PathLike[str] | None,
) -> tuple[Any, Precision, str | None]:
    """A model made ready to tag: its device, its precision, its label set. A graph is as it was written.

    Raises:
        MNERError: If a graph is asked for what it has not.
    """
    if not isinstance(model, Exported):
        from mner.tagger.decoder import place

        return place(model, device, precision, label_set, neighbours)
    if label_set is not None:
        raise MNERError(f"Expected no label set for a model with one list of labels, but got {label_set!r}")
    if neighbours is not None:
        raise MNERError("Expected a model in PyTorch for its neighbours, but got an exported one")
    if device not in ("auto", "cpu"):
        raise MNERError(f"An exported model runs on the processor, but got device {device!r}: device='cpu'")
    return "cpu", "32-true", None


def decoder_of(
    model: Any, tokenizer: PostTokenizer, device: Any, names: Names | None, precision: Precision
) -> SectionDecoder:
    """What makes tags of sections with a model that was placed."""
    if isinstance(model, Exported):
        return SectionDecoder(model, tokenizer, names)
    from mner.tagger.decoder import Decoder

    return Decoder(model, tokenizer, device, names, precision)
