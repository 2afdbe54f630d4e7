"""Does an image add to its post's text? Values from a file, by image id."""

from __future__ import annotations

import math
from os import PathLike

from mner.data.formats.images import image_key
from mner.data.formats.lines import json_object, json_type, read_lines, shown, text_field
from mner.errors import DataFormatError

_EXPECTED = "a number from 0 (the image adds nothing to the text) to 1 (it does)"


def read_relations(path: str | PathLike[str]) -> dict[str, float]:
    """Read how far each image adds to its post's text, from 0 to 1, by image key.

    Two forms are known: lines `image_id<TAB>value`, and JSON lines `{"image_id": "17_06_1", "relation": 0.8}`.

    Raises:
        DataNotFoundError: If there is no such file.
        DataFormatError: For a line in neither form, a value that is no number from 0 to 1, or two values of one image;
            with the line.
    """
    lines = read_lines(path)
    as_json = next(line for line in lines if line).startswith("{")
    found: dict[str, float] = {}
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        image_id, value = _from_json(path, number, line) if as_json else _from_tabs(path, number, line)
        if not (math.isfinite(value) and 0 <= value <= 1):
            raise DataFormatError(path, number, f"the value {value:g} of image {image_id!r}", _EXPECTED)
        key = image_key(image_id)
        if found.setdefault(key, value) != value:
            twice = f"the values {found[key]:g} and {value:g} of image {image_id!r}"
            raise DataFormatError(path, number, twice, "one value an image", "Keep one of the two lines.")
    return found


def _from_json(path: str | PathLike[str], number: int, line: str) -> tuple[str, float]:
    record = json_object(path, number, line)
    image_id, value = text_field(path, number, record, "image_id"), record.get("relation")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataFormatError(path, number, f"{json_type(value)} as 'relation'", _EXPECTED)
    return image_id, float(value)


def _from_tabs(path: str | PathLike[str], number: int, line: str) -> tuple[str, float]:
    image_id, tab, text = line.partition("\t")
    if not (tab and image_id):
        raise DataFormatError(path, number, shown(line), "image id, tab, value; or JSON lines throughout")
    try:
        return image_id, float(text)
    except ValueError:
        raise DataFormatError(path, number, f"the value {shown(text)} of image {image_id!r}", _EXPECTED) from None
