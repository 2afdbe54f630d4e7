"""doccano's JSON lines of its three generations.

`{"text", "annotations": [{"label": 2, "start_offset", "end_offset", "user": 1}]}` with numbers of labels or `"labels":
[[0, 4, "PER"]]` (first), `"label": [[0, 4, "PER"]]` (second), and `"entities": [{"label": "PER", "start_offset",
"end_offset"}], "relations": […]` (where relations are annotated too).

Source: https://doccano.github.io/doccano/tutorial/
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mner.data.examples import Example
from mner.data.formats.fields import field_of, has, id_of, images_of, list_of, marks_of, text_of
from mner.data.formats.joined import joined
from mner.data.formats.json_document import is_json, json_records, objects
from mner.data.formats.lines import Source
from mner.data.formats.records import Notes, Reading, Record

GENERATIONS = ("entities", "label", "labels", "annotations")


def fits_doccano(source: Source) -> bool:
    """Whether records are texts with offsets as doccano writes them."""
    return is_json(source) and has(source, _is_ours, json_records(source))


def _is_ours(row: Mapping[str, Any]) -> bool:
    if not isinstance(row.get("text", row.get("data")), str) or "tokens" in row or "_task_hash" in row:
        return False
    value = next((row[key] for key in GENERATIONS if isinstance(row.get(key), list) and row[key]), None)
    if value is None:
        return "Comments" in row or ("relations" in row and "entities" in row)
    return all(
        (isinstance(one, list) and len(one) == 3) or (isinstance(one, dict) and "start_offset" in one) for one in value
    )


def read_doccano(source: Source, reading: Reading, notes: Notes) -> list[Record]:
    """Records of texts with offsets, one for each of the users who annotated a text."""
    records = []
    for place, row in objects(source):
        row = {**row, "text": row["data"]} if "text" not in row and isinstance(row.get("data"), str) else row
        name = reading.fields.get("spans") or next((key for key in GENERATIONS if row.get(key) is not None), None)
        given = [] if name is None else list_of(source, place, row, name)
        for key, what in (("relations", "relations"), ("cats", "categories"), ("Comments", "comments")):
            notes.add(f"{what}, not read", len(list_of(source, place, row, key)))
        if any(isinstance(one, str) for one in given):
            raise source.fault(place, f"labels of whole texts under {name!r}", "spans: [start, end, label]")
        record = Record(place, id_of(source, place, row, reading), text_of(source, place, row, reading))
        meta: dict[str, Any] = next((row[k] for k in ("meta", "metadata") if isinstance(row.get(k), dict)), {})
        inner = row if field_of(row, "image", reading) is not None else meta
        record.image_ids = images_of(source, place, inner, reading, notes)
        users = list({str(one.get("user")): one.get("user") for one in given if isinstance(one, dict)}.values())
        for user in users or [None]:
            own = [one for one in given if not isinstance(one, dict) or one.get("user") == user]
            marks = None if name is None else marks_of(source, place, own, notes, names=reading.label_names)
            who = "" if user is None or len(users) == 1 else str(user)
            records.append(
                Record(place, record.id, record.text, marks=marks, image_ids=record.image_ids, annotator=who)
            )
    return records


def doccano(posts: Iterable[Example]) -> str:
    """Posts as doccano imports and exports them: `{"id", "text", "label": [[start, end, type]]}`."""
    lines = []
    for post in posts:
        text, marks = joined(post)
        row: dict[str, object] = {"id": post.id, "text": text}
        if post.tags is not None:
            row["label"] = [mark[:3] for mark in marks]
        if post.image_ids:
            row["image"] = post.image_ids[0] if len(post.image_ids) == 1 else post.image_ids
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines)
