"""Multimodal named entity recognition: type the entities of a post, given its text, image and text about the image.

Public names are imported when first used, so that `import mner` is quick:

- `mner.fusion`: `FusionModule` and the strategies
- `mner.data`: readers, data modules
- `mner.CRF`, `mner.SpanF1`: layer and metric
- `mner.Tagger`: a trained model on new posts
- `mner.analysis`: from predictions to tables and figures
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_NAMES = {"CRF": "mner.crf", "SpanF1": "mner.metrics", "Tagger": "mner.tagger", "Entity": "mner.tagger"}
_MODULES = ("analysis", "data", "encoders", "errors", "fusion", "labels")

__all__ = [
    "CRF",
    "Entity",
    "SpanF1",
    "Tagger",
    "__version__",
    "analysis",
    "data",
    "encoders",
    "errors",
    "fusion",
    "labels",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"mner.{name}")
    raise AttributeError(f"module 'mner' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
