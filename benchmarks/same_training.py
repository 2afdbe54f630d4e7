"""Does the code train as it did? Losses of 50 steps of each strategy, and scores of a checkpoint, to the last digit.

    python benchmarks/same_training.py record before.json [--checkpoint best.ckpt --data data/twitter2017]
    python benchmarks/same_training.py check before.json [--checkpoint best.ckpt --data data/twitter2017]

Record on the code before a change, check on the code after it, on one machine and with the same versions: sums of
floating-point numbers depend on both. Exit code 1 if a number differs. `benchmarks/same_training.json` has the values
from before the modules moved into rooms (version 0.1).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytorch_lightning as pl
import torch

import mner.fusion
from mner.data import SampleDataModule, Twitter2017DataModule
from mner.fusion import FusionModule

STEPS = 50


class Losses(pl.Callback):
    """Keeps the loss of each step."""

    def __init__(self) -> None:
        self.kept: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Keep it."""
        self.kept.append(float(outputs["loss"]))


def trainer(**options: Any) -> pl.Trainer:
    """A silent one on the processor."""
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip


def strategies() -> dict[str, type[FusionModule]]:
    """The six strategies of version 0.1."""
    names = ("TextOnly", "Concatenation", "VisualAttention", "CoAttention", "TransformerAttention",
             "UnifiedMultimodalTransformer")  # fmt: skip
    return {name: getattr(mner.fusion, name) for name in names}


def losses(cls: type[FusionModule]) -> list[float]:
    """Of 50 steps on the sample data, seed 1."""
    pl.seed_everything(1, verbose=False)
    images: dict[str, Any] = {"images": "images", "image_encoder": "test_resnet", "image_size": 32}
    model: dict[str, Any] = {"image_encoder": "test_resnet", "image_weights": None, "freeze_image_encoder": False}
    used = cls.uses_image
    data = SampleDataModule(batch_size=16, seed=1, **(images if used else {}))
    module = cls(labels=data.labels, learning_rate=2e-3, warmup_ratio=0.1, **(model if used else {}))
    kept = Losses()
    trainer(max_steps=STEPS, limit_val_batches=0, num_sanity_val_steps=0, callbacks=[kept]).fit(module, datamodule=data)
    return kept.kept


def counts(checkpoint: str, root: str) -> dict[str, Any]:
    """Scores of a text-only checkpoint on the valid split; equal counts are equal numbers."""
    module = FusionModule.load_from_checkpoint(checkpoint)
    data = Twitter2017DataModule(root, batch_size=32, replace_urls="http")
    data.use_tokenizer(module.restored["data"]["tokenizer"])
    scores = trainer().validate(module, datamodule=data, verbose=False)[0]
    metric = module.metrics["val_lenient"]
    return {"scores": scores, "labels": len(metric.labels) if hasattr(metric, "labels") else None}


def main() -> int:
    """Record or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("record", "check"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--checkpoint")
    parser.add_argument("--data")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    now: dict[str, Any] = {
        "torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability(),
        "losses": {name: losses(cls) for name, cls in strategies().items()},
    }  # fmt: skip
    if given.checkpoint:
        now["counts"] = counts(given.checkpoint, given.data)
    if given.what == "record":
        given.file.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        print(f"recorded in {given.file}")
        return 0
    before = json.loads(given.file.read_text(encoding="utf-8"))
    different = 0
    for name, kept in now["losses"].items():
        pairs = zip(kept, before["losses"][name], strict=True)
        step = next((number for number, (new, old) in enumerate(pairs) if new != old), None)
        different += step is not None
        print(f"{name:30} {len(kept)} losses {'equal' if step is None else f'differ from step {step}'}")
    if given.checkpoint:
        same = now["counts"] == before["counts"]
        different += not same
        said = "equal" if same else f"{now['counts']} for {before['counts']}"
        print(f"{'valid scores of the checkpoint':30} {said}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
