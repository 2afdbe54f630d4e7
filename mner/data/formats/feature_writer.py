"""Writing stored image features."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

import mner
from mner.data.formats.feature_format import DTYPES, VERSION, columns_of, read_broken, read_index, read_meta
from mner.data.formats.image_names import image_key, unusable
from mner.data.formats.images import Reason
from mner.errors import DataFormatError
from mner.files import flush, is_draft, lock, replace, write_json

# What may differ when writing goes on.
_CHANGES = ("mner_features", "mner", "complete", "suffixes")


class FeatureWriter:
    """Writes a store, or goes on with one that was left unfinished. One process at a time.

    For example::

        with FeatureWriter("features", kind="grid", encoder="resnet152", width=2048) as writer:
            writer.append(["17_06_1"], [features])
            writer.finish()

    Args:
        path: Folder of the store.
        kind: `grid` (cells or patches) or `regions` (boxes with scores and class names).
        encoder: Name of the image encoder or detector.
        width: Of a region, f.
        weights: Where its weights came from.
        weights_hash: Hash of their values.
        transform: What was done to the images; plain data.
        dtype: `float16` or `float32`.
        classes: Class names, for regions.
        sizes: Store the size of each image, for regions; without, their boxes are in pixels only.
        groups: Store which crop of its image a region is of.
        precision: What the encoder computed in.

    Raises:
        DataFormatError: If the folder holds features of another kind, encoder, weights, transform, ...
        BusyError: If another process is writing there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        kind: Literal["grid", "regions"],
        encoder: str,
        width: int,
        weights: str | None = None,
        weights_hash: str | None = None,
        transform: Mapping[str, Any] | None = None,
        dtype: Literal["float16", "float32"] = "float16",
        classes: Sequence[str] = (),
        sizes: bool = False,
        groups: bool = False,
        precision: str = "32-true",
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"Expected argument `dtype` to be one of {list(DTYPES)}, but got {dtype!r}")
        if kind not in ("grid", "regions"):
            raise ValueError(f"Expected argument `kind` to be 'grid' or 'regions', but got {kind!r}")
        self.path = Path(path)
        self.meta: dict[str, Any] = {
            "mner_features": VERSION,
            "kind": kind,
            "encoder": encoder,
            "width": width,
            "weights": weights,
            "weights_hash": weights_hash,
            "transform": dict(transform or {}),
            "dtype": dtype,
            "classes": list(classes),
            "suffixes": True,  # images are known by the names of their files; older stores drop the suffixes
            "mner": mner.__version__,
            "complete": False,
            **({"sizes": True} if sizes else {}),
            **({"groups": True} if groups else {}),
            **({"precision": precision} if precision != "32-true" else {}),  # older stores say nothing
        }
        self._labels = {name: number for number, name in enumerate(classes)}
        self._make_folder()
        self._lock = lock(self.path / "lock", self.path)
        try:
            self._go_on_without_sizes()
            self._check_old_meta()
            self._counts, self.broken = read_index(self.path / "index.tsv", repair=True), read_broken(self.path)
            self._cut()
        except BaseException:
            self._lock.release()
            raise
        write_json(self.path / "meta.json", self.meta)
        self._files = {name: (self.path / column.file).open("ab") for name, column in columns_of(self.meta).items()}
        self._index = (self.path / "index.tsv").open("ab")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._counts)

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and self._key(image_id) in self._counts

    def append(
        self,
        image_ids: Sequence[str],
        features: Sequence[NDArray[Any]],
        boxes: Sequence[NDArray[Any]] | None = None,
        scores: Sequence[NDArray[Any]] | None = None,
        names: Sequence[Sequence[str]] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
        groups: Sequence[NDArray[Any]] | None = None,
    ) -> None:
        """Add some images; they are on the disk when this returns.

        Args:
            image_ids: n ids, none of them in the store.
            features: n arrays (r, f); r may differ.
            boxes: n arrays (r, 4), for regions.
            scores: n arrays (r,), for regions.
            names: n lists of r class names, for regions.
            sizes: n pairs of width and height, in the pixels of the boxes.
            groups: n arrays (r,), which crop a region is of.

        Raises:
            ValueError: If shapes or counts do not fit, an id is there already, or a number is not finite in `dtype`.
        """
        keys = [self._key(image_id) for image_id in image_ids]
        again = [key for position, key in enumerate(keys) if key in self._counts or key in keys[:position]]
        if again:
            raise ValueError(f"Expected images that the store does not have, but got {again}")
        refused = [key for key in keys if unusable(key)]
        if refused:
            raise ValueError(f"Expected image ids in UTF-8, without tabs and line breaks, but got {refused}")
        given: dict[str, Sequence[Any] | None] = {"features": features}
        if self.meta["kind"] == "regions":
            labels = None if names is None else [[self._label(name) for name in some] for some in names]
            given |= {"boxes": boxes, "scores": scores, "labels": labels}
        counts = [len(some) for some in features]
        given["groups"] = groups
        given["sizes"] = sizes and [np.tile(size, (r, 1)) for size, r in zip(sizes, counts, strict=True)]
        data = {name: self._bytes(name, given[name], keys, counts) for name in self._files}
        for name, file in self._files.items():
            file.write(data[name])
            flush(file)
        self._index.write("".join(f"{count}\t{key}\n" for key, count in zip(keys, counts, strict=True)).encode())
        flush(self._index)
        self._counts.update(zip(keys, counts, strict=True))

    def finish(self, broken: Mapping[str, Reason] | None = None) -> None:
        """Mark the store as complete.

        Args:
            broken: Images that could not be read, by image key, with the reason.
        """
        self.broken.update({self._key(name): reason for name, reason in (broken or {}).items()})
        self.broken = {key: reason for key, reason in self.broken.items() if key not in self._counts}
        write_json(self.path / "broken.json", self.broken)
        counted = {"images": len(self._counts), "regions": sum(self._counts.values())}
        self.meta |= {"complete": True, **counted}
        write_json(self.path / "meta.json", self.meta)

    def close(self) -> None:
        """Close the files; without `finish` the store stays incomplete and can be gone on with."""
        for file in (*self._files.values(), self._index):
            file.close()
        self._lock.release()

    def _key(self, image_id: str) -> str:
        return image_id if self.meta["suffixes"] else image_key(image_id)

    def _label(self, name: str) -> int:
        if name not in self._labels:
            raise ValueError(f"Expected class names among {list(self._labels)}, but got {name!r}")
        return self._labels[name]

    def _bytes(self, name: str, given: Sequence[Any] | None, keys: list[str], counts: list[int]) -> bytes:
        column = columns_of(self.meta)[name]
        if given is None or len(given) != len(keys):
            found = "None" if given is None else f"{len(given)}"
            raise ValueError(f"Expected `{name}` of {len(keys)} images, but got {found}")
        parts = []
        for key, count, value in zip(keys, counts, given, strict=True):
            with np.errstate(over="ignore"):  # reported below
                array = np.asarray(value).reshape((0, *column.shape) if not len(value) else np.shape(value))
                array = np.ascontiguousarray(array.astype(column.dtype))
            if array.shape != (count, *column.shape):
                raise ValueError(
                    f"Expected `{name}` of shape {(count, *column.shape)} for image {key!r}, but got {array.shape}"
                )
            if not np.isfinite(array).all():
                raise ValueError(
                    f"The {name} of image {key!r} are not finite as {column.dtype}; use dtype 'float32' if they are "
                    "too large for float16, and check the weights of the encoder"
                )
            parts.append(array.tobytes())
        return b"".join(parts)

    def _make_folder(self) -> None:
        if self.path.is_dir() and any(self.path.iterdir()) and not (self.path / "meta.json").exists():
            # A run that was killed while it wrote the first meta.json leaves the lock and a draft.
            names = sorted(entry.name for entry in self.path.iterdir())
            others = [name for name in names if name != "lock" and not is_draft(name)]
            if others:
                raise DataFormatError(
                    self.path,
                    None,
                    f"a folder with {others[:3]}",
                    "a new, an empty, or a store's folder",
                    "Name another.",
                )
        self.path.mkdir(parents=True, exist_ok=True)

    def _go_on_without_sizes(self) -> None:
        """A store that was begun before sizes were stored is gone on with as it is."""
        if (self.path / "meta.json").exists() and not read_meta(self.path).get("sizes"):
            self.meta.pop("sizes", None)

    def _check_old_meta(self) -> None:
        if not (self.path / "meta.json").exists():
            return
        old = read_meta(self.path)
        self.meta["suffixes"] = bool(old.get("suffixes"))  # an older store goes on as it was begun
        # Through JSON and back, so that tuples compare equal to lists.
        new = json.loads(json.dumps(self.meta))
        known = dict.fromkeys((*new, "sizes", "groups", "precision"))
        differing = [key for key in known if key not in _CHANGES and old.get(key) != new.get(key)]
        if differing:
            shown = {key: (old.get(key), new.get(key)) for key in differing if key != "classes"}
            found = "; ".join(f"{key} {was!r}, now {now!r}" for key, (was, now) in shown.items()) or "other classes"
            raise DataFormatError(
                self.path,
                None,
                f"features made otherwise ({found})",
                "one encoder, one set of weights and one transform in a store",
                "Name another folder for the new features, or delete this one.",
            )

    def _cut(self) -> None:
        """Make data and index agree again after a kill: what only one of them has is dropped."""
        columns = columns_of(self.meta).values()
        files = [(self.path / column.file, column.row_bytes) for column in columns]
        available = min(file.stat().st_size // size if file.exists() else 0 for file, size in files)
        kept, total = {}, 0
        for key, count in self._counts.items():
            if total + count > available:
                break
            kept[key] = count
            total += count
        if len(kept) < len(self._counts):
            lines = "".join(f"{count}\t{key}\n" for key, count in kept.items())
            replace(self.path / "index.tsv", lines)
            self._counts = kept
        for file, size in files:
            if file.exists():
                os.truncate(file, total * size)
