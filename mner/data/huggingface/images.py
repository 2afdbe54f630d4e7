"""Images in a column of a Hugging Face data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from PIL import Image

from mner.data.formats.images import Reason, load_image
from mner.data.huggingface.examples import Columns, ids_of
from mner.data.huggingface.tables import CHUNK, Table, import_datasets, is_string, type_fault


class DatasetImages:
    """The images in a column, by image id; decoded one by one, when they are asked for.

    Args:
        tables: Splits with that column.
        column: The column: images, or the bytes of image files.
        columns: The others.

    Attributes:
        folder: What messages call the place.
        size: Shorter side that `open` needs; see `load_image`.

    Raises:
        DataFormatError: If the column holds something else.
    """

    def __init__(self, tables: Sequence[Table], column: str, columns: Columns) -> None:
        datasets = import_datasets()
        self.folder = f"{tables[0].source}, column {column!r}"
        self.size: int | None = None
        self._rows: list[Any] = []
        self._index: dict[str, tuple[int, int]] = {}
        self._column = column
        for table in tables:
            feature = table.rows.features[column]
            if not isinstance(feature, datasets.Image) and getattr(feature, "dtype", "") not in _BINARY:
                advice = ""
                if is_string(feature):
                    advice = "For names of files give their folder as `images`, and this column as `image_id`."
                raise type_fault(table, column, "images (datasets.Image, or the bytes of files)", advice)
            rows = table.rows.with_format(None).select_columns([column])
            rows = rows.cast_column(column, datasets.Image(decode=False))
            there = _present(rows)
            for row, (_, _, image_id) in enumerate(ids_of(table, columns)):
                if image_id is not None and there[row]:
                    self._index.setdefault(image_id, (len(self._rows), row))
            self._rows.append(rows)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._index

    def stored(self, image_id: str) -> dict[str, Any] | None:
        """The image as it is stored, `{"bytes", "path"}`, or None."""
        place = self._index.get(image_id)
        if place is None:
            return None
        found: dict[str, Any] | None = self._rows[place[0]][place[1]][self._column]
        return found

    def load(self, image_id: str) -> tuple[Image.Image | None, Reason]:
        """The image and "", or None and why there is none."""
        found = self.stored(image_id)
        if found is None:
            return None, "missing"
        if found["bytes"] is not None:
            return load_image(BytesIO(found["bytes"]), self.size)
        # A pipe or a device would be read for ever.
        return load_image(found["path"], self.size) if os.path.isfile(found["path"]) else (None, "missing")

    def open(self, image_id: str) -> Image.Image | None:
        """The image, or None where it is missing or broken."""
        return self.load(image_id)[0]


_BINARY = ("binary", "large_binary")


def _present(rows: Any) -> list[bool]:
    """Which rows have an image. Looks at Arrow's own marks, so that no image is read."""
    import pyarrow.compute as pc

    there: list[bool] = []
    for chunk in rows.with_format("arrow").iter(batch_size=CHUNK):
        cells = chunk.column(0)
        fields = [pc.is_valid(pc.struct_field(cells, name)) for name in ("bytes", "path")]
        there += pc.or_(*fields).to_pylist()
    return there
