"""JSON and JSON lines: the records of a file, each with its place, whatever they are about."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mner.data.formats.lines import DECODER, Source, json_object, json_type, shown
from mner.errors import DataFormatError

LISTS = ("examples", "data", "items", "documents", "annotations", "records", "tasks", "paragraphs")
"""Under which key of an object a file may keep its records."""

Records = Sequence[tuple[int | str, Any]]


def is_json(source: Source) -> bool:
    """Whether a file begins as JSON does."""
    return source.text.lstrip()[:1] in ("{", "[")


def json_records(source: Source) -> Records:
    """The records of a file of JSON lines (by the numbers of their lines) or of a JSON document (counted from 1).

    Raises:
        DataFormatError: If it is malformed; with the line.
    """
    lines = [(number, line) for number, line in enumerate(source.lines, start=1) if line.strip()]
    if not is_json(source):
        number, line = lines[0]
        raise DataFormatError(source, number, shown(line), "JSON: an object a line, or a list of objects")
    if len(lines) > 1 and _is_whole(lines[0][1]):
        return [(number, _value(source, number, line)) for number, line in lines]
    value = _document(source)
    if isinstance(value, dict):
        inner = next((value[key] for key in LISTS if isinstance(value.get(key), list) and _dicts(value[key])), None)
        if inner is None or (len(lines) == 1 and not {"examples", "documents", "records", "tasks"} & set(value)):
            return [(lines[0][0], value)]
        value = inner
    if value and isinstance(value[0], str):  # one pair of spaCy's, ["text", {…}]
        return [(lines[0][0], value)]
    return [(f"record {number}", one) for number, one in enumerate(value, start=1)]


def json_top(source: Source) -> dict[str, Any]:
    """The object that the file is, or an empty one where it is none."""
    try:
        value = _document(source) if source.text.lstrip()[:1] == "{" else None
    except DataFormatError:
        return {}
    return value if isinstance(value, dict) else {}


def objects(source: Source) -> list[tuple[int | str, dict[str, Any]]]:
    """As `json_records`, each of which must be an object."""
    found = json_records(source)
    for place, value in found:
        if not isinstance(value, dict):
            raise source.fault(place, json_type(value), "an object")
    return list(found)


def _dicts(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, dict) for value in values)


def _is_whole(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return line.lstrip()[:1] in ("{", "[")


def _value(source: Source, number: int, line: str) -> Any:
    if line.lstrip().startswith("["):
        try:
            return DECODER.decode(line)
        except (ValueError, RecursionError):
            pass  # json_object says what is wrong
    return json_object(source, number, line)


def _document(source: Source) -> Any:
    text = source.text
    try:
        value = DECODER.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        line = min(error.lineno, len(source.lines))
        found = f"{shown(source.lines[line - 1])} ({error.msg}, column {error.colno})"
        raise DataFormatError(source, line, found, "JSON", "Was the file cut off?") from None
    except UnicodeEncodeError:
        advice = "Such an escape comes from text cut inside an emoji; remove it."
        raise DataFormatError(source, 1, "half of a surrogate pair", "text", advice) from None
    except (ValueError, RecursionError) as error:
        raise DataFormatError(source, 1, str(error)[:200], "JSON") from None
    return value
