"""JSON and JSON lines: the records of a file, each with its place, whatever they are about."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from mner.data.formats.fields import NAMES
from mner.data.formats.lines import DECODER, Source, json_object, json_type, shown
from mner.errors import DataFormatError

LISTS = ("examples", "data", "items", "documents", "annotations", "records", "tasks", "paragraphs")
"""Under which key of an object a file may keep its records."""

_BEGINS = re.compile(r"""\s*(?:\{\s*["']|\[\s*["'{\[]|(?:\{\s*\}|\[\s*\])\s*(?:\Z|[\n{]))""")

Records = Sequence[tuple[int | str, Any]]


def is_json(source: Source) -> bool:
    """Whether a file begins as JSON does, and not as columns whose first word is a bracket."""
    return _BEGINS.match(source.text) is not None


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
        if isinstance(value.get("dataset"), dict) and isinstance(value["dataset"].get("examples"), list):
            value = value["dataset"]  # as LightTag exported them at first
        if _by_id(value):
            return [(f"record {key!r}", {"id": key, **one}) for key, one in value.items()]
        inner = next((key for key in LISTS if isinstance(value.get(key), list) and _are_records(value[key])), None)
        if inner is None or (len(lines) == 1 and _may_be_a_post(value, inner)):
            return [(lines[0][0], value)]
        value = value[inner]
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


def _are_records(values: list[Any]) -> bool:
    """Objects, or, with gaps for what was not annotated, pairs of spaCy's."""
    return bool(values) and (all(isinstance(value, dict) for value in values) or _are_pairs(values))


def _are_pairs(values: list[Any]) -> bool:
    pairs = [value for value in values if value is not None]
    return bool(pairs) and all(isinstance(one, list) and len(one) == 2 and isinstance(one[0], str) for one in pairs)


def _may_be_a_post(value: dict[str, Any], inner: str) -> bool:
    """Whether an object, alone on its line, may be a post that has a list, and no file that has its posts in one."""
    if inner in ("examples", "documents", "records", "tasks") or _are_pairs(value[inner]):
        return False
    return inner in ("annotations", "paragraphs") or any(isinstance(value.get(name), str) for name in NAMES["text"])


def _by_id(value: dict[str, Any]) -> bool:
    """Whether an object has posts under their ids."""
    holds = (*NAMES["text"], *NAMES["words"])
    posts = [one for one in value.values() if isinstance(one, dict) and any(one.get(name) for name in holds)]
    return len(value) > 1 and len(posts) == len(value)


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
