"""`TaggingModule`: Lightning's half of every strategy. Training step, optimiser and schedule, checkpoint hooks.

Scores are its base, `mner.training.evaluation`; what a strategy computes is the other half, `mner.fusion.base`. Names
of what is logged: `train/loss` and `train/{part}_loss`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.data.agreement import check_batch, tokenizer_of
from mner.data.datamodules.joint import described, parts_of
from mner.data.loader import PostLoader
from mner.data.recipe import check_inputs, check_restored
from mner.runtime import leave_group_at_exit
from mner.training.checkpoint import (
    accept,
    check_goes_on,
    load_module,
    own_names,
    plain_names,
    without_training_state,
    write_extras,
)
from mner.training.checkpoint_file import write_whole
from mner.training.evaluation import Evaluation
from mner.training.init_from import begin_from
from mner.training.optimisation import adamw, follow_new_groups, rate_between, warmup_and_decay

ExtraLoss = Callable[[Any, Batch, Tensor], Tensor]


class TaggingModule(Evaluation):
    """Trains, scores and keeps a model that gives each word a label.

    Args:
        labels: BIO labels, `O` first; or such a list for each label set, by name.

    Attributes:
        region_order_matters: Whether regions in another order may give other emissions.
        extra_losses: Parts of the training loss by name, beside those of `losses`: functions of module, batch and
            emissions (b, w, l) that a technique registers for a run.
        saves_training_state: Whether checkpoints have what a run goes on from beside the weights.
    """

    region_order_matters: ClassVar[bool] = False

    def __init__(self, labels: list[str] | dict[str, list[str]]) -> None:
        super().__init__(labels)
        self.extra_losses: dict[str, ExtraLoss] = {}
        self.saves_training_state = True
        self._begun = False
        self._places: list[dict[str, Any]] = []  # in the epoch, of the loaders of a run that goes on

    # What the strategy's half has

    def emissions(self, batch: Batch) -> Tensor:
        """Label scores (b, w, l), before the CRF."""
        raise NotImplementedError

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the training loss, by name."""
        raise NotImplementedError

    @property
    def pretrained(self) -> Sequence[nn.Module]:
        """The parts that are trained at `learning_rate`."""
        raise NotImplementedError

    @property
    def output_layers(self) -> Sequence[nn.Module]:
        """The parts that are trained at `head_learning_rate`; what is in neither list has `fusion_learning_rate`."""
        raise NotImplementedError

    # Training

    def setup(self, stage: str) -> None:
        """Refuse data that do not bring what the model was built for."""
        leave_group_at_exit()
        write_whole(self.trainer)
        if stage == "fit" and self.restored is not None and not self.training:
            self.train()  # a loaded module is in evaluation mode, and Lightning would train it so, without dropout
        data = getattr(self.trainer, "datamodule", None)
        parts = parts_of(data, self)
        for name, part in parts.items():
            self.select(Batch(label_set=name) if name else Batch())
            check_inputs(self, part)
            if self.restored is not None:
                check_restored(part, described(self.restored.get("data", {}), name or self.label_set))
            self._tokenizer = part.post_tokenizer.fingerprint
        if not parts and (own := tokenizer_of(self)) is not None:
            self._tokenizer = own.fingerprint
        begin = self.hparams.get("init_from") if stage == "fit" and self.restored is None else None
        if begin and not self._begun and not self.trainer.ckpt_path:  # a run that goes on has its own weights
            begin_from(self, begin)
            self._begun = True

    def on_train_start(self) -> None:
        """Go on in the middle of the epoch that a checkpoint was taken in.

        Lightning restores a loader only if it makes it after reading the checkpoint; the schedule asks for it before.
        """
        places, self._places = self._places, []
        loader = self.trainer.train_dataloader
        if isinstance(loader, PostLoader) and len(places) == 1:
            loader.load_state_dict(places[0])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step of training."""
        self.select(batch)
        check_batch(self, batch, self._tokenizer)
        parts = self._losses(batch)
        loss = torch.stack(list(parts.values())).sum()
        size = len(batch["id"])
        self.log_dict({f"train/{name}_loss": part for name, part in parts.items()}, batch_size=size)
        self.log("train/loss", loss, batch_size=size, prog_bar=True)
        return loss

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the loss, and those that techniques registered for this run."""
        if not self.extra_losses:
            return self.losses(batch)
        seen: list[Tensor] = []
        crf: Any = self.crf
        watch = crf.register_forward_pre_hook(lambda crf, inputs: seen.append(inputs[0]))
        try:
            parts = self.losses(batch)
        finally:
            watch.remove()
        emissions = seen[0] if seen else self.emissions(batch)  # a strategy may train its posteriors only
        return {**parts, **{name: extra(self, batch, emissions) for name, extra in self.extra_losses.items()}}

    # Optimisation

    @property
    def progress(self) -> float:
        """Part of the training that is done, 0 to 1, for schedules of losses; 0 outside of training."""
        trainer = self._trainer
        if trainer is None or trainer.state.fn != "fit":
            return 0.0
        total = trainer.estimated_stepping_batches  # -1 where nobody knows
        return min(1.0, trainer.global_step / total) if total > 0 else 0.0

    def configure_optimizers(self) -> Any:
        """AdamW and a schedule of its rates; see `mner.training.optimisation`."""
        options, total = self.hparams, self.trainer.estimated_stepping_batches
        rate = options["learning_rate"]
        head = options["head_learning_rate"] or rate
        fusion = options["fusion_learning_rate"] or rate_between(rate, head)
        optimizer = adamw(self, rate, head, options["weight_decay"], fusion)
        schedule = warmup_and_decay(optimizer, options["warmup_ratio"], total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """One step of the schedule, for the groups of parameters too that a callback added (Lightning's finetuning)."""
        follow_new_groups(scheduler)
        super().lr_scheduler_step(scheduler, metric)

    # Checkpoints

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # overloads of torch
        """The weights by name; those of parts that `torch.compile` wrapped have the same names as without it."""
        return plain_names(super().state_dict(*args, **kwargs))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        own_names(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to build the model again: class, configuration, tokeniser, data fingerprint."""
        write_extras(self, checkpoint)
        if not self.saves_training_state:
            without_training_state(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another class or of other labels; Lightning calls this when it restores one."""
        accept(self, checkpoint)
        if self.trainer.training:
            check_goes_on(checkpoint, self.trainer.ckpt_path or "the given path")
        options = checkpoint.get("hyper_parameters", {})
        if "fusion_learning_rate" not in options:  # of a time when all but the encoders had one rate; a run keeps it
            self.hparams["fusion_learning_rate"] = options.get("head_learning_rate") or options.get("learning_rate")
        loop: dict[str, Any] = checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {})
        self._places = list(loop.get("combined_loader", []))
        data = getattr(self.trainer, "datamodule", None)
        if self.restored is not None:
            before, resumed = self.restored.get("data", {}), bool(self.trainer.training)
            for name, part in parts_of(data, self).items():
                check_restored(part, described(before, name or self.label_set), resumed=resumed)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # no hparams_file, and never anything but weights
        cls, checkpoint_path: Any, map_location: Any = None, **kwargs: Any
    ) -> Self:
        """Load a checkpoint as the class that wrote it (a subclass of this one), weights only.

        Args:
            checkpoint_path: The file.
            map_location: Device, as for `torch.load`; None for the CPU.
            kwargs: Constructor arguments that replace stored ones.
        """
        return load_module(checkpoint_path, cls, map_location, **kwargs)
