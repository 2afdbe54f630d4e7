"""Spans in shapes of their own, made plain: Dataturks' points, CLUENER's names under their types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mner.data.formats.fields import END, NAMES, START
from mner.data.formats.records import Notes

Rows = Sequence[tuple[int | str, Mapping[str, Any]]]


def plain_rows(rows: Rows, notes: Notes) -> Rows:
    """Rows whose spans are lists of objects with start, end (not included) and label.

    Dataturks has `{"label": ["PER"], "points": [{"start": 0, "end": 2, "text": "Ana"}]}`, CLUENER `{"name": {"Ana":
    [[0, 2]]}}`, both with the place of the last character, unless the text says that it is the one behind.
    """
    return [(place, {**row, **new} if (new := dict(_changed(row, notes))) else row) for place, row in rows]


def _changed(row: Mapping[str, Any], notes: Notes) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for key in NAMES["spans"]:
        value = row.get(key)
        spans = _of_points(value) if isinstance(value, list) else _of_types(value) if isinstance(value, dict) else None
        if spans is not None:
            notes.add("spans given with their last character", len(spans))
            yield key, spans


def _of_points(value: list[Any]) -> list[dict[str, Any]] | None:
    if not value or not all(isinstance(one, dict) and isinstance(one.get("points"), list) for one in value):
        return None
    points = [(point, one.get("label")) for one in value for point in one["points"]]
    if not all(isinstance(point, dict) and _are_places(point.get("start"), point.get("end")) for point, _ in points):
        return None
    return [
        {**point, "label": label, "end": _behind(point["start"], point["end"], point.get("text"))}
        for point, label in points
    ]


def _of_types(value: dict[Any, Any]) -> list[dict[str, Any]] | None:
    found: list[dict[str, Any]] = []
    for type_, names in value.items():
        if not isinstance(names, dict):
            return None
        for text, places in names.items():
            if not isinstance(places, list):
                return None
            for pair in places:
                if not (isinstance(pair, list) and len(pair) == 2 and _are_places(*pair)):
                    return None
                found.append({"start": pair[0], "end": _behind(pair[0], pair[1], text), "label": type_, "text": text})
    return found


def _are_places(*values: object) -> bool:
    return all(type(value) is int for value in values)


def _behind(start: int, end: int, text: object) -> int:
    """The place behind the last character: one more than `end`, unless the text is one shorter than that."""
    return end if isinstance(text, str) and len(text) == end - start else end + 1


def hides_spans(value: object) -> bool:
    """Whether there is a span, an object with start and end, somewhere in a value."""
    if isinstance(value, Mapping):
        places = {str(key) for key, inner in value.items() if type(inner) is int}
        here = bool(places & set(START)) and bool(places & {*END, "length"})
        return here or any(map(hides_spans, value.values()))
    return isinstance(value, (list, tuple)) and any(map(hides_spans, value[:20]))


def names_spans(key: str, value: object) -> bool:
    """Whether a value that is not empty stands where spans usually do, and is more than the category of a text."""
    if key.lower() not in NAMES["spans"] or not isinstance(value, (Mapping, list, tuple)) or not value:
        return False
    plain = isinstance(value, (list, tuple)) and isinstance(value[0], (str, int, float))
    return not plain or key.lower() in ("spans", "entities", "ents", "mentions", "named_entities")
