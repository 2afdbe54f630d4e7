"""The Trainer of the command line: Lightning's, with a test that is reported and predictions that are written."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch

import mner
from mner.data.datamodule import MNERDataModule
from mner.data.predictions import Prediction, prediction_header, write_predictions
from mner.fusion.base import FusionModule
from mner.fusion.checkpoint import class_path
from mner.report import check_against_seqeval, score_table


class Trainer(pl.Trainer):
    """`pytorch_lightning.Trainer` whose `test` prints a full report and whose `predict` writes a prediction file."""

    def test(  # type: ignore[override]  # fewer arguments: the command line needs no more
        self,
        model: FusionModule | None = None,
        datamodule: MNERDataModule | None = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = False,
    ) -> Any:
        """Score the test split and print precision, recall and F1 per type, lenient and strict, beside seqeval's.

        Args:
            model: The module.
            datamodule: The data.
            ckpt_path: Checkpoint to test, or `best`, `last`.
            verbose: Print Lightning's own table too.

        Raises:
            RuntimeError: If `SpanF1` and seqeval disagree.
        """
        result = super().test(model, datamodule=datamodule, ckpt_path=ckpt_path, verbose=verbose)
        tester: Any = self.lightning_module
        tested = _gather(tester.tested)
        if self.is_global_zero:
            metrics = {name: float(value) for name, value in self.callback_metrics.items()}
            report = check_against_seqeval(tested, metrics, "test")
            print(score_table(tester.labels, metrics, "test"))
            print(f"\nseqeval on the same {len(tested)} posts (lenient):\n{report}")
            print("SpanF1 and seqeval agree.")
        return result

    def predict(  # type: ignore[override]  # fewer arguments: the command line needs no more
        self,
        model: FusionModule | None = None,
        datamodule: MNERDataModule | None = None,
        ckpt_path: str | Path | None = None,
        output: str = "predictions.jsonl",
        split: Literal["train", "valid", "test"] = "test",
    ) -> Any:
        """Write the predictions of one split as JSON lines.

        Args:
            model: The module.
            datamodule: The data.
            ckpt_path: Checkpoint to use, or `best`, `last`.
            output: File to write.
            split: The split to predict.
        """
        if datamodule is None or model is None:
            raise ValueError("Expected a model and a data module, but got none")
        datamodule.predict_split = split
        collected = _Collected()
        self.callbacks.append(collected)  # type: ignore[attr-defined]
        try:
            super().predict(model, datamodule=datamodule, ckpt_path=ckpt_path, return_predictions=False)
        finally:
            self.callbacks.remove(collected)  # type: ignore[attr-defined]
        posts = _gather(collected.posts)
        if not self.is_global_zero:
            return posts
        order = {post.id: place for place, post in enumerate(datamodule.datasets[split].examples)}
        posts.sort(key=lambda post: order[post.id])
        write_predictions(
            output, header(model, datamodule, split, None if ckpt_path is None else str(ckpt_path)), posts
        )
        print(f"{len(posts)} posts of {split} written to {output}")
        return posts


class _Collected(pl.Callback):
    """Keeps what `predict_step` returns; Lightning's own list cannot hold frozen dataclasses."""

    def __init__(self) -> None:
        self.posts: list[Prediction] = []

    def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any, **kwargs: Any) -> None:
        """Keep the posts of a batch."""
        self.posts += outputs


def header(model: FusionModule, data: MNERDataModule, split: str, checkpoint: str | None) -> dict[str, Any]:
    """The first line of a prediction file: what made it, from what."""
    seed = os.environ.get("PL_GLOBAL_SEED")
    made = prediction_header(
        model=class_path(model),
        split=split,
        data=type(data).__name__,
        fingerprint=data.fingerprints.get(split),
        labels=model.labels,
        checkpoint=None if checkpoint is None else Path(checkpoint).name,
        seed=None if seed is None else int(seed),
        context=data.context_names,
    )
    return {**made, "versions": versions()}


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    import transformers

    return {
        "mner": mner.__version__,
        "torch": torch.__version__,
        "pytorch_lightning": version("pytorch-lightning"),
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def _gather(mine: list[Any]) -> list[Any]:
    """The lists of all processes, one after the other."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return list(mine)
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, mine)
    return [entry for part in parts for entry in part]
