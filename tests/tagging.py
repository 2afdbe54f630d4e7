"""A checkpoint for the tests of what uses one, made without training: quick, and good enough to tag with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from mner.data import Twitter2017DataModule
from mner.fusion import FusionModule


def save_checkpoint(path: Path, cls: type[FusionModule], root: Path, bert: str, **options: Any) -> Path:
    """An untrained model with lively emissions, saved with what its data module says of itself."""
    names = ("images", "features", "context", "max_length")
    encoder = options.get("image_encoder")
    data = Twitter2017DataModule(
        str(root),
        text_encoder=bert,
        image_encoder=encoder,
        image_size=64 if encoder else None,
        **{name: options.pop(name) for name in names if name in options},
    )
    pl.seed_everything(0, verbose=False)
    if cls.uses_image and data.region_width:
        options["region_width"] = data.region_width
    model = cls(data.labels, text_encoder=bert, **options)
    torch.nn.init.normal_(model.head.weight, std=1.0)
    module: Any = model
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.restored = {"data": data.describe()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path
