"""LoRA as a callback: the text encoder stays as it is, small adapters in it learn instead."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from mner.encoders.lora import Adapters
from mner.encoders.text import ADAPTERS
from mner.errors import CheckpointError
from mner.fusion.base import FusionModule
from mner.fusion.checkpoint import KEY, read_checkpoint

log = logging.getLogger(__name__)


class LoRA(pl.Callback):
    """Trains LoRA adapters in the text encoder, the fusion, the head and the CRF; the encoder's own weights are frozen.

    Each adapted layer computes `W x + alpha / rank * B A x`, of which A and B are learnt (Hu et al. 2022); B begins as
    zeros. The adapters' rate is `learning_rate` of the model, for which about 10 times that of full training is usual.
    Needs the package `peft`: `pip install 'mner[lora]'`.

    Checkpoints hold encoder and adapters and load everywhere. `Tagger` and `save_pretrained` merge the adapters into
    the weights; `merge_checkpoint` does so for a checkpoint.

    Args:
        rank: Width of A's output.
        alpha: Scale of the change.
        dropout: On what A sees.
        layers: Names of the linear layers that get adapters, such as `[query, value]`; None for all.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self, rank: int = 8, alpha: float = 16.0, dropout: float = 0.0, layers: list[str] | None = None
    ) -> None:
        self.adapters = Adapters(rank, alpha, dropout, tuple(layers or ()))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Put the adapters in, unless they are there, as in a module from a checkpoint."""
        if not isinstance(pl_module, FusionModule):
            raise TypeError(f"Expected a mner.fusion.FusionModule, but got {type(pl_module).__name__}")
        encoder = pl_module.text_encoder
        if encoder.adapters is None and stage == "fit":
            encoder.adapt(self.adapters)
            learnt = [part.numel() for part in encoder.parameters() if part.requires_grad]
            total = sum(part.numel() for part in encoder.parameters())
            log.info("LoRA: %s of %s parameters of the text encoder are trained", f"{sum(learnt):,}", f"{total:,}")
        elif encoder.adapters is not None and encoder.adapters != self.adapters:
            raise CheckpointError(
                f"Expected adapters of {self.adapters.plain()}, as the LoRA callback says, but the model has "
                f"{encoder.adapters.plain()}; give the callback the same"
            )


def merge_checkpoint(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Write a checkpoint without adapters, which computes the same and needs no `peft`. It cannot be trained on from.

    Args:
        path: A checkpoint that was trained with `LoRA`.
        out: The file to write.

    Raises:
        CheckpointError: If it is no checkpoint of `mner`, or has no adapters.
    """
    from mner.hub import merged_state

    checkpoint: dict[str, Any] = read_checkpoint(os.fspath(path))
    if not checkpoint[KEY]["text_config"].pop(ADAPTERS, None):
        raise CheckpointError(f"Expected a checkpoint with LoRA adapters at {os.fspath(path)}, but it has none")
    model = FusionModule.load_from_checkpoint(path)
    kept = {name: value for name, value in checkpoint.items() if name not in _OF_TRAINING}
    torch.save({**kept, "state_dict": merged_state(model)}, out)
    return Path(out)


_OF_TRAINING = (
    *("optimizer_states", "lr_schedulers", "callbacks", "loops"),
    *("current_model_state", "averaging_state"),  # of Lightning's WeightAveraging
)
"""What a merged checkpoint leaves out: it belongs to the adapters' training."""
