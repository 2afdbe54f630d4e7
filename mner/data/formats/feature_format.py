"""The files of a feature store.

A store is a folder:

| file | what |
|---|---|
| `meta.json` | encoder, its weights' name and hash, transform, kind, width, dtype, counts, version of mner |
| `index.tsv` | one line an image, in order: number of regions, name of the image's file |
| `features.bin` | (all regions, f) float16 or float32, little-endian, one image after another |
| `boxes.bin` | for detected regions: (all regions, 4) float32 |
| `scores.bin`, `labels.bin` | for detected regions: (all regions,) float32 and int16 |
| `sizes.bin` | for detected regions: (all regions, 2) int32, width and height of their image; older stores have none |
| `groups.bin` | where an image has several crops: (all regions,) int16, which of them a region is of |
| `broken.json` | images that could not be read, and why |

The index line of an image is written after its data are on the disk. Whatever the moment a writer is killed at, what
the index does not name is cut off when writing goes on, and nothing is computed twice or lost.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mner.data.formats.images import Reason
from mner.errors import DataFormatError, DataNotFoundError

VERSION = 1
DTYPES = {"float16": "<f2", "float32": "<f4"}


class Column(NamedTuple):
    """One flat file: its dtype and the shape of one region."""

    file: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one region."""
        return np.dtype(self.dtype).itemsize * int(np.prod(self.shape))


_OPTIONAL = {"sizes": Column("sizes.bin", "<i4", (2,)), "groups": Column("groups.bin", "<i2", ())}


def columns_of(meta: Mapping[str, Any]) -> dict[str, Column]:
    """The flat files of a store, by what they hold."""
    columns = {"features": Column("features.bin", DTYPES[meta["dtype"]], (int(meta["width"]),))}
    if meta["kind"] == "regions":
        columns["boxes"] = Column("boxes.bin", "<f4", (4,))
        columns["scores"] = Column("scores.bin", "<f4", ())
        columns["labels"] = Column("labels.bin", "<i2", ())
    for name, column in _OPTIONAL.items():
        if meta.get(name):
            columns[name] = column
    return columns


def read_meta(path: Path) -> dict[str, Any]:
    """What `meta.json` says.

    Raises:
        DataNotFoundError: If there is none.
        DataFormatError: If it is no description of a store, or of another version.
    """
    file = path / "meta.json"
    if not file.is_file():
        raise DataNotFoundError(
            f"No stored features at {str(path)!r} (no meta.json there); "
            "`mner features --images FOLDER --out FOLDER` makes them"
        )
    expected = f"the description of stored features, version {VERSION}"
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
        version = meta["mner_features"]
        kind, dtype, width, complete = meta["kind"], meta["dtype"], meta["width"], meta["complete"]
        if complete:
            _ = meta["images"], meta["regions"], meta["encoder"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataFormatError(file, None, f"something else ({error!r})", expected) from None
    known = version == VERSION and kind in ("grid", "regions") and str(dtype) in DTYPES
    if not known or type(width) is not int or width < 1:
        found = f"version {version!r}, kind {kind!r}, dtype {dtype!r}, width {width!r}"
        raise DataFormatError(file, None, found, expected, "Was it made by another version of mner?")
    return dict(meta)


def read_index(file: Path, repair: bool) -> dict[str, int]:
    """Regions by image key, in order. A last line without its line break was cut by a kill."""
    raw = file.read_bytes() if file.exists() else b""
    whole = raw[: raw.rfind(b"\n") + 1]
    if repair and len(whole) < len(raw):
        os.truncate(file, len(whole))
    counts: dict[str, int] = {}
    for number, line in enumerate(whole.decode("utf-8", "replace").split("\n")[:-1], start=1):
        count, tab, key = line.partition("\t")
        if not tab or not count.isdecimal() or len(count) > 9 or key in counts:
            raise DataFormatError(
                file, number, repr(line), "number of regions, tab, new image key", "Delete the store and extract again."
            )
        counts[key] = int(count)
    return counts


def read_broken(path: Path) -> dict[str, Reason]:
    """Images that could not be read, and why.

    Raises:
        DataFormatError: If the file says something else.
    """
    file = path / "broken.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except (ValueError, RecursionError) as error:
        raise DataFormatError(file, None, f"something else ({error!r})", "reasons by image key") from None
    if not isinstance(found, dict) or not all(isinstance(reason, str) for reason in found.values()):
        raise DataFormatError(file, None, f"something else ({found!r:.80})", "reasons by image key")
    return found
