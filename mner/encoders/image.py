"""Images as grids of regions, by any timm model."""

from __future__ import annotations

import difflib
import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mner.encoders.weights import load_by_name, load_in_order, read_weights
from mner.errors import CheckpointError


class ImageEncoder(nn.Module):
    """A timm model without its head: one vector for each cell of its last feature map, or for each patch.

    Chen et al. (2021) rescale the image to 224 x 224 and take the last convolutional layer of a ResNet, 7 x 7 x 2048.
    Here any timm model does: convolutional maps and patch tokens (class and register tokens dropped) alike become
    r regions in row-major order, so that `regions.view(b, *encoder.grid(s), f)` is the map again.

    Frozen means in evaluation mode for ever: `train()` does not reach it, so that BatchNorm statistics do not drift.

    Args:
        name: timm model, such as `resnet152`, `vit_base_patch32_clip_224` or `test_resnet`.
        frozen: Neither trained nor in training mode.
        weights: None for random ones, `"pretrained"` for timm's own (downloaded once), or a local file (`.safetensors`,
            `.pth`). The file's names are timm's, or its weights are in timm's order, as torchvision's MobileNetV2.

    Attributes:
        width: Of a region, f.
        size: s, the side of the images that the model was made for.

    Shapes:
        image (b, 3, s, s) -> regions (b, r, f)

    Raises:
        ValueError: If timm knows no such model, or it gives no regions.
        CheckpointError: If not every weight was found.

    >>> encoder = ImageEncoder("test_resnet")
    >>> encoder(torch.zeros(2, 3, 64, 64)).shape, encoder.width, encoder.grid(64)
    (torch.Size([2, 4, 96]), 96, (2, 2))
    """

    def __init__(self, name: str, frozen: bool = True, weights: str | None = None) -> None:
        super().__init__()
        self.name = name
        self.frozen = frozen
        self.weights = weights
        self.backbone: Any = create_timm(name, weights == "pretrained", num_classes=0).eval()
        self._config: dict[str, Any] = dict(self.backbone.pretrained_cfg)
        self.size = int(self._config.get("input_size", (3, 224, 224))[-1])
        self._channels_last = str(getattr(self.backbone, "output_fmt", "")).endswith("NHWC")
        features, unused = self._trace(self.size)
        _, regions, self.width = map(int, self._regions(features).shape)
        if not regions:
            raise ValueError(f"Expected a timm model with a feature map or patches, but {name!r} has class tokens only")
        self._sizes = {self.size}
        if weights is not None and weights != "pretrained":
            self._load(weights, unused)
        for parameter, value in self.backbone.named_parameters():
            # What only the head reads gets no gradient, and DDP would wait for it for ever.
            value.requires_grad_(value.requires_grad and not frozen and parameter not in unused)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Training mode, unless frozen."""
        return super().train(mode and not self.frozen)

    def forward(self, image: Tensor) -> Tensor:
        """Regions (b, r, f) of images (b, 3, s, s).

        Raises:
            ValueError: If the model takes no images of that size.
        """
        if image.shape[-1] not in self._sizes:
            self._try(image.shape[-1])
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self._regions(self.backbone.forward_features(image))

    @property
    def blocks(self) -> list[Any]:
        """Its blocks, first to last, where it is a vision transformer of timm's plain kind; else none."""
        from timm.models.vision_transformer import Attention, Block

        found = list(getattr(self.backbone, "blocks", ()))
        plain = all(type(block) is Block and type(block.attn) is Attention for block in found)
        return found if plain and not any(getattr(block.attn, "gate", None) for block in found) else []

    def tokens(self, image: Tensor, blocks: int) -> Tensor:
        """Class token and patches (b, n, f) of images (b, 3, s, s) after the first few `blocks`, not normalised.

        Raises:
            ValueError: If the model takes no images of that size.
        """
        if image.shape[-1] not in self._sizes:
            self._try(image.shape[-1])
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            (found,) = self.backbone.forward_intermediates(
                image, [blocks - 1], stop_early=True, output_fmt="NLC", intermediates_only=True,
                return_prefix_tokens=True,
            )  # fmt: skip
            return found if isinstance(found, Tensor) else torch.cat(found[::-1], 1)

    def grid(self, size: int) -> tuple[int, int]:
        """Rows and columns of the regions of images of `size` x `size` pixels."""
        features = self._shape(size)
        if features.dim() == 4:
            rows, columns = features.shape[1:3] if self._channels_last else features.shape[2:4]
            return rows, columns
        patches = self._regions(features).shape[1]
        rows = math.isqrt(patches)
        if rows * rows != patches:
            raise ValueError(f"The {patches} patches of {self.name!r} at {size} pixels form no square grid")
        return rows, rows

    def _try(self, size: int) -> None:
        """Each kind of model has its own error for a size that it cannot take; some have a bare assertion."""
        try:
            self._shape(size)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"{self.name!r} takes images of {self.size} x {self.size} pixels, but got {size} x {size} "
                f"({error}); leave image_size out, or choose a convolutional model, such as resnet50"
            ) from error
        self._sizes.add(size)

    def _regions(self, features: Tensor) -> Tensor:
        if features.dim() == 3:  # (b, prefix + r, f); class, distillation and register tokens stand for no place
            prefix = getattr(self.backbone, "num_prefix_tokens", None)
            if prefix is None:
                prefix = int(getattr(self.backbone, "cls_token", None) is not None)
            return features[:, prefix:]
        # (b, rows, columns, f) or (b, f, rows, columns)
        return features.flatten(1, 2) if self._channels_last else features.flatten(2).transpose(1, 2)

    def _features(self, size: int, parameters: dict[str, Tensor]) -> Tensor:
        """Features of two images on the meta device: shapes, no numbers. One is too few for batch normalisation."""
        image = torch.zeros(2, 3, size, size, device="meta")
        features = functional_call(
            _Features(self.backbone), {f"model.{name}": value for name, value in parameters.items()}, (image,)
        )
        if not isinstance(features, Tensor) or features.dim() not in (3, 4):
            found = tuple(features.shape) if isinstance(features, Tensor) else f"a {type(features).__name__}"
            raise ValueError(
                f"Expected a timm model with one feature map or one sequence of patches, but {self.name!r} gives "
                f"{found}"
            )
        return features

    def _meta(self) -> dict[str, Tensor]:
        named = [*self.backbone.named_parameters(), *self.backbone.named_buffers()]
        return {
            name: torch.empty_like(value, device="meta").requires_grad_(isinstance(value, nn.Parameter))
            for name, value in named
        }

    @torch.inference_mode(False)  # evaluation may meet a new size
    def _shape(self, size: int) -> Tensor:
        """Features of images of a size, on the meta device."""
        with torch.no_grad():
            return self._features(size, self._meta())

    def _trace(self, size: int) -> tuple[Tensor, set[str]]:
        """As `_shape`, and the parameters that they don't depend on."""
        meta = self._meta()
        with torch.enable_grad():
            features = self._features(size, meta)
            parameters = {name: value for name, value in meta.items() if value.requires_grad}
            gradients = torch.autograd.grad(features.sum(), list(parameters.values()), allow_unused=True)
        return features, {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None}

    def _load(self, path: str, unused: set[str]) -> None:
        state = read_weights(path)
        own = self.backbone.state_dict()
        if 2 * sum(name in state for name in own) > len(own):
            classifier = self._config.get("classifier") or ()
            heads = [classifier] if isinstance(classifier, str) else list(classifier)
            load_by_name(self.backbone, state, path, spare=[*heads, "classifier", "fc", "head"], optional=unused)
        else:
            load_in_order(self.backbone, state, path)


class _Features(nn.Module):
    """`forward_features` as a forward pass, which is what `functional_call` calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, image: Tensor) -> Any:
        return self.model.forward_features(image)


def create_timm(name: str, pretrained: bool, **options: Any) -> Any:
    """A timm model, with errors that say what to do.

    Args:
        name: The model.
        pretrained: With timm's own weights, downloaded once.
        options: As `timm.create_model` takes them.

    Raises:
        ValueError: If timm knows no such model.
        CheckpointError: If its weights cannot be had.
    """
    import timm  # takes seconds; only needed once a model is named

    if ":" not in name and not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise ValueError(
            f"Expected the name of a timm model, but got {name!r}"
            + (f"; did you mean {' or '.join(map(repr, close))}?" if close else "; `timm.list_models()` names them")
        )
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:  # no network, no such file, no weights known: each library has its own errors
        if not pretrained:
            raise
        raise CheckpointError(
            f"timm could not get the pretrained weights of {name!r}: {error}. Run once with a network, so that they "
            "are kept, or give `weights` a local file."
        ) from error
