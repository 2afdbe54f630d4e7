"""A learning-rate search whose find is used, also where the rate follows a schedule."""

from __future__ import annotations

import logging

import pytorch_lightning as pl
from pytorch_lightning.callbacks import LearningRateFinder

log = logging.getLogger(__name__)


class FindLearningRate(LearningRateFinder):
    """Sets the model's `learning_rate` before training: tries rates that rise step by step, and watches the loss.

    Lightning's own `LearningRateFinder` writes the rate into the optimiser, where the schedule of a `FusionModule`
    replaces it at the next step by the old one. Here optimiser and schedule are made anew with the rate that was found.
    During the search all parts of the model share the rate that is tried; afterwards `head_learning_rate`, where it is
    given, stays what it is.

    Args:
        min_lr: The first rate that is tried.
        max_lr: The last.
        num_training_steps: How many are tried, one a step; no more than the run has steps.
        early_stop_threshold: The search ends where the loss is so many times the best; None for never.
    """

    def __init__(
        self,
        min_lr: float = 1e-7,
        max_lr: float = 1e-2,
        num_training_steps: int = 100,
        early_stop_threshold: float | None = 4.0,
    ) -> None:
        super().__init__(min_lr, max_lr, num_training_steps, early_stop_threshold=early_stop_threshold)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Search, then make the optimiser with what was found. A run that goes on from a checkpoint has its rate."""
        if trainer.ckpt_path is not None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._num_training_steps = min(self._num_training_steps, int(trainer.estimated_stepping_batches))
        before = pl_module.hparams["learning_rate"]
        self.lr_find(trainer, pl_module)
        if self.optimal_lr is None or pl_module.hparams["learning_rate"] == before:
            log.warning("No learning rate was found in %d steps; %g is kept", self._num_training_steps, before)
            return
        trainer.strategy.setup_optimizers(trainer)
        log.info("Learning rate found: %.3g (instead of %g)", pl_module.hparams["learning_rate"], before)
