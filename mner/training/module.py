"""`TaggingModule`: Lightning's half of every strategy. Steps, loss, scores, optimiser and schedule, checkpoint hooks.

What a strategy computes is the other half, `mner.fusion.base`. Names of what is logged: `train/loss` and
`train/{part}_loss`, `val/f1` and `test/f1` (lenient; also precision, recall, and `{type}/f1`), `val/strict/f1`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Self

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.data.agreement import check_batch, tokenizer_of
from mner.data.datamodules.base import MNERDataModule
from mner.data.formats.predictions import Prediction, ScoredSpan
from mner.data.loader import PostLoader
from mner.data.recipe import check_inputs, check_restored
from mner.data.windows import whole_posts
from mner.labels import MODES, Span, spans
from mner.metrics import SpanF1
from mner.training.checkpoint import accept, load_module, own_names, plain_names, write_extras

log = logging.getLogger(__name__)
STAGES = ("val", "test")
ExtraLoss = Callable[[Any, Batch, Tensor], Tensor]


class TaggingModule(pl.LightningModule):
    """Trains, scores and keeps a model that gives each word a label.

    Args:
        labels: BIO labels, `O` first.

    Attributes:
        uses_image: Whether images are read.
        needs: Inputs beyond regions: some of `boxes`, `scores`, `object_names`, `relation`, `groups`. Batches then have
            them, or the data are refused before training (`mner.data.inputs`).
        region_order_matters: Whether regions in another order may give other emissions.
        text_alone: Set to True, a strategy that uses images takes batches without any; else it refuses them.
        extra_losses: Parts of the training loss by name, beside those of `losses`: functions of module, batch and
            emissions (b, w, l) that a technique registers for a run.
        restored: What the checkpoint that it came from says of its data; None for a new model.
    """

    uses_image: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset()
    region_order_matters: ClassVar[bool] = False
    text_alone: bool = False
    labels: list[str]
    text_encoder: Any

    def __init__(self, labels: list[str]) -> None:
        super().__init__()
        self.labels = list(labels)
        self.metrics: Any = nn.ModuleDict(
            {f"{stage}_{mode}": SpanF1(labels, mode=mode) for stage in STAGES for mode in MODES}
        )
        self._tested: list[tuple[list[str], list[str]]] = []
        self.restored: dict[str, Any] | None = None
        self.extra_losses: dict[str, ExtraLoss] = {}
        self._tokenizer: str | None = None
        self._places: list[dict[str, Any]] = []  # in the epoch, of the loaders of a run that goes on

    # What the strategy's half has

    def label_scores(self, batch: Batch) -> Tensor:
        """What is decoded (b, w, l): scores of the labels of each word."""
        raise NotImplementedError

    def emissions(self, batch: Batch) -> Tensor:
        """Label scores (b, w, l), before the CRF."""
        raise NotImplementedError

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the training loss, by name."""
        raise NotImplementedError

    def evaluation_loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Loss of the gold tags."""
        raise NotImplementedError

    def decode(self, scores: Tensor, batch: Batch) -> list[list[int]]:
        """The best label indices of each post, as long as its words."""
        raise NotImplementedError

    def entity_scores(self, scores: Tensor, batch: Batch, found: list[list[Span]]) -> list[list[float]]:
        """Probability of each span."""
        raise NotImplementedError

    @property
    def pretrained(self) -> Sequence[nn.Module]:
        """The parts that are trained at `learning_rate`; all others have `head_learning_rate`."""
        raise NotImplementedError

    # Training and evaluation

    def setup(self, stage: str) -> None:
        """Refuse data that do not bring what the model was built for."""
        if stage == "fit" and self.restored is not None and not self.training:
            self.train()  # a loaded module is in evaluation mode, and Lightning would train it so, without dropout
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, MNERDataModule):
            check_inputs(self, data)
            if self.restored is not None:
                check_restored(data, self.restored.get("data", {}))
            self._tokenizer = data.post_tokenizer.fingerprint
        elif (own := tokenizer_of(self)) is not None:
            self._tokenizer = own.fingerprint

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

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one batch of the valid split."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one batch of the test split."""
        paths, batch = self._evaluate(batch, "test")
        gold = self._names(batch["tags"].tolist(), [len(words) for words in batch["words"]])
        self._tested += zip(gold, self._names(paths), strict=True)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the valid split."""
        self._log_scores("val")

    def on_test_epoch_start(self) -> None:
        """Forget the posts of an earlier test."""
        self._tested = []

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test split."""
        self._log_scores("test")

    @property
    def tested(self) -> list[tuple[list[str], list[str]]]:
        """Gold and predicted tags of each post that this process tested last."""
        return self._tested

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Prediction]:
        """Tags and entities of each post, with the probability of each entity."""
        check_batch(self, batch, self._tokenizer)
        label_scores, batch = whole_posts(self.label_scores(batch), batch)
        pred = self._names(self.decode(label_scores, batch))
        found = [spans(tags) for tags in pred]
        scores = self.entity_scores(label_scores, batch, found)
        gold: list[list[str] | None] = [None] * len(pred)
        if "tags" in batch:
            gold = list(self._names(batch["tags"].tolist(), [len(words) for words in batch["words"]]))
        has_image = batch["has_image"].tolist()
        return [
            Prediction(
                id=batch["id"][row],
                image_id=batch["image_id"][row],
                words=batch["words"][row],
                gold=None if (tags := gold[row]) is None else tuple(tags),
                pred=tuple(pred[row]),
                entities=tuple(
                    ScoredSpan(*span, round(score, 6)) for span, score in zip(found[row], scores[row], strict=True)
                ),
                has_image=has_image[row],
            )
            for row in range(len(pred))
        ]

    def _evaluate(self, batch: Batch, stage: str) -> tuple[list[list[int]], Batch]:
        check_batch(self, batch, self._tokenizer)
        scores, batch = whole_posts(self.label_scores(batch), batch)
        size = len(batch["id"])
        self.log(f"{stage}/loss", self.evaluation_loss(scores, batch), batch_size=size, on_epoch=True, sync_dist=True)
        paths = self.decode(scores, batch)
        w = batch["word_mask"].shape[1]
        pred = torch.tensor([path + [0] * (w - len(path)) for path in paths])  # the metric counts on the host
        for mode in MODES:
            self.metrics[f"{stage}_{mode}"].update(pred, batch["tags"], batch["word_mask"])
        return paths, batch

    def _log_scores(self, stage: str) -> None:
        for mode in MODES:
            metric = self.metrics[f"{stage}_{mode}"]
            prefix = f"{stage}/" if mode == "lenient" else f"{stage}/strict/"
            for name, value in metric.compute().items():
                # The same in each process; sync_dist only tells Lightning so, which else warns of each of them.
                self.log(prefix + name, value, prog_bar=prefix + name == f"{stage}/f1", sync_dist=True)
            metric.reset()

    def _names(self, paths: list[list[int]], lengths: list[int] | None = None) -> list[list[str]]:
        ends = lengths or [len(path) for path in paths]
        return [[self.labels[index] for index in path[:end]] for path, end in zip(paths, ends, strict=True)]

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
        """AdamW with a rate for the encoders and one for the rest; linear warm-up and decay over all steps.

        A run whose end nobody knows (`max_epochs` -1 without `max_steps`) has constant rates.
        """
        from transformers import get_constant_schedule, get_linear_schedule_with_warmup

        options = self.hparams
        head_rate = options["head_learning_rate"] or options["learning_rate"]
        inside = {id(parameter) for part in self.pretrained for parameter in part.parameters()}
        rated = [(parameter, id(parameter) in inside) for parameter in self.parameters() if parameter.requires_grad]
        plain = _undecayed(self)
        groups = [
            {
                "params": [p for p, in_encoder in rated if in_encoder is encoder and (id(p) in plain) is undecayed],
                "lr": options["learning_rate"] if encoder else head_rate,
                "weight_decay": 0.0 if undecayed else options["weight_decay"],
            }
            for encoder in (True, False)
            for undecayed in (True, False)
        ]
        # One pass over each parameter: four times as fast on a CPU as the default.
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], fused=True)
        # Gradients are unscaled outside the optimiser; it says that it could do so itself, and Lightning then refuses
        # to clip them under mixed precision.
        optimizer._step_supports_amp_scaling = False
        total = self.trainer.estimated_stepping_batches
        schedule: Any
        if math.isinf(total):
            log.warning("The learning rate stays as it is: with max_epochs -1 and no max_steps nobody knows the end")
            schedule = get_constant_schedule(optimizer)
        else:
            schedule = get_linear_schedule_with_warmup(optimizer, int(options["warmup_ratio"] * total), int(total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """One step of the schedule, for the groups of parameters too that a callback added (Lightning's finetuning)."""
        if isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
            for group in scheduler.optimizer.param_groups[len(scheduler.base_lrs) :]:
                scheduler.base_lrs.append(group.setdefault("initial_lr", group["lr"]))
                scheduler.lr_lambdas.append(scheduler.lr_lambdas[0])
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

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another class or of other labels; Lightning calls this when it restores one."""
        accept(self, checkpoint)
        loop: dict[str, Any] = checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {})
        self._places = list(loop.get("combined_loader", []))
        data = getattr(self.trainer, "datamodule", None)
        if self.restored is not None and isinstance(data, MNERDataModule):
            check_restored(data, self.restored.get("data", {}), resumed=bool(self.trainer.training))

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


def _undecayed(module: nn.Module) -> set[int]:
    """Ids of parameters without weight decay: biases and everything of normalisation layers."""
    norms = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
    found: set[int] = set()
    for part in module.modules():
        named: Iterable[tuple[str, nn.Parameter]] = part.named_parameters(recurse=False)
        found |= {
            id(parameter)
            for name, parameter in named
            if isinstance(part, norms) or "bias" in name or "norm" in name.lower()
        }
    return found
