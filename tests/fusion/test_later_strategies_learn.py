"""Sample data, where the image decides many types: later strategies pass what text alone can reach, by the image."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch

from mner import SpanF1
from mner.data import SampleDataModule
from mner.data.sample.batches import rearranged
from mner.data.sample.texts import text_ceiling
from mner.fusion import CorrelationFusion, MultimodalGraph, VisualPrefix

OPTIONS = {
    VisualPrefix: {},
    CorrelationFusion: {},
    MultimodalGraph: {"graph_layers": 2, "graph_dropout": 0.1, "head_learning_rate": 1e-3},
}


@torch.no_grad()
def f1(model, loader, change=lambda batch: batch):
    metric = SpanF1(model.labels)
    for batch in loader:
        paths, w = model(change(batch)), batch["word_mask"].shape[1]
        metric.update(torch.tensor([path + [0] * (w - len(path)) for path in paths]), batch["tags"], batch["word_mask"])
    return float(metric.compute()["f1"])


@pytest.mark.slow
@pytest.mark.parametrize("cls", OPTIONS, ids=lambda cls: cls.__name__)
def test_what_is_in_the_image_decides(cls, tmp_path):
    pl.seed_everything(0, verbose=False)
    data = SampleDataModule(str(tmp_path / "sample"), batch_size=16, features="objects")
    options = {"learning_rate": 2e-3, "head_learning_rate": 3e-3, "warmup_ratio": 0.1, **OPTIONS[cls]}
    model = cls(data.labels, region_width=data.region_width, **options)
    trainer = pl.Trainer(
        max_epochs=6, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=1.0,
    )  # fmt: skip
    trainer.fit(model, data)
    loader, ceiling = data.val_dataloader(), text_ceiling(data.examples("valid"))
    model.eval()
    assert f1(model, loader) > ceiling + 0.1
    assert f1(model, loader, lambda batch: rearranged(batch, "posts")) < ceiling
