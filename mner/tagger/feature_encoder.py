"""What made stored features, made again by their description, for pictures of new posts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from mner.data.inputs import RegionSet
from mner.encoders.detectors import RegionDetector, Regions
from mner.encoders.image import ImageEncoder
from mner.encoders.weights import weights_hash
from mner.errors import CheckpointError

if TYPE_CHECKING:
    from PIL.Image import Image

    from mner.data.transforms import ImageTransform


@torch.no_grad()
def grid_features(
    encoder: ImageEncoder, transform: ImageTransform, pictures: Sequence[Image], device: Any
) -> list[NDArray[np.float32]]:
    """Features (r, f) of the grid of each picture."""
    grids = encoder(torch.stack([transform(picture) for picture in pictures]).to(device))
    return list(grids.float().cpu().numpy())


def detected_features(
    detector: RegionDetector, pictures: Sequence[Image]
) -> list[tuple[RegionSet, NDArray[np.float32]]]:
    """The regions of each picture, and their boxes in its pixels."""
    detected = detector.detect(pictures)
    return [
        (_region_set(regions, picture), regions.boxes.numpy())
        for regions, picture in zip(detected, pictures, strict=True)
    ]


def _region_set(regions: Regions, picture: Image) -> RegionSet:
    size = np.array([*picture.size, *picture.size], dtype=np.float32)
    return RegionSet(
        regions.features.numpy(),
        np.clip(regions.boxes.numpy() / size, 0, 1),
        regions.scores.numpy(),
        None if regions.groups is None else regions.groups.numpy(),
        list(regions.names),
    )


def make_encoder(
    meta: Mapping[str, Any], weights: str | os.PathLike[str] | None = None
) -> ImageEncoder | RegionDetector:
    """What made stored features, by their description.

    Args:
        meta: The description, as in the store's `meta.json` and in checkpoints.
        weights: File of the weights, if the features were made with a file.

    Raises:
        CheckpointError: If the weights are not there or are others.
    """
    origin = meta.get("weights")
    if weights is None and origin not in ("pretrained", "random", "none"):
        raise CheckpointError(f"its weights were the local file {origin!r}, whose place is not known")
    given = os.fspath(weights) if weights is not None else "pretrained" if origin == "pretrained" else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # as `mner features` makes random weights
        encoder = _grid_encoder(meta, given) if meta["kind"] == "grid" else _detector(meta, given)
    if meta.get("weights_hash") not in (None, weights_hash(encoder)):
        raise CheckpointError(f"the weights of {meta['encoder']} are not those that made the features (another hash)")
    return encoder


def _grid_encoder(meta: Mapping[str, Any], weights: str | None) -> ImageEncoder:
    return ImageEncoder(meta["encoder"], weights=weights)


def _detector(meta: Mapping[str, Any], weights: str | None) -> RegionDetector:
    options = dict(meta.get("transform") or {})
    if "pyramid" not in options:
        return _named(str(meta["encoder"]), weights, options)
    from mner.encoders.image_inputs import build_crops

    finder = dict(options["detector"] or {})
    origin = finder.pop("weights", "none")
    if origin not in ("pretrained", "random", "none"):
        raise CheckpointError(f"its detector's weights were the local file {origin!r}: build it, give it as `encoder`")
    # First the detector, as `mner features` does, so that random weights are the same.
    detector = _named(finder.pop("name"), origin if origin == "pretrained" else None, finder) if finder else None
    return build_crops(options, detector, weights)


def _named(name: str, weights: str | None, options: Mapping[str, Any]) -> RegionDetector:
    from mner.encoders.detectors import RandomDetector, TorchvisionDetector

    if name == "random":
        return RandomDetector(**options)
    if name.startswith("torchvision/"):
        return TorchvisionDetector("COCO" if weights == "pretrained" else weights, **options)
    raise CheckpointError(f"{name} is made by hand: build it and give it as `encoder`")
