"""Images as names of their classes: a timm model with its head, trained on some ImageNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import nn

from mner.data.transforms import transform_for
from mner.encoders.image import create_timm
from mner.encoders.weights import load_by_name, load_in_order, read_weights


class ImageClassifier(nn.Module):
    """The classes of an image by a timm model, named as timm describes them (`golden retriever`). Frozen.

    timm has the words of ImageNet's classes in its package. A class of several synonyms (`tabby, tabby cat`) has the
    first as its name, since commas part names where they are read.

    Args:
        name: timm model whose classes are those of ImageNet-1k, 12k, 21k or 22k.
        weights: None for random ones, `"pretrained"` for timm's own (downloaded once), or a local file of all weights,
            the head's among them; see `ImageEncoder`.
        image_size: s, in place of the model's own.

    Attributes:
        classes: Names of the classes, in the order of the logits.

    Raises:
        ValueError: If timm knows no such model, or not the names of its classes.
        CheckpointError: If not every weight was found.
    """

    def __init__(self, name: str, weights: str | None = None, image_size: int | None = None) -> None:
        from timm.data import ImageNetInfo, infer_imagenet_subset

        super().__init__()
        self.name = name
        self.model: Any = create_timm(name, weights == "pretrained")
        subset = infer_imagenet_subset(self.model)
        if subset is None:
            raise ValueError(
                f"Expected a timm model of ImageNet's classes, but timm has no names for the {self.model.num_classes} "
                f"classes of {name!r}"
            )
        known = ImageNetInfo(subset)
        described = [str(known.index_to_description(number)) for number in range(self.model.num_classes)]
        self.classes = tuple(words.split(",")[0].strip() for words in described)
        if weights is not None and weights != "pretrained":
            state, own = read_weights(weights), self.model.state_dict()
            load = load_by_name if 2 * sum(key in state for key in own) > len(own) else load_in_order
            load(self.model, state, weights)
        self.transform = transform_for(name, image_size)
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, images: Sequence[Image.Image], top_k: int = 5) -> list[list[tuple[str, float]]]:
        """The `top_k` most probable classes of each RGB image with their probabilities, by falling probability."""
        device = next(self.model.parameters()).device
        logits = self.model(torch.stack([self.transform(image) for image in images]).to(device))  # (b, classes)
        best = logits.float().softmax(-1).topk(min(top_k, len(self.classes)))
        return [
            [(self.classes[number], score) for number, score in zip(numbers, scores, strict=True)]
            for numbers, scores in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
