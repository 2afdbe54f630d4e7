"""Images as detected regions: boxes with a feature vector, a score and a class name each.

One interface, `RegionDetector`. `TorchvisionDetector` is the default, `Detectron2Detector` in
`detectron2_detector.py` the optional one (Chen et al., 2021, used an R-101-FPN of its family), `RandomDetector` a
stand-in for tests. Their feature spaces have nothing in common, so the detector's name and a hash of its weights are
stored with the features.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mner.encoders.weights import load_by_name, read_weights
from mner.errors import CheckpointError

MAX_ASPECT = 40.0  # thinner images shrink to less than a cell of the feature map


@dataclass(frozen=True, slots=True)
class Regions:
    """What a detector found in one image, the highest score first. On the CPU.

    Attributes:
        features: (r, f) float32.
        boxes: (r, 4) float32, left, top, right, bottom in pixels of the upright image.
        scores: (r,) float32, probability of the class.
        names: r class names.
        groups: (r,) int64, which crop of the image a region is of; None where all are of one.
    """

    features: Tensor
    boxes: Tensor
    scores: Tensor
    names: list[str]
    groups: Tensor | None = None


class RegionDetector(nn.Module, ABC):
    """Finds regions in images and encodes them. Frozen: always in evaluation mode, no gradients.

    Attributes:
        name: Names the network; stored with the features.
        classes: Names of the classes.
        width: Of a region, f.
        top_k: Most regions of an image.
    """

    name: str
    classes: tuple[str, ...]
    width: int
    top_k: int

    @abstractmethod
    def detect(self, images: Sequence[Image.Image]) -> list[Regions]:
        """The `top_k` regions of each RGB image with the highest scores."""

    @abstractmethod
    def encode(self, images: Sequence[Image.Image], boxes: Sequence[Tensor]) -> list[Tensor]:
        """Features (r, f) of given boxes (r, 4), in pixels, of each image."""

    def describe(self) -> dict[str, Any]:
        """What besides the weights decides the features; plain data, stored with them."""
        return {}

    def train(self, mode: bool = True) -> RegionDetector:
        """Stays in evaluation mode, whatever `mode`."""
        return super().train(False)


class Frame(NamedTuple):
    """One image as its network sees it."""

    images: Any  # the network's own batch of one
    size: tuple[int, int]  # height and width after resizing
    scale: Tensor  # (4,) resized pixels for one pixel, as (x, y, x, y)
    maps: Any  # feature maps


class TwoStageDetector(RegionDetector):
    """What Faster R-CNNs share: proposals, one class and box for each, suppression, then the box head on the k best.

    Each proposal counts once, with its most probable class. Of boxes of one class that overlap by more than `NMS` the
    best stays; suppressed ones come back only where fewer than k would be left. So there are k regions in every image,
    even with random weights (fewer only where the network makes fewer proposals).

    Images are processed one by one: in a batch they would be padded to a common size, and the features of an image
    would depend on its neighbours.
    """

    NMS = 0.5

    @abstractmethod
    def frame(self, image: Image.Image) -> Frame:
        """Resize, normalise and compute the feature maps."""

    @abstractmethod
    def candidates(self, frame: Frame) -> tuple[Tensor, Tensor]:
        """Boxes (n, c, 4) and probabilities (n, c) of n proposals for each of c classes, in resized pixels."""

    @abstractmethod
    def box_features(self, frame: Frame, boxes: Tensor) -> Tensor:
        """Box-head features (r, f) of boxes (r, 4) in resized pixels."""

    @torch.no_grad()
    def detect(self, images: Sequence[Image.Image]) -> list[Regions]:
        """The `top_k` regions of each RGB image with the highest scores."""
        found = []
        for image in images:
            frame = self.frame(image)
            boxes, scores, labels = best_boxes(*self.candidates(frame), frame.size, self.top_k, self.NMS)
            features = self.box_features(frame, boxes)
            names = [self.classes[label] for label in labels.tolist()]
            found.append(Regions(_plain(features), _plain(boxes / frame.scale), _plain(scores), names))
        return found

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image], boxes: Sequence[Tensor]) -> list[Tensor]:
        """Features (r, f) of given boxes (r, 4), in pixels, of each image."""
        features = []
        for image, some in zip(images, boxes, strict=True):
            frame = self.frame(image)
            features.append(_plain(self.box_features(frame, _checked(some).to(frame.scale) * frame.scale)))
        return features


def best_boxes(
    boxes: Tensor, probabilities: Tensor, size: tuple[int, int], top_k: int, nms: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The best boxes among proposals, as `TwoStageDetector` describes it.

    Shapes:
        boxes (n, c, 4), probabilities (n, c) -> boxes (k, 4), scores (k,), class numbers (k,), by falling score
    """
    from torchvision.ops import batched_nms

    height, width = size
    scores, labels = probabilities.max(-1)  # (n,), (n,)
    chosen = boxes[torch.arange(len(boxes), device=boxes.device), labels]  # (n, 4)
    whole = chosen.new_tensor([0, 0, width, height])
    chosen = torch.minimum(chosen.clamp(min=0), whole[2:].repeat(2))
    usable = chosen.isfinite().all(-1) & ((chosen[:, 2:] - chosen[:, :2]) >= 1e-2).all(-1)  # (n,)
    chosen = torch.where(usable[:, None], chosen, whole)
    scores = torch.where(usable, scores, 0.0)  # of what is no box, the last resort
    candidates = usable.nonzero().squeeze(1)
    kept = candidates[batched_nms(chosen[candidates], scores[candidates], labels[candidates], nms)][:top_k]
    if len(kept) < top_k:
        others = torch.ones_like(usable).index_fill(0, kept, False).nonzero().squeeze(1)
        kept = torch.cat([kept, others[scores[others].argsort(descending=True, stable=True)]])[:top_k]
    kept = kept[scores[kept].argsort(descending=True, stable=True)]
    return chosen[kept], scores[kept], labels[kept]


class TorchvisionDetector(TwoStageDetector):
    """torchvision's Faster R-CNN, ResNet-50 with FPN, version 2: 80 classes of COCO, 1024 features.

    Args:
        weights: None for random ones, `"COCO"` for torchvision's own (downloaded once), or a local file of them.
        top_k: Most regions of an image.
        min_size: Pixels to which the shorter side of an image is resized (the longer one to 5/3 of it at most).
        proposals: Boxes that the first stage hands on to the second.

    Raises:
        CheckpointError: If not every weight was found.
    """

    def __init__(self, weights: str | None = None, top_k: int = 10, min_size: int = 800, proposals: int = 1000) -> None:
        from torchvision.models.detection import FasterRCNN_ResNet50_FPN_V2_Weights, fasterrcnn_resnet50_fpn_v2

        super().__init__()
        self.name = "torchvision/fasterrcnn_resnet50_fpn_v2"
        self.width = 1024
        self.top_k = _positive(top_k, "top_k")
        self.min_size = _positive(min_size, "min_size")
        self.proposals = _positive(proposals, "proposals")
        coco = FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1
        try:
            self.model: Any = fasterrcnn_resnet50_fpn_v2(
                weights=coco if weights == "COCO" else None,
                weights_backbone=None,
                min_size=min_size,
                max_size=min_size * 5 // 3,
                rpn_pre_nms_top_n_test=proposals,
                rpn_post_nms_top_n_test=proposals,
            )
        except OSError as error:
            raise CheckpointError(
                f"torchvision could not get the weights {coco}: {error}. Run once with a network, so that they are "
                f"kept, or give `weights` a local file ({coco.url})."
            ) from error
        if weights is not None and weights != "COCO":
            load_by_name(self.model, read_weights(weights), weights)
        names = list(coco.meta["categories"])  # with holes, called N/A, and the background first
        self._columns = [number for number, name in enumerate(names) if name not in ("__background__", "N/A")]
        self.classes = tuple(names[number] for number in self._columns)
        self.requires_grad_(False).train(False)

    def describe(self) -> dict[str, Any]:
        """What besides the weights decides the features; plain data, stored with them."""
        return {"min_size": self.min_size, "proposals": self.proposals, "top_k": self.top_k}

    def frame(self, image: Image.Image) -> Frame:
        """Resize, normalise and compute the feature maps."""
        pixels = torch.from_numpy(np.array(_not_too_thin(image), dtype=np.uint8)).permute(2, 0, 1)  # (3, h, w)
        device = self.model.rpn.head.cls_logits.weight.device
        images, _ = self.model.transform([pixels.to(device).float().div(255)])
        size = images.image_sizes[0]
        return Frame(images, size, _scale(image, size, device), self.model.backbone(images.tensors))

    def candidates(self, frame: Frame) -> tuple[Tensor, Tensor]:
        """Boxes (n, c, 4) and probabilities (n, c) of n proposals for each of c classes, in resized pixels."""
        (proposals,), _ = self.model.rpn(frame.images, frame.maps)
        if not len(proposals):
            proposals = _whole(frame)
        logits, deltas = self.model.roi_heads.box_predictor(self.box_features(frame, proposals))
        boxes = self.model.roi_heads.box_coder.decode(deltas, [proposals])  # (n, all classes, 4)
        return boxes[:, self._columns], logits.softmax(-1)[:, self._columns]

    def box_features(self, frame: Frame, boxes: Tensor) -> Tensor:
        """Box-head features (r, f) of boxes (r, 4) in resized pixels."""
        heads = self.model.roi_heads
        features: Tensor = heads.box_head(heads.box_roi_pool(frame.maps, [boxes], [frame.size]))
        return features


class RandomDetector(RegionDetector):
    """Stand-in for tests and for trying things out: random regions, always the same ones for the same pixels.

    Args:
        top_k: Regions of an image.
        width: Of a region, f.
    """

    def __init__(self, top_k: int = 10, width: int = 1024) -> None:
        super().__init__()
        self.name = "random"
        self.width = _positive(width, "width")
        self.top_k = _positive(top_k, "top_k")
        self.classes = ("person", "dog", "tree", "car")

    def describe(self) -> dict[str, Any]:
        """What decides the features; plain data, stored with them."""
        return {"width": self.width, "top_k": self.top_k}

    def detect(self, images: Sequence[Image.Image]) -> list[Regions]:
        """`top_k` random regions of each image."""
        found = []
        for image in images:
            generator = _seeded(image, b"boxes")
            corners = torch.rand(self.top_k, 2, 2, generator=generator).sort(1).values  # (k, 2, 2)
            boxes = corners.flatten(1) * torch.tensor([*image.size, *image.size])
            scores = torch.rand(self.top_k, generator=generator).sort(descending=True).values
            labels = torch.randint(len(self.classes), (self.top_k,), generator=generator)
            names = [self.classes[label] for label in labels.tolist()]
            found.append(Regions(self.encode([image], [boxes])[0], boxes, scores, names))
        return found

    def encode(self, images: Sequence[Image.Image], boxes: Sequence[Tensor]) -> list[Tensor]:
        """Random features that depend on the image and the box."""
        return [
            torch.stack(
                [torch.randn(self.width, generator=_seeded(image, box.numpy().tobytes())) for box in _checked(some)]
            )
            if len(some)
            else torch.zeros(0, self.width)
            for image, some in zip(images, boxes, strict=True)
        ]


def _plain(tensor: Tensor) -> Tensor:
    return tensor.float().cpu()


def _checked(boxes: Tensor) -> Tensor:
    if boxes.dim() != 2 or boxes.shape[-1] != 4:
        raise ValueError(f"Expected boxes of shape (r, 4), but got {tuple(boxes.shape)}")
    return boxes.float()


def _positive(value: int, argument: str) -> int:
    if value < 1:
        raise ValueError(f"Expected argument `{argument}` to be at least 1, but got {value}")
    return value


def _seeded(image: Image.Image, salt: bytes) -> torch.Generator:
    digest = hashlib.blake2b(image.tobytes() + repr(image.size).encode() + salt, digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def _scale(image: Image.Image, size: tuple[int, int], device: torch.device) -> Tensor:
    x, y = size[1] / image.width, size[0] / image.height
    return torch.tensor([x, y, x, y], device=device)


def _whole(frame: Frame) -> Tensor:
    return frame.scale.new_tensor([[0, 0, frame.size[1], frame.size[0]]])


def _not_too_thin(image: Image.Image) -> Image.Image:
    """Stretch a banner, whose shorter side would vanish when the longer one is made to fit."""
    shortest = -(-max(image.size) // int(MAX_ASPECT))
    if min(image.size) >= shortest:
        return image
    return image.resize((max(image.width, shortest), max(image.height, shortest)), Image.Resampling.BILINEAR)
