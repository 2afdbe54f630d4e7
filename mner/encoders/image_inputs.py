"""What makes a model's regions of an image, by name: one of the detectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from mner.data.transforms import ImageTransform
from mner.encoders.crops import CropEncoder, PooledImage
from mner.encoders.detectors import RandomDetector, RegionDetector, TorchvisionDetector
from mner.encoders.detectron2_detector import Detectron2Detector
from mner.encoders.image import ImageEncoder

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


def build_crops(described: Mapping[str, Any], detector: RegionDetector | None, weights: str | None) -> CropEncoder:
    """A `CropEncoder` by what its `describe` said.

    Args:
        described: Names of the parts, and their options.
        detector: Finds the boxes.
        weights: As for `ImageEncoder`.
    """
    encoder = ImageEncoder(described["encoder"], weights=weights)
    pyramid = described.get("pyramid") or {"layers": 0}
    image = dict(described["image"])
    for key in ("mean", "std"):
        image[key] = tuple(image[key])
    return CropEncoder(PooledImage(encoder, **pyramid), ImageTransform(**image), detector)


def weights_of(given: str) -> str | None:
    """The argument `weights` of an encoder from a command's option: `random` is None there."""
    return None if given == "random" else given


def detector_weights_of(kind: str, given: str) -> str | None:
    """The argument `weights` of a detector from a command's option.

    Raises:
        ValueError: For `pretrained`, where mner downloads nothing for that detector.
    """
    if kind == "random" or given == "random":
        return None
    if given != "pretrained":
        return given
    if kind == "torchvision":
        return "COCO"
    raise ValueError(
        "Expected argument `weights` to be a file or 'random' for detectron2, since mner downloads none for it: "
        "see docs/detectron2.md"
    )
