"""What makes a model's regions of an image, by name: one of the detectors."""

from __future__ import annotations

from typing import Literal, get_args

from mner.encoders.detectors import RandomDetector, RegionDetector, TorchvisionDetector
from mner.encoders.detectron2_detector import Detectron2Detector

Detector = Literal["torchvision", "detectron2", "random"]


def build_detector(kind: Detector, weights: str | None = None, top_k: int = 10) -> RegionDetector:
    """A detector by name.

    Args:
        kind: `torchvision`, `detectron2` or `random`.
        weights: As the detector's own argument; `random` takes none.
        top_k: Most regions of an image.
    """
    if kind == "torchvision":
        return TorchvisionDetector(weights, top_k)
    if kind == "detectron2":
        return Detectron2Detector(weights, top_k)
    if kind == "random":
        return RandomDetector(top_k)
    raise ValueError(f"Expected argument `kind` to be one of {get_args(Detector)}, but got {kind!r}")
