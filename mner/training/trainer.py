"""The Trainer of the command line: Lightning's, with a test that is reported and predictions that are written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch

from mner.data.datamodules.base import MNERDataModule
from mner.data.datamodules.joint import JointDataModule, chosen_part
from mner.data.formats.predictions import MARK, Prediction, prediction_header, write_predictions
from mner.files import STANDARD, refuse_foreign
from mner.runtime import run_seed, versions
from mner.training.checkpoint import class_path
from mner.training.module import TaggingModule
from mner.training.score_report import check_against_seqeval, score_table


class Trainer(pl.Trainer):
    """`pytorch_lightning.Trainer` whose `test` prints a full report and whose `predict` writes a prediction file."""

    def validate(  # type: ignore[override]  # fewer arguments: the command line needs no more
        self,
        model: TaggingModule | None = None,
        datamodule: MNERDataModule | JointDataModule | None = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = False,
        weights_only: bool | None = None,
    ) -> Any:
        """Score the valid split and print precision, recall and F1 per type, lenient and strict.

        Args:
            model: The module.
            datamodule: The data.
            ckpt_path: Checkpoint to score, or `best`, `last`.
            verbose: Print Lightning's own table too.
            weights_only: As for `torch.load`; here so that the config that `fit` saved is understood.
        """
        with self._also(_ValidReport()):
            return super().validate(
                model, datamodule=datamodule, ckpt_path=ckpt_path, verbose=verbose, weights_only=_safe(weights_only)
            )

    def test(  # type: ignore[override]  # fewer arguments: the command line needs no more
        self,
        model: TaggingModule | None = None,
        datamodule: MNERDataModule | JointDataModule | None = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = False,
        weights_only: bool | None = None,
    ) -> Any:
        """Score the test split and print precision, recall and F1 per type, lenient and strict, beside seqeval's.

        Args:
            model: The module.
            datamodule: The data.
            ckpt_path: Checkpoint to test, or `best`, `last`.
            verbose: Print Lightning's own table too.
            weights_only: As for `torch.load`; here so that the config that `fit` saved is understood.

        Raises:
            RuntimeError: If `SpanF1` and seqeval disagree.
        """
        with self._also(_TestReport()):
            return super().test(
                model, datamodule=datamodule, ckpt_path=ckpt_path, verbose=verbose, weights_only=_safe(weights_only)
            )

    def predict(  # type: ignore[override]  # fewer arguments: the command line needs no more
        self,
        model: TaggingModule | None = None,
        datamodule: MNERDataModule | JointDataModule | None = None,
        ckpt_path: str | Path | None = None,
        output: str = "predictions.jsonl",
        split: Literal["train", "valid", "test"] = "test",
        weights_only: bool | None = None,
        label_set: str | None = None,
    ) -> Any:
        """Write the predictions of one split as JSON lines.

        Args:
            model: The module.
            datamodule: The data.
            ckpt_path: Checkpoint to use, or `best`, `last`.
            output: File to write, new or a prediction file; `-` is the standard output.
            split: The split to predict.
            weights_only: As for `torch.load`; here so that the config that `fit` saved is understood.
            label_set: Which of several data sets to predict; not for a single one.

        Returns:
            The predictions, in file order (None where they were made in processes that are gone, as under `ddp_spawn`).
        """
        if datamodule is None or model is None:
            raise ValueError("Expected a model and a data module, but got none")
        refuse_foreign(output, MARK, [] if ckpt_path in (None, "best", "last") else [str(ckpt_path)])
        data = chosen_part(datamodule, label_set)
        if label_set is not None:
            model.use(label_set)
        data.predict_split = split
        writer = _Writer(output, split)
        # What else is printed, such as progress, must not get between the lines of the predictions.
        with redirect_stdout(sys.stderr) if output == STANDARD else nullcontext(), self._also(writer):
            super().predict(
                model,
                datamodule=data,
                ckpt_path=ckpt_path,
                return_predictions=False,
                weights_only=_safe(weights_only),
            )
        return writer.written

    @contextmanager
    def _also(self, callback: pl.Callback) -> Iterator[None]:
        """With one callback more. What it gathers from all processes, it gathers while they are all there."""
        callbacks: list[pl.Callback] = self.callbacks  # type: ignore[attr-defined]
        callbacks.append(callback)
        try:
            yield
        finally:
            callbacks.remove(callback)


class _ValidReport(pl.Callback):
    """Prints the scores of the valid split."""

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Print them."""
        if trainer.is_global_zero:
            for prefix in _chosen(pl_module, "val"):
                print("\n" + score_table(pl_module.labels, _plain(trainer.callback_metrics), prefix))


class _TestReport(pl.Callback):
    """Prints the scores of the test split, and seqeval's beside them."""

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        """Print them."""
        for prefix in _chosen(pl_module, "test"):
            self._report(trainer, pl_module, prefix)

    def _report(self, trainer: Any, pl_module: Any, prefix: str) -> None:
        tested = _gather(pl_module.tested)
        if not trainer.is_global_zero:
            return
        metrics = _plain(trainer.callback_metrics)
        report = check_against_seqeval(tested, metrics, prefix)
        print("\n" + score_table(pl_module.labels, metrics, prefix))
        print(f"\nseqeval on the same {len(tested)} posts (lenient):\n{report}")
        print("SpanF1 and seqeval agree.")


class _Writer(pl.Callback):
    """Writes what `predict_step` returns; Lightning's own list cannot hold frozen dataclasses."""

    def __init__(self, output: str, split: str) -> None:
        self.output = output
        self.stdout = sys.stdout
        self.split = split
        self.posts: list[Prediction] = []
        self.written: list[Prediction] | None = None

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any) -> None:
        """Keep the posts of a batch."""
        self.posts += outputs

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        """Write all posts, in file order."""
        data: MNERDataModule = trainer.datamodule
        order = {post.id: place for place, post in enumerate(data.datasets[self.split].examples)}
        self.written = sorted(_gather(self.posts), key=lambda post: order[post.id])
        if trainer.is_global_zero:
            with redirect_stdout(self.stdout):
                write_predictions(self.output, header(pl_module, data, self.split, trainer.ckpt_path), self.written)
            if self.output != STANDARD:
                print(f"\n{len(self.written)} posts of {self.split} written to {self.output}")


def _chosen(module: TaggingModule, stage: str) -> Iterator[str]:
    """The prefix of the scores of each label set that was scored, which is chosen meanwhile."""
    before = module.label_set
    for prefix, name in module.scored(stage).items():
        if name:
            print(f"\n{name}")
            module.use(name)
        yield prefix
    if before is not None:
        module.use(before)


def _safe(weights_only: bool | None) -> bool:
    """Weights only unless it was asked for otherwise: Lightning's default runs what a remote checkpoint says."""
    return weights_only is not False


def _plain(metrics: Any) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def header(model: TaggingModule, data: MNERDataModule, split: str, checkpoint: str | Path | None) -> dict[str, Any]:
    """The first line of a prediction file: what made it, from what."""
    # The seed of the training run, not that of the prediction.
    seed = (model.restored or {}).get("seed", run_seed())
    made = prediction_header(
        model=class_path(model),
        split=split,
        data=type(data).__name__,
        fingerprint=data.fingerprints.get(split),
        labels=model.labels,
        checkpoint=None if checkpoint is None else Path(checkpoint).name,
        seed=seed,
        context=data.context_names,
    )
    return {**made, "versions": versions()}


def _gather(mine: list[Any]) -> list[Any]:
    """The lists of all processes, one after the other."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return list(mine)
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, mine)
    return [entry for part in parts for entry in part]
