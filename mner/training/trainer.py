"""The Trainer of the command line: Lightning's, with a test that is reported and predictions that are written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.precision.precision import _PRECISION_INPUT
from pytorch_lightning.accelerators import Accelerator, CPUAccelerator, CUDAAccelerator

from mner.data.datamodules.base import MNERDataModule
from mner.data.datamodules.joint import JointDataModule, chosen_part
from mner.data.formats.predictions import MARK, Prediction, prediction_header, write_predictions
from mner.files import STANDARD, refuse_foreign
from mner.nn.neighbours import WordNeighbours, use_neighbours
from mner.runtime import automatic_precision, pick_device, run_seed, versions
from mner.training.checkpoint import class_path
from mner.training.module import TaggingModule
from mner.training.score_report import check_against_seqeval, score_table
from mner.training.stored_facts import CALIBRATION


class Trainer(pl.Trainer):
    """`pytorch_lightning.Trainer` whose `test` prints a full report and whose `predict` writes a prediction file.

    Args:
        accelerator: As Lightning's.
        precision: As Lightning's, or `auto` for what the machine does best, as `mner.runtime.automatic_precision`
            finds it: never what is slower here than float32. None for float32.
        limit_train_batches: As Lightning's: a number of batches (1) or a share (1.0). This and the next four are named
            here since `typing` may give `Union[float, int]`, which some package wrote first, for Lightning's
            `Union[int, float]`; the command line then reads 1 as 1.0.
        limit_val_batches: As Lightning's.
        limit_test_batches: As Lightning's.
        limit_predict_batches: As Lightning's.
        overfit_batches: As Lightning's.
        options: As Lightning's.
    """

    def __init__(
        self,
        *,
        accelerator: str | Accelerator = "auto",
        precision: _PRECISION_INPUT | Literal["auto"] | None = None,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        overfit_batches: int | float = 0.0,
        **options: Any,
    ) -> None:
        if precision == "auto":
            precision = automatic_precision(device_of(accelerator))
        super().__init__(
            accelerator=accelerator, precision=precision, limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches, limit_test_batches=limit_test_batches,
            limit_predict_batches=limit_predict_batches, overfit_batches=overfit_batches, **options,
        )  # fmt: skip

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
        neighbours: str | None = None,
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
            neighbours: File of training words (`mner neighbours`) whose labels are mixed into those of the model.

        Returns:
            The predictions, in file order (None where they were made in processes that are gone, as under `ddp_spawn`).
        """
        if datamodule is None or model is None:
            raise ValueError("Expected a model and a data module, but got none")
        inputs = [] if ckpt_path in (None, "best", "last") else [str(ckpt_path)]
        refuse_foreign(output, MARK, [*inputs, *([] if neighbours is None else [neighbours])])
        data = chosen_part(datamodule, label_set)
        if label_set is not None:
            model.use(label_set)
        data.predict_split = split
        writer = _Writer(output, split)
        # What else is printed, such as progress, must not get between the lines of the predictions.
        also = nullcontext() if neighbours is None else self._also(_Mixing(neighbours))
        with redirect_stdout(sys.stderr) if output == STANDARD else nullcontext(), also, self._also(writer):
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


class _Mixing(pl.Callback):
    """Mixes the labels of neighbours into a model's, once its weights are loaded, for one prediction."""

    def __init__(self, file: str) -> None:
        self.file = file

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin."""
        use_neighbours(pl_module, self.file)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """End."""
        pl_module.neighbours = None


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


def device_of(accelerator: str | Accelerator) -> torch.device:
    """Where a Trainer with this accelerator computes, as far as precision is concerned: `meta` where nobody knows."""
    if accelerator == "auto":
        return pick_device("auto")
    if accelerator == "cpu" or isinstance(accelerator, CPUAccelerator):
        return torch.device("cpu")
    if accelerator in ("gpu", "cuda") or isinstance(accelerator, CUDAAccelerator):
        return torch.device("cuda" if torch.cuda.is_available() else "meta")
    return torch.device("meta")


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
    store: WordNeighbours | None = getattr(model, "neighbours", None)
    if store is not None:
        made["neighbours"] = {"k": store.k, "temperature": store.temperature, "weight": store.weight}
    found = ((model.restored or {}).get(CALIBRATION) or {}).get(model.label_set or "")
    return {**made, "versions": versions(), **({CALIBRATION: found} if found else {})}


def _gather(mine: list[Any]) -> list[Any]:
    """The lists of all processes, one after the other."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return list(mine)
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, mine)
    return [entry for part in parts for entry in part]
