"""Run by `test_distributed` in two processes: each strategy is trained and evaluated, and each rank says what it saw.

Lightning starts the second process with the same command, so this is a script: `python -m tests.ddp_run FOLDER NAME…`.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from pathlib import Path

import pytorch_lightning as pl
import torch

import mner.fusion
from mner.data import Twitter2017DataModule
from mner.training import Trainer

EPOCHS = 5
SOURCES = {
    "TextOnly": {},
    "VisualBert": {"tokenizer": "bert"},
    "TransformerAttention": {"features": "regions", "tokenizer": "bert"},
    "VisualAttention": {"images": "images", "image_encoder": "test_resnet", "image_size": 32},
}


def build(name: str) -> tuple[mner.fusion.FusionModule, Twitter2017DataModule]:
    """A strategy (`VisualBert` is TextOnly on one) and its data."""
    pl.seed_everything(0, verbose=False)
    encoder = "visualbert" if "VisualBert" in name or name == "TransformerAttention" else "bert"
    source = SOURCES.get(name, {"features": "regions"})
    if name in ("CrossViewAlignment", "RetrievalExperts"):  # they read texts
        source = {"context": ["captions.jsonl"] * (1 + (name == "RetrievalExperts"))}
    data = Twitter2017DataModule("data", batch_size=4, text_encoder=encoder, **source)
    options = {"text_encoder": encoder, "learning_rate": 2e-3, "head_learning_rate": 0.02}
    if data.region_width:
        options["region_width"] = data.region_width
    if "images" in source:
        options |= {"image_encoder": "test_resnet", "image_weights": None, "freeze_image_encoder": False}
    cls = getattr(mner.fusion, "TextOnly" if name == "VisualBert" else name)
    return cls(data.labels, **options), data


class Watch(pl.Callback):
    """What this process evaluates."""

    def __init__(self) -> None:
        self.seen: dict[str, list[str]] = {"val": [], "test": []}
        self.gold: dict[str, int] = {}
        self.trained: list[str] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.trained += batch["id"]

    def on_validation_epoch_start(self, trainer, pl_module):
        self.seen["val"] = []

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.seen["val"] += batch["id"]

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.seen["test"] += batch["id"]

    def on_validation_epoch_end(self, trainer, pl_module):
        self.gold["val"] = gold(pl_module.metrics["val_lenient"])

    def on_test_epoch_end(self, trainer, pl_module):
        self.gold["test"] = gold(pl_module.metrics["test_lenient"])


def gold(metric) -> int:
    """Gold entities that this process has counted so far, before the processes are summed up."""
    return int((metric.tp + metric.fn).sum())


def main() -> None:
    """Train, validate, test, predict; write what came out."""
    out = Path(sys.argv[1])
    atexit.register(say_whether_left, out)
    for name in sys.argv[2:]:
        module, data = build(name)
        watch = Watch()
        trainer = Trainer(
            accelerator="cpu", devices=2, strategy="ddp", max_epochs=EPOCHS, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=[watch],
        )  # fmt: skip
        trainer.fit(module, datamodule=data)
        trainer.save_checkpoint(out / f"{name}.ckpt")
        trainer.validate(module, datamodule=data)
        scores = {key: float(value) for key, value in trainer.callback_metrics.items()}
        trainer.test(module, datamodule=data)
        scores |= {key: float(value) for key, value in trainer.callback_metrics.items()}
        trainer.predict(module, datamodule=data, output=str(out / f"{name}.jsonl"), split="test")
        said = {"seen": watch.seen, "gold": watch.gold, "scores": scores, "trained": watch.trained}
        (out / f"{name}-{trainer.global_rank}.json").write_text(json.dumps(said))


def say_whether_left(out: Path) -> None:
    """Runs after what the package has for the end, since it is registered before."""
    rank = os.environ.get("LOCAL_RANK", "0")
    (out / f"group-{rank}.txt").write_text(str(torch.distributed.is_initialized()))


if __name__ == "__main__":
    main()
