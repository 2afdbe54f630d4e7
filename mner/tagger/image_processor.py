"""What a trained model sees of a picture: opened as in training, turned into pixels, stored-like features, captions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mner.data.formats.images import MAX_PIXELS, load_image, to_rgb
from mner.data.inputs import OF_REGIONS, RegionSet, cell_boxes, join_regions
from mner.errors import CheckpointError

if TYPE_CHECKING:  # torch is imported with the first model that sees pictures
    import torch
    from torch import Tensor

    from mner.data.transforms import ImageTransform
    from mner.encoders.detectors import RegionDetector
    from mner.encoders.image import ImageEncoder
    from mner.fusion.base import FusionModule
    from mner.tagger.engines import Exported


class Opened(NamedTuple):
    """An opened picture, or None and why there is none ("" where none was given)."""

    picture: Image.Image | None
    problem: str


class Seen(NamedTuple):
    """What the model gets of a post's pictures; image and regions are None where it gets nothing."""

    image: Tensor | None = None  # (3, s, s), or (n, 3, s, s) of several pictures
    regions: NDArray[np.floating[Any]] | None = None  # (r, f)
    boxes: NDArray[np.float32] | None = None  # of the first picture's detected regions, in pixels of it upright
    image_mask: NDArray[np.bool_] | None = None  # (n,) which of several pictures are there
    known: RegionSet | None = None  # what else is known of the regions
    first: int | None = None  # regions of the first of several pictures; None for all


NOTHING = Seen()


def joined(parts: Sequence[Seen]) -> Seen:
    """What the model gets of a post from what it gets of each of its pictures."""
    real = [part for part in parts if part is not NOTHING]
    if len(parts) == 1 or not real:
        return parts[0]
    from mner.data.dataset import join_images

    image, there = join_images([part.image for part in parts])
    known = join_regions([part.known for part in parts])
    regions = None if known is None else known.features
    first = None if real[0].regions is None else len(real[0].regions)
    return Seen(image, regions, real[0].boxes, there, known, first)


def open_picture(given: Image.Image | bytes | str | os.PathLike[str] | None, size: int | None = None) -> Opened:
    """Open a picture, whatever its state: truncated, no image, a decompression bomb. Nothing is raised.

    Args:
        given: From PIL, the bytes of an image file, or its path.
        size: Shorter side that is needed; see `mner.data.formats.images.load_image`.
    """
    if given is None:
        return Opened(None, "")
    if isinstance(given, Image.Image):
        return _from_pil(given)
    if isinstance(given, (bytes, bytearray)):
        return Opened(*load_image(BytesIO(given), size))
    path = os.fspath(given)
    if path.startswith(("http://", "https://")):
        return Opened(None, "a URL; nothing is downloaded, give the file or its bytes")
    if not os.path.isfile(path):  # a pipe or a device would be read for ever
        return Opened(None, "not a file" if os.path.exists(path) else "missing")
    return Opened(*load_image(path, size))


def _from_pil(given: Image.Image) -> Opened:
    if not (given.width and given.height):
        return Opened(None, "empty")
    if given.width * given.height > MAX_PIXELS:
        return Opened(None, "too large")
    try:
        given.load()
        return Opened(to_rgb(given), "")
    except Exception:  # a file that PIL opened, but cannot decode; each decoder has its own errors
        return Opened(None, "truncated or damaged")


class Sight:
    """From pictures to what one model takes: pixels, or features made as those that it was trained with.

    The encoder of stored features is made when the first picture comes, since it may have to be downloaded.

    Args:
        model: The model.
        data: What its checkpoint says of the data.
        device: Where to run.
        encoder: What makes features, in place of the one that the checkpoint names.
        weights: File of that one's weights, if it was trained with a file.

    Attributes:
        size: Shorter side of a picture that is needed, or None for all of it.
        transform: From picture to pixels; None where the encoder takes pictures.
    """

    def __init__(
        self,
        model: FusionModule | Exported,
        data: Mapping[str, Any],
        device: torch.device | str,
        encoder: ImageEncoder | RegionDetector | None = None,
        weights: str | os.PathLike[str] | None = None,
    ) -> None:
        self.device = device
        self.transform: ImageTransform | None = None
        self.meta: dict[str, Any] | None = None
        self.lacks = ""
        self.blind = not model.uses_image
        self.needs: frozenset[str] = getattr(model, "needs", frozenset())
        self._encoder = encoder
        self._weights = weights
        self._grid: tuple[int, int] | None = None
        self._own: Any = getattr(model, "image_encoder", None)
        if self.blind:
            self.lacks = f"the model ({type(model).__name__}) uses no image"
            return
        from mner.data.transforms import ImageTransform, transform_for

        if self._own is not None:
            if data and not data.get("images"):
                self.lacks = "the model was trained without images"
            else:
                self.transform = transform_for(self._own.name, data.get("image_size"))
        elif data.get("features"):
            self.meta = dict(data["features"])
            if self.meta["kind"] == "grid":
                self.transform = ImageTransform(**self.meta["transform"])
        else:
            self.lacks = (
                "the model was trained on image features, but its checkpoint does not say on which; it was saved "
                "without a data module, or the training had no image"
            )

    @property
    def size(self) -> int | None:
        """Shorter side of a picture that is needed, or None for all of it."""
        return None if self.transform is None else self.transform.shorter_side

    def see(self, pictures: Sequence[Image.Image | None]) -> list[Seen]:
        """What the model gets of each picture; nothing of None, nor of any where it `lacks` something.

        Raises:
            CheckpointError: If the encoder of its features cannot be made; from then on `lacks` says so.
        """
        if self.lacks or not any(pictures):
            return [NOTHING] * len(pictures)
        if self.meta is None:
            return [NOTHING if picture is None else Seen(image=self._pixels(picture)) for picture in pictures]
        from mner.encoders.detectors import RegionDetector
        from mner.tagger.feature_encoder import detected_features, grid_features

        encoder = self._made()
        found = [place for place, picture in enumerate(pictures) if picture is not None]
        chosen = [picture for picture in pictures if picture is not None]
        boxes: list[NDArray[np.float32] | None] = [None] * len(chosen)
        if isinstance(encoder, RegionDetector):
            detected = detected_features(encoder, chosen)
            sets, boxes = [regions for regions, _ in detected], [where for _, where in detected]
        else:
            grids = grid_features(encoder, self._needed_transform(), chosen, self.device)
            cells = cell_boxes(*(self.grid() or (1, 1))) if self.needs & OF_REGIONS else None
            sets = [RegionSet(grid, cells, np.ones(len(grid), np.float32)) for grid in grids]
        seen = [NOTHING] * len(pictures)
        for place, some, where in zip(found, sets, boxes, strict=True):
            features = some.features.astype(self.meta["dtype"])  # rounded as the stored ones were
            if len(features):
                seen[place] = Seen(regions=features, boxes=where, known=some._replace(features=features))
        return seen

    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the regions of a picture; None where they form no grid."""
        from mner.encoders.image import ImageEncoder

        encoder = self._encoder if self.meta is not None else self._own
        if self.transform is None or not isinstance(encoder, ImageEncoder):
            return None
        if self._grid is None:
            self._grid = encoder.grid(self.transform.size)
        return self._grid

    def _pixels(self, picture: Image.Image) -> Tensor:
        return self._needed_transform()(picture)

    def _needed_transform(self) -> ImageTransform:
        if self.transform is None:
            raise ValueError("Expected an encoder of pixels, but the features are of detected regions")
        return self.transform

    def _made(self) -> ImageEncoder | RegionDetector:
        from mner.tagger.feature_encoder import make_encoder

        if self._encoder is None and self.meta is not None:
            try:
                self._encoder = make_encoder(self.meta, self._weights)
            except Exception as error:  # no weights, network or package: several libraries make encoders
                self.lacks = f"what makes its image features is not available: {error}"
                raise CheckpointError(
                    f"The model was trained on features by {self.meta['encoder']}, and {self.lacks}. Give `encoder` "
                    "(or `image_weights`, the file of its weights); without, posts are tagged by their text"
                ) from error
        if self._encoder is None:
            raise ValueError("Expected features of images, but the model takes none")
        return self._encoder.to(self.device)
