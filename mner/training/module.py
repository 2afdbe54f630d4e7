"""`TaggingModule`: Lightning's half of every strategy. Steps, loss, scores, optimiser and schedule, checkpoint hooks.

What a strategy computes is the other half, `mner.fusion.base`. Names of what is logged: `train/loss` and
`train/{part}_loss`, `val/f1` and `test/f1` (lenient; also precision, recall, and `{type}/f1`), `val/strict/f1`. With
several label sets, those of each are under `val/{set}/`, and `val/f1` is their mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.data.agreement import check_batch, tokenizer_of
from mner.data.datamodules.joint import described, parts_of
from mner.data.formats.predictions import Prediction, ScoredSpan
from mner.data.loader import PostLoader
from mner.data.recipe import check_inputs, check_restored
from mner.data.windows import whole_posts
from mner.labels import MODES, Span, spans
from mner.training.checkpoint import accept, begin_from, load_module, own_names, plain_names, write_extras
from mner.training.label_sets import LabelSets
from mner.training.optimisation import adamw, follow_new_groups, warmup_and_decay

ExtraLoss = Callable[[Any, Batch, Tensor], Tensor]


class TaggingModule(LabelSets):
    """Trains, scores and keeps a model that gives each word a label.

    Args:
        labels: BIO labels, `O` first; or such a list for each label set, by name.

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
    text_encoder: Any

    def __init__(self, labels: list[str] | dict[str, list[str]]) -> None:
        super().__init__(labels)
        self._tested: dict[str, list[tuple[list[str], list[str]]]] = {}  # by label set
        self.restored: dict[str, Any] | None = None
        self.extra_losses: dict[str, ExtraLoss] = {}
        self._tokenizer: str | None = None
        self._begun = False
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

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one batch of the valid split."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one batch of the test split."""
        paths, batch = self._evaluate(batch, "test")
        gold = self._names(batch["tags"].tolist(), [len(words) for words in batch["words"]])
        self._tested.setdefault(self._set_of(batch), []).extend(zip(gold, self._names(paths), strict=True))

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the valid split."""
        self._log_scores("val")

    def on_test_epoch_start(self) -> None:
        """Forget the posts of an earlier test."""
        self._tested = {}

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test split."""
        self._log_scores("test")

    @property
    def tested(self) -> list[tuple[list[str], list[str]]]:
        """Gold and predicted tags of each post that this process tested last; of the chosen label set."""
        return self._tested.get(self._set_of(Batch()), [])

    def _set_of(self, batch: Batch) -> str:
        return batch.get("label_set", self.label_set or "") if self.label_sets else ""

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Prediction]:
        """Tags and entities of each post, with the probability of each entity."""
        self.select(batch)
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
        self.select(batch)
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
            prefix = f"{stage}/" if mode == "lenient" else f"{stage}/strict/"
            if self.label_sets:
                scores = self._scores_of_sets(stage, mode, prefix)
            else:
                metric = self.metrics[f"{stage}_{mode}"]
                scores = {prefix + name: value for name, value in metric.compute().items()}
                metric.reset()
            for name, value in scores.items():
                # The same in each process; sync_dist only tells Lightning so, which else warns of each of them.
                self.log(name, value, prog_bar=name == f"{stage}/f1", sync_dist=True)

    def _scores_of_sets(self, stage: str, mode: str, prefix: str) -> dict[str, Tensor]:
        """Scores of the label sets that posts were seen of, and the mean over these sets."""
        scores: dict[str, Tensor] = {}
        seen: list[dict[str, Tensor]] = []
        for label_set, metrics in self.all_metrics.items():
            metric: Any = metrics[f"{stage}_{mode}"]  # type: ignore[index]
            if metric.update_count:
                seen.append(metric.compute())
                scores |= {prefix.replace("/", f"/{label_set}/", 1) + name: value for name, value in seen[-1].items()}
            metric.reset()
        if seen:
            for name in ("precision", "recall", "f1"):
                scores[prefix + name] = torch.stack([found[name] for found in seen]).mean()
        return scores

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
        """AdamW and a schedule of its rates; see `mner.training.optimisation`."""
        options, total = self.hparams, self.trainer.estimated_stepping_batches
        rate = options["learning_rate"]
        optimizer = adamw(self, rate, options["head_learning_rate"] or rate, options["weight_decay"])
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

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another class or of other labels; Lightning calls this when it restores one."""
        accept(self, checkpoint)
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
