"""`ImageRegions`: a strategy's image side, from the image or the feature store to regions."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.encoders.image import ImageEncoder
from mner.training.module import TaggingModule


class ImageRegions(TaggingModule):
    """What the regions of a batch are made of.

    Attributes:
        image_encoder: Encodes images; None with stored features.
        region_width: f.
        region_projection: Regions (b, r, f) to the width d of the model.
        no_image: What a post without image shows (f), learned.
        replaces_missing_images: Whether a post without image shows `no_image`. If False it has no region at all, for
            strategies whose words then stay as they are.
    """

    replaces_missing_images: ClassVar[bool] = True
    width: int

    def _build_image_path(self, name: str | None, weights: str | None, frozen: bool, width: int | None) -> None:
        self.image_encoder: ImageEncoder | None = None
        if name is not None:
            self.image_encoder = ImageEncoder(name, frozen=frozen, weights=weights)
            width = self.image_encoder.width
        if width is None:
            raise ValueError(
                f"{type(self).__name__} uses images, but got neither `image_encoder` (a timm model, with `images` of "
                "the data module) nor `region_width` (with stored `features`, from which the data module takes it)"
            )
        self.region_width = width
        self.no_image = nn.Parameter(torch.randn(width) * 0.02, requires_grad=self.replaces_missing_images)
        self.region_projection: nn.Module = nn.Linear(width, self.width)

    def raw_regions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Regions (b, r, f) as the image encoder or the feature store gives them, with `no_image` put in."""
        b = batch["token_ids"].shape[0]  # `len` would be a constant to torch.export
        if "image" in batch and self.image_encoder is not None:
            regions, mask = self._encode_images(batch, self.image_encoder)
        elif "regions" in batch:
            # Stored as float16 and cast only here, on the device: half as much to copy there.
            regions, mask = batch["regions"].to(self.no_image.dtype), batch["region_mask"]
        else:
            regions = self.no_image.new_zeros(b, 1, self.region_width)
            mask = torch.zeros(b, 1, dtype=torch.bool, device=regions.device)
        if regions.shape[-1] != self.region_width:
            raise ValueError(
                f"Expected regions of width {self.region_width}, as the model was built for, but got "
                f"{regions.shape[-1]}; use the features that it was trained with"
            )
        # Rows without any valid region: the first slot becomes the learned vector and is valid.
        bare = ~mask.any(1, keepdim=True)  # (b, 1)
        first = torch.zeros_like(mask)
        first[:, 0] = True
        slot = bare & first & self.replaces_missing_images  # (b, r)
        regions = torch.where(slot[..., None], self.no_image.to(regions.dtype), regions)
        regions = regions.masked_fill(~(mask | slot)[..., None], 0.0)
        return regions, mask | slot

    def boxes(self, batch: Batch, region_mask: Tensor) -> Tensor:
        """Boxes (b, r, 4) beside `raw_regions`; one without area, such as that of `no_image`, is the whole image.

        Args:
            batch: With `region_boxes`; without, all regions are the whole image, since no post of it has one.
            region_mask: (b, r), as `raw_regions` gives it.
        """
        whole = torch.tensor([0.0, 0.0, 1.0, 1.0], device=region_mask.device)
        boxes = batch.get("region_boxes")
        if boxes is None:
            return whole.expand(*region_mask.shape, 4)
        return torch.where(boxes.any(-1, keepdim=True), boxes, whole.to(boxes.dtype))

    def _encode_images(self, batch: Batch, encoder: ImageEncoder) -> tuple[Tensor, Tensor]:
        """The cells of a post's image, or of all its images (b, n * cells, f), and which of them are there."""
        image = batch["image"]
        if image.dim() == 4:
            regions: Tensor = encoder(image)
            return regions, batch["has_image"][:, None].expand(-1, regions.shape[1])
        regions = encoder(image.flatten(0, 1)).unflatten(0, image.shape[:2])  # (b, n, cells, f)
        mask = batch["image_mask"][..., None].expand(regions.shape[:3])
        return regions.flatten(1, 2), mask.flatten(1)
