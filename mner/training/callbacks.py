"""Callbacks that a config can name for any strategy: the best checkpoint, LoRA, the search for a learning rate."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import LearningRateFinder, ModelCheckpoint
from torch import Tensor

from mner.encoders.lora import Adapters
from mner.errors import CheckpointError
from mner.files import lock
from mner.training.module import TaggingModule

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
        if not isinstance(pl_module, TaggingModule):
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


log = logging.getLogger(__name__)


class FindLearningRate(LearningRateFinder):
    """Sets the model's `learning_rate` before training: tries rates that rise step by step, and watches the loss.

    Lightning's own `LearningRateFinder` writes the rate into the optimiser, where the schedule of a `FusionModule`
    replaces it at the next step by the old one. Here optimiser and schedule are made anew with the rate that was found.
    During the search all parts of the model share the rate that is tried; afterwards `head_learning_rate` and
    `fusion_learning_rate`, where they are given, stay what they are.

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
        self._num_training_steps = int(min(self._num_training_steps, trainer.estimated_stepping_batches))
        before = pl_module.hparams["learning_rate"]
        self.lr_find(trainer, pl_module)
        if self.optimal_lr is None or pl_module.hparams["learning_rate"] == before:
            log.warning("No learning rate was found in %d steps; %g is kept", self._num_training_steps, before)
            return
        trainer.strategy.setup_optimizers(trainer)
        log.info("Learning rate found: %.3g (instead of %g)", pl_module.hparams["learning_rate"], before)


class BestByF1(ModelCheckpoint):
    """Keeps the checkpoint of the best lenient F1 on the valid split (a tie keeps the earlier one), and the last one.

    The last one is what an interrupted run goes on from: `mner fit … --ckpt_path …/last.ckpt`. The best one, which is
    there to be used, holds the weights once and no state of the optimiser, which is twice their size.

    Args:
        monitor: As Lightning's.
        mode: As Lightning's.
        filename: As Lightning's.
        save_last: As Lightning's; where it is not `True`, a run goes on from the best checkpoint, which is whole then.
        save_weights_only: As Lightning's, for both; None for the best one alone.
        kwargs: As Lightning's.
    """

    def __init__(
        self,
        monitor: str = "val/f1",
        mode: str = "max",
        filename: str = "best",
        save_last: bool | None = True,
        save_weights_only: bool | None = None,
        **kwargs: Any,
    ) -> None:
        bare = bool(save_weights_only)
        super().__init__(
            monitor=monitor, mode=mode, filename=filename, save_last=save_last, save_weights_only=bare, **kwargs
        )
        self._best_is_slim = save_weights_only is None and save_last is True

    _held: Any = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let no second run keep its checkpoints in the same folder.

        Raises:
            BusyError: If another process does.
        """
        super().setup(trainer, pl_module, stage)
        local = self.dirpath is not None and "://" not in str(self.dirpath)
        if stage == "fit" and trainer.is_global_zero and local and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            folder = Path(str(self.dirpath))
            folder.mkdir(parents=True, exist_ok=True)
            self._held = lock(folder / ".mner.lock", f"{folder} (a training run)")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let others keep theirs there."""
        super().teardown(trainer, pl_module, stage)
        self._let_go()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let others keep theirs there, since then there is no teardown."""
        super().on_exception(trainer, pl_module, exception)
        self._let_go()

    def _let_go(self) -> None:
        if self._held is not None:
            self._held.release()
            self._held = None

    def _save_topk_checkpoint(self, trainer: pl.Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        # Not by Lightning's own `save_weights_only`: it leaves out what callbacks do to the weights, such as averaging.
        module: Any = trainer.lightning_module
        module.saves_training_state = not self._best_is_slim
        try:
            super()._save_topk_checkpoint(trainer, monitor_candidates)
        finally:
            module.saves_training_state = True

    # Lightning keeps the last checkpoint only where the score got better: then a run could go on from there only.

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the last one, whatever its score."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._should_save_on_train_epoch_end(trainer):
            self._keep_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the last one, whatever its score."""
        super().on_validation_end(trainer, pl_module)
        if not self._should_save_on_train_epoch_end(trainer):
            self._keep_last(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the last one of a run that ends between validations, or before the first; none of a `fast_dev_run`."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            super().on_train_end(trainer, pl_module)
            self._keep_last(trainer)

    def _keep_last(self, trainer: pl.Trainer) -> None:
        # What is skipped: sanity checks, fast_dev_run, and a step that was saved already.
        if self.save_last is True and not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
