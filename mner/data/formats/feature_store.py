"""Stored image features: written once (`FeatureWriter`), read through a memory map (`FeatureStore`)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mner.data.formats.feature_format import columns_of, read_broken, read_index, read_meta
from mner.data.formats.feature_writer import FeatureWriter as FeatureWriter
from mner.data.formats.image_names import ImageNames, image_key
from mner.data.formats.images import Reason
from mner.data.inputs import cell_boxes
from mner.errors import DataFormatError


class FeatureStore:
    """Reads a store, whose files `mner.data.formats.feature_format` describes.

    `store[image_id]` is a read-only view (r, f) into the memory map: nothing is read until it is used, and nothing is
    copied. Which image an id means, `mner.data.formats.image_names` says. Processes share the pages: a pickled store
    is a path, opened anew.

    Args:
        path: Folder of the store.

    Attributes:
        meta: Encoder, weights, transform, shapes; plain data.

    Raises:
        DataNotFoundError: If there is no store.
        DataFormatError: If it is unfinished or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.meta = read_meta(self.path)
        if not self.meta["complete"]:
            raise DataFormatError(
                self.path, None, "an extraction that was stopped", "a complete store", "Run the same command again."
            )
        counts = read_index(self.path / "index.tsv", repair=False)
        self._rows = {key: number for number, key in enumerate(counts)}
        # Older stores name images without suffix.
        self.names_index = ImageNames((), self.path)
        self._indexed = False
        self._ends = np.cumsum([0, *counts.values()], dtype=np.int64)
        total = int(self._ends[-1])
        expected = {"images": len(counts), "regions": total}
        if any(self.meta[key] != value for key, value in expected.items()):
            found = {key: self.meta[key] for key in expected}
            raise self._damaged(f"an index of {expected}, but meta.json says {found}", "equal counts")
        self._maps: dict[str, NDArray[Any]] = {}
        for name, column in columns_of(self.meta).items():
            file = self.path / column.file
            size, wanted = file.stat().st_size if file.exists() else 0, total * column.row_bytes
            if size != wanted:
                raise self._damaged(f"{size} bytes in {column.file}", f"{wanted} ({total} regions)")
            # A plain array over the map: np.memmap's own slicing costs more than the read.
            shape = (total, *column.shape)
            self._maps[name] = (
                np.asarray(np.memmap(file, column.dtype, "r", shape=shape)) if total else np.zeros(shape, column.dtype)
            )

    def __reduce__(self) -> tuple[type[FeatureStore], tuple[Path]]:
        return type(self), (self.path,)  # a worker opens its own map

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.path)!r}: {len(self)} images by {self.meta['encoder']}, width {self.width})"

    @property
    def width(self) -> int:
        """Width f of the features."""
        return int(self.meta["width"])

    @property
    def kind(self) -> str:
        """`grid` or `regions`."""
        return str(self.meta["kind"])

    @property
    def broken(self) -> dict[str, Reason]:
        """Images that could not be read when the features were made, by image key, and why."""
        return read_broken(self.path)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        """The names of the images, in order."""
        return iter(self._rows)

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and self._name(image_id) is not None

    def __getitem__(self, image_id: str) -> NDArray[Any]:
        """Features (r, f)."""
        return self._slice("features", image_id)

    def boxes(self, image_id: str) -> NDArray[np.float32]:
        """Boxes (r, 4): left, top, right, bottom in pixels of the upright image."""
        return self._slice("boxes", image_id)

    def scores(self, image_id: str) -> NDArray[np.float32]:
        """Scores (r,), falling."""
        return self._slice("scores", image_id)

    def names(self, image_id: str) -> list[str]:
        """Class names of the r regions."""
        return [self.meta["classes"][label] for label in self._slice("labels", image_id)]

    def places(self, image_id: str) -> NDArray[np.float32]:
        """Boxes (r, 4) in 0..1 of the image; of a grid, its cells in 0..1 of the square that the encoder saw.

        Raises:
            DataFormatError: If the store does not say how large its images were, or its cells form no square grid.
        """
        if self.kind == "grid":
            r = len(self[image_id])
            side = math.isqrt(r)
            if side * side != r:
                raise DataFormatError(self.path, None, f"{r} cells of image {image_id!r}", "a square grid, for boxes")
            return cell_boxes(side, side)
        self.check_sizes()
        sizes = np.maximum(self._slice("sizes", image_id), 1)
        found: NDArray[np.float32] = np.clip(self.boxes(image_id) / np.tile(sizes, 2), 0, 1).astype(np.float32)
        return found

    def size(self, image_id: str) -> tuple[int, int]:
        """Width and height of the image in the pixels of its boxes; 0 and 0 where it has no regions."""
        self.check_sizes()
        found = self._slice("sizes", image_id)
        return (int(found[0, 0]), int(found[0, 1])) if len(found) else (0, 0)

    def groups(self, image_id: str) -> NDArray[np.int64]:
        """Which crop of the image each of the r regions is of; 0 where an image is one."""
        if "groups" in self._maps:
            return self._slice("groups", image_id).astype(np.int64)
        return np.zeros(len(self[image_id]), np.int64)

    def check_sizes(self) -> None:
        """Refuse a store of regions whose boxes cannot be put in relation to their image.

        Raises:
            DataFormatError: If it was made before the sizes of images were stored.
        """
        if self.kind == "regions" and "sizes" not in self._maps:
            raise DataFormatError(
                self.path,
                None,
                f"boxes without the sizes of their images (stored by mner {self.meta.get('mner', '0')})",
                "sizes, without which boxes are not known in 0..1",
                "Extract again into a new folder: `mner features --regions … --images … --out …`.",
            )

    def missing(self, image_ids: Iterable[str]) -> list[str]:
        """Those of `image_ids` of which the store knows nothing: neither features nor that the image is broken."""
        broken = ImageNames(self.broken, self.path)
        return [
            image_id for image_id in dict.fromkeys(image_ids) if image_id not in self and broken.find(image_id) is None
        ]

    def check(self, width: int | None = None, kind: str | None = None) -> None:
        """Say before training, not in its midst, that a store does not fit.

        Raises:
            DataFormatError: If width or kind differ from what a model takes.
        """
        for name, expected in (("width", width), ("kind", kind)):
            found = self.meta[name]
            if expected is not None and found != expected:
                raise DataFormatError(
                    self.path,
                    None,
                    f"features of {name} {found!r} (made by {self.meta['encoder']})",
                    f"{name} {expected!r}",
                    "Extract features for this model (`mner features`), or change the model.",
                )

    def _name(self, image_id: str) -> str | None:
        if image_id in self._rows:
            return image_id
        if not self._indexed:
            self.names_index, self._indexed = ImageNames(self._rows, self.path), True
        # "7.jpg" in an older store's "7" is the same image, and not loosely so.
        key = image_key(image_id)
        if not self.meta.get("suffixes") and key in self._rows:
            return key
        return self.names_index.find(image_id)

    def _slice(self, column: str, image_id: str) -> NDArray[Any]:
        name = self._name(image_id)
        if name is None:
            raise KeyError(f"{self.path} has no features of image {image_id!r}; `in` and `missing` say which it has")
        row = self._rows[name]
        if column not in self._maps:
            raise ValueError(f"{self.path} holds a grid of features; only detected regions have {column}")
        return self._maps[column][self._ends[row] : self._ends[row + 1]]

    def _damaged(self, found: str, expected: str) -> DataFormatError:
        return DataFormatError(self.path, None, found, expected, "The store is damaged: delete it and extract again.")
