"""Beginning from another model: `init_from` of a `FusionModule`, and what it says of it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mner.encoders.text import WORD_VECTORS
from mner.encoders.word_parts import WordVectors
from mner.errors import CheckpointError
from mner.training.checkpoint import KEY, own_names, read_checkpoint

_HEADS = ("head.", "heads.", "crf.", "crfs.")
"""What scores labels, and so belongs to them."""
_ADDED = "text_encoder.parts."
log = logging.getLogger(__name__)


def begin_from(module: Any, path: str | Path) -> None:
    """Take encoders and fusion from another model's checkpoint, and say what was kept, what is new, what was not taken.

    Raises:
        CheckpointError: If it is no checkpoint of ours, or its text encoder is another.
    """
    checkpoint = read_checkpoint(path)
    state = checkpoint["state_dict"]
    own_names(module, state)
    own = {name: tensor for name, tensor in module.state_dict().items() if not name.startswith(_HEADS)}
    kept = {name: state[name] for name, tensor in own.items() if name in state and state[name].shape == tensor.shape}
    lacking = next((name for name in own if name.startswith("text_encoder.model.") and name not in kept), None)
    if lacking is not None:
        raise CheckpointError(
            f"The text encoder of {path} is another than the model's ({lacking} differs); give model.text_encoder as "
            "that checkpoint has it, or leave the model out, so that the checkpoint says it"
        )
    module.load_state_dict(kept, strict=False)
    new = dict.fromkeys(_part(name) for name in module.state_dict() if name not in kept)
    said = f"init_from {path}: kept {_counted(kept)}; begun anew: {', '.join(new)}"
    left = _counted(name for name in state if name not in kept and not name.startswith(_HEADS))
    if left:  # its head and CRF are for its own labels, as always
        said += f"; not taken: {left}"
    stored = WordVectors(**((checkpoint[KEY].get("text_config") or {}).get(WORD_VECTORS) or {}))
    if stored != module.text_encoder.word_vectors:
        said += (
            f"; its words are made by {stored}, the model's by {module.text_encoder.word_vectors}: give the callbacks "
            "that it was trained with to keep that (mner.training.word_vectors)"
        )
    log.warning("%s", said)


def _part(name: str) -> str:
    """The part of a model that a weight is of, as a reader knows it: of what is beside the text encoder, which part."""
    return ".".join(name.split(".")[: 3 if name.startswith(_ADDED) else 1])


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{part} ({count} tensors)" for part, count in Counter(map(_part, names)).items())
