"""detectron2's Faster R-CNN as region detector: the family of network whose features Chen et al. (2021) used.

detectron2 is optional and has no usable package in the registry; docs/detectron2.md says how to build it.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mner.encoders.detectors import Frame, TwoStageDetector, _not_too_thin, _positive, _scale, _whole
from mner.encoders.weights import load_by_name, read_weights
from mner.errors import MissingDependencyError


class Detectron2Detector(TwoStageDetector):
    """Faster R-CNN, ResNet-101 with FPN, trained on COCO: 80 classes, 1024 features.

    Args:
        weights: None for random ones, or a local file: detectron2's `.pkl` from its model zoo
            (COCO-Detection/faster_rcnn_R_101_FPN_3x), or a `.pth` that detectron2 saved. Only arrays are unpickled.
        top_k: Most regions of an image.
        min_size: Pixels to which the shorter side of an image is resized (the longer one to 5/3 of it at most).
        proposals: Boxes that the first stage hands on to the second.

    Raises:
        MissingDependencyError: If detectron2 is not installed.
        CheckpointError: If not every weight was found.
    """

    def __init__(self, weights: str | None = None, top_k: int = 10, min_size: int = 800, proposals: int = 1000) -> None:
        super().__init__()
        self.name = "detectron2/faster_rcnn_R_101_FPN"
        self.width = 1024
        self.top_k = _positive(top_k, "top_k")
        self.min_size = _positive(min_size, "min_size")
        self.proposals = _positive(proposals, "proposals")
        self.model, self.classes = _build(proposals)
        if weights is None:
            _damp(self.model.backbone.bottom_up)
        else:
            # Older files hold the anchors and the pixel statistics too, which the configuration gives.
            given = ("proposal_generator.anchor_generator.", "pixel_mean", "pixel_std")
            state = {name: value for name, value in read_weights(weights).items() if not name.startswith(given)}
            load_by_name(self.model, state, weights)
        self.requires_grad_(False).train(False)

    def describe(self) -> dict[str, Any]:
        """What besides the weights decides the features; plain data, stored with them."""
        return {"min_size": self.min_size, "proposals": self.proposals, "top_k": self.top_k}

    def frame(self, image: Image.Image) -> Frame:
        """Resize, normalise and compute the feature maps."""
        from detectron2.data.transforms import ResizeShortestEdge

        shown = _not_too_thin(image)
        longest = self.min_size * 5 // 3
        height, width = ResizeShortestEdge.get_output_shape(shown.height, shown.width, self.min_size, longest)
        resized = np.array(shown.resize((width, height), Image.Resampling.BILINEAR), dtype=np.uint8)
        pixels = torch.from_numpy(resized[:, :, ::-1].copy()).permute(2, 0, 1)  # (3, h, w), blue first
        images = self.model.preprocess_image([{"image": pixels.float()}])
        return Frame(
            images,
            (height, width),
            _scale(image, (height, width), self.model.device),
            self.model.backbone(images.tensor),
        )

    def candidates(self, frame: Frame) -> tuple[Tensor, Tensor]:
        """Boxes (n, c, 4) and probabilities (n, c) of n proposals for each of c classes, in resized pixels."""
        from detectron2.structures import Boxes, Instances

        (proposals,), _ = self.model.proposal_generator(frame.images, frame.maps, None)
        if not len(proposals):
            proposals = Instances(frame.size, proposal_boxes=Boxes(_whole(frame)))
        predictor = self.model.roi_heads.box_predictor
        predictions = predictor(self.box_features(frame, proposals.proposal_boxes.tensor))
        (boxes,) = predictor.predict_boxes(predictions, [proposals])  # (n, 4 c)
        (probabilities,) = predictor.predict_probs(predictions, [proposals])  # (n, c + 1), background last
        return boxes.view(len(boxes), -1, 4), probabilities[:, :-1]

    def box_features(self, frame: Frame, boxes: Tensor) -> Tensor:
        """Box-head features (r, f) of boxes (r, 4) in resized pixels."""
        from detectron2.structures import Boxes

        heads = self.model.roi_heads
        maps = [frame.maps[name] for name in heads.box_in_features]
        features: Tensor = heads.box_head(heads.box_pooler(maps, [Boxes(boxes)]))
        return features


def _damp(resnet: Any) -> None:
    """Shrink the residual branches of a random ResNet: its frozen norms normalise nothing, and 33 blocks overflow."""
    for stage in resnet.stages:
        for block in stage:
            block.conv3.norm.weight.fill_(0.2)


def _build(proposals: int) -> tuple[Any, tuple[str, ...]]:
    """The network of detectron2's configs/COCO-Detection/faster_rcnn_R_101_FPN_3x.yaml, and its class names.

    The options are set here since `detectron2.model_zoo`, which has the file, fails with setuptools >= 82.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # detectron2 uses torch.jit.script, which torch has deprecated
        try:
            from detectron2.config import get_cfg
            from detectron2.data import MetadataCatalog
            from detectron2.modeling import build_model
        except ImportError as error:
            raise MissingDependencyError(
                f"The detectron2 detector needs detectron2, which could not be imported ({error}). It is built from "
                "its source: docs/detectron2.md has the steps. The default detector, `torchvision`, needs nothing more."
            ) from error
        config = get_cfg()
        config.merge_from_list(
            [
                *("MODEL.DEVICE", "cpu", "MODEL.MASK_ON", False, "MODEL.RESNETS.DEPTH", 101),
                *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
                *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
                *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
                *("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [128], [256], [512]]),
                *("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.5, 1.0, 2.0]]),
                *("MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"]),
                *("MODEL.RPN.PRE_NMS_TOPK_TEST", proposals, "MODEL.RPN.POST_NMS_TOPK_TEST", proposals),
                *("MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"]),
                *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC", 2),
                *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7),
            ]
        )
        model = build_model(config)
    return model, tuple(MetadataCatalog.get("coco_2017_val").thing_classes)
