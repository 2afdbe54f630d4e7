"""Checkpoints are written beside their place and put there whole: a full disk or a kill leaves the one before."""

from __future__ import annotations

from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning_fabric.utilities.types import _PATH
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import Strategy

from mner.files import whole


class WholeCheckpointIO(TorchCheckpointIO):
    """As Lightning's, which writes into a temporary folder and copies from there where that is another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Write a checkpoint; on a disk of this machine whole or not at all."""
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with whole(path) as file:
            torch.save(checkpoint, file)


def write_whole(trainer: Trainer) -> None:
    """Have a trainer write its checkpoints so, unless its strategy or somebody's plugin has a way of its own."""
    strategy = trainer.strategy
    if type(strategy).save_checkpoint is Strategy.save_checkpoint and type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = WholeCheckpointIO()
