"""The whole image and crops of its best boxes, each as one vector: what prefix and graph strategies read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from mner.data.transforms import ImageTransform
from mner.encoders.detectors import RegionDetector, Regions
from mner.encoders.image import ImageEncoder

WHOLE = ""
"""What the whole image is called among the names of objects: it is none."""


class PooledImage(nn.Module):
    """One vector for an image by a grid encoder: the mean of its cells, or a pyramid of its layers.

    The pyramid pools the last `layers` feature maps to `side` x `side` and puts their channels side by side, so that a
    place's numbers of all layers stand together (position-major). For a ResNet-50 these are layers 1 to 4, 2 x 2 places
    of 256 + 512 + 1024 + 2048 = 3840 numbers: what HVPNeT (Chen et al., 2022) reads.

    Args:
        encoder: The grid encoder.
        layers: Feature maps of the pyramid; 0 for the mean of the last one's cells.
        side: Places of a side of the pyramid.

    Attributes:
        width: Numbers of an image, f.

    Shapes:
        image (b, 3, s, s) -> (b, f)

    Raises:
        ValueError: If the model has fewer feature maps.

    >>> PooledImage(ImageEncoder("test_resnet"), layers=4)(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 1472])
    """

    def __init__(self, encoder: ImageEncoder, layers: int = 0, side: int = 2) -> None:
        super().__init__()
        self.encoder = encoder
        self.layers = layers
        self.side = side
        self.width = encoder.width
        if layers:
            if not hasattr(encoder.backbone, "forward_intermediates"):
                raise ValueError(f"Expected a timm model that shows its layers for a pyramid, but got {encoder.name!r}")
            with torch.no_grad():
                self.width = int(self(torch.zeros(1, 3, encoder.size, encoder.size)).shape[-1])

    def forward(self, image: Tensor) -> Tensor:
        """The vectors (b, f) of images (b, 3, s, s)."""
        if not self.layers:
            mean: Tensor = self.encoder(image).mean(1)
            return mean
        try:
            maps = self.encoder.backbone.forward_intermediates(
                image, indices=self.layers, intermediates_only=True, output_fmt="NCHW"
            )
        except (AssertionError, ValueError) as error:  # timm's word for too few
            raise ValueError(f"{self.encoder.name!r} has no {self.layers} layers for a pyramid: {error}") from error
        pooled = torch.cat([adaptive_avg_pool2d(one, self.side) for one in maps], dim=1)  # (b, channels, side, side)
        return pooled.flatten(2).transpose(1, 2).flatten(1)  # (b, places * channels)


class CropEncoder(RegionDetector):
    """A detector's best boxes cut out of the image and encoded by a grid encoder, after the whole image.

    Each is squeezed into the encoder's square, so that nothing of its box is cut off. Region 0 is the whole image, with
    score 1 and no name; `groups` number whole image and crops.

    Args:
        model: What makes a vector of an image.
        transform: How images are prepared for it.
        detector: Finds the boxes; None for the whole image alone.

    Attributes:
        top_k: Most regions of an image.
    """

    def __init__(self, model: PooledImage, transform: ImageTransform, detector: RegionDetector | None = None) -> None:
        super().__init__()
        self.model = model
        self.transform = replace(transform, mode="squash", crop=1.0)
        self.detector = detector
        self.top_k = 1 + (0 if detector is None else detector.top_k)
        self.width = model.width
        self.name = f"{model.encoder.name}, {'pyramid' if model.layers else 'mean'} of " + (
            "the image" if detector is None else f"the image and {detector.top_k} crops by {detector.name}"
        )
        self.classes = (WHOLE, *(() if detector is None else detector.classes))
        self.requires_grad_(False).train(False)

    def describe(self) -> dict[str, Any]:
        """What besides the weights decides the features; `mner.tagger` builds the encoder again from it."""
        detector = self.detector
        return {
            "encoder": self.model.encoder.name,
            "pyramid": {"layers": self.model.layers, "side": self.model.side} if self.model.layers else None,
            "image": asdict(self.transform),
            "detector": None if detector is None else {"name": detector.name, **detector.describe()},
        }

    def detect(self, images: Sequence[Image.Image]) -> list[Regions]:
        """The whole of each RGB image and crops of the boxes with the highest scores."""
        results = []
        found = [None] * len(images) if self.detector is None else self.detector.detect(images)
        for image, regions in zip(images, found, strict=True):
            boxes = torch.tensor([[0.0, 0.0, *image.size]])
            scores, names = torch.ones(1), [WHOLE]
            if regions is not None:
                boxes, scores = torch.cat([boxes, regions.boxes]), torch.cat([scores, regions.scores])
                names += regions.names
            results.append(Regions(self.encode([image], [boxes])[0], boxes, scores, names, torch.arange(len(names))))
        return results

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image], boxes: Sequence[Tensor]) -> list[Tensor]:
        """Features (r, f) of given boxes (r, 4), in pixels, of each image."""
        device = next(self.model.parameters()).device
        features = []
        for image, some in zip(images, boxes, strict=True):
            cut = [self.transform(image.crop(_pixels(box, image))) for box in some.tolist()]
            made = self.model(torch.stack(cut).to(device)) if cut else torch.zeros(0, self.width)
            features.append(made.float().cpu())
        return features


def _pixels(box: Sequence[float], image: Image.Image) -> tuple[int, int, int, int]:
    """A box in whole pixels inside of the image, at least one wide and high."""
    left, top = min(int(box[0]), image.width - 1), min(int(box[1]), image.height - 1)
    left, top = max(left, 0), max(top, 0)
    right, bottom = min(round(box[2]), image.width), min(round(box[3]), image.height)
    return left, top, max(right, left + 1), max(bottom, top + 1)
