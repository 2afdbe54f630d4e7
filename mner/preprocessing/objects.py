"""`mner objects`: names of the objects in a folder of images, as a text source and as `object_names`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

import torch
from PIL import Image

from mner.data.formats.images import ImageFolder
from mner.data.inputs import join_names
from mner.encoders.classifier import ImageClassifier
from mner.encoders.detectors import RegionDetector
from mner.encoders.image_inputs import Detector, build_detector, detector_weights_of, weights_of
from mner.preprocessing.image_texts import describe_images
from mner.runtime import pick_device


class ObjectNames:
    """RGB images -> the names of their objects (`person, dog`), each once, by falling score.

    Args:
        model: A detector, `torchvision`, `detectron2` or `random`; or a timm model, whose ImageNet classes are the
            names.
        weights: `pretrained`, `random` or a local file.
        top_k: Most regions, or classes, of an image.
        min_score: Names of a lower score (a detector's, or the class's probability) are left out.
        device: `auto`, `cpu`, `cuda`, ...

    Raises:
        ValueError: If there is no such model, or its classes have no names.
        CheckpointError: If weights are missing.
    """

    def __init__(
        self, model: str, weights: str = "pretrained", top_k: int = 5, min_score: float = 0.1, device: str = "auto"
    ) -> None:
        if top_k < 1:
            raise ValueError(f"Expected `top_k` to be at least 1, but got {top_k}")
        self.top_k = top_k
        self.min_score = min_score
        self.model: RegionDetector | ImageClassifier
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # random weights are the same ones when a run goes on
            if model in get_args(Detector):
                self.model = build_detector(cast(Detector, model), detector_weights_of(model, weights), top_k)
            else:
                self.model = ImageClassifier(model, weights_of(weights))
        self.model.to(pick_device(device))

    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """The names of each image, parted by commas; "" where nothing is found."""
        if not images:
            return []
        if isinstance(self.model, RegionDetector):
            found = self.model.detect(images)
            return [join_names(one.names, one.scores.tolist(), self.min_score) for one in found]
        return [
            join_names([name for name, _ in best], [score for _, score in best], self.min_score)
            for best in self.model(images, self.top_k)
        ]


def objects(
    images: Path,
    out: Path,
    model: str,
    weights: str = "pretrained",
    top_k: int = 5,
    min_score: float = 0.1,
    batch_size: int = 16,
    device: str = "auto",
    num_workers: int = 2,
) -> None:
    """Name the objects in all images of a folder.

    Run again, it goes on where it stopped; run with another folder of images and the same `out`, it adds to the file.
    Broken images are reported at the end. The names are lines `{"image_id": ..., "text": "person, dog", "model": ...}`,
    with an empty text for an image in which nothing is found.

    Args:
        images: Folder with the images.
        out: JSON lines file; `-` is the standard output. It goes on only with the same model and options, which
            OUT.mner.json keeps.
        model: What names them: `torchvision` (80 kinds of objects, each found in a box), `detectron2` (the same), or a
            timm model of ImageNet's classes, such as `resnet50` (1000 kinds, each of the image as a whole).
        weights: `pretrained` (downloaded once), `random` (for trying things out) or a local file of weights.
        top_k: Most regions, or classes, of an image.
        min_score: Names of a lower score are left out.
        batch_size: Images in a batch.
        device: `auto`, `cpu`, `cuda`, ...
        num_workers: Processes that open images.

    Raises:
        DataNotFoundError: If there are no images.
        DataFormatError: If `out` holds something else, or was made otherwise.
        CheckpointError: If weights are missing.
    """
    origin = weights if weights in ("pretrained", "random") else Path(weights).name
    facts: dict[str, Any] = {"model": model, "weights": origin, "top_k": top_k, "min_score": min_score}
    describe_images(
        ImageFolder(images), out, "text", facts, lambda: ObjectNames(model, weights, top_k, min_score, device),
        batch_size, num_workers, f"objects by {model}",
    )  # fmt: skip
