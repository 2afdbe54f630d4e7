"""UBIAI's JSON: documents with their annotated tokens, relations and classes."""

from __future__ import annotations

import json
from collections.abc import Iterable

from mner.data.examples import Example
from mner.data.formats.fields import has, id_of, images_of, list_of, marks_of, text_of
from mner.data.formats.joined import joined
from mner.data.formats.json_document import is_json, json_records, objects
from mner.data.formats.lines import Source
from mner.data.formats.records import Notes, Reading, Record


def fits_ubiai(source: Source) -> bool:
    """Whether records are documents with a name and marked tokens."""
    return is_json(source) and has(
        source, lambda row: "document" in row and bool({"documentName", "tokens"} & set(row)), json_records(source)
    )


def read_ubiai(source: Source, reading: Reading, notes: Notes) -> list[Record]:
    """Records of documents; relations and classes are counted."""
    records = []
    for place, row in objects(source):
        given = next((row[key] for key in ("tokens", "annotation", "annotations") if row.get(key) is not None), None)
        for key in ("relations", "classifications"):
            notes.add(f"{key}, not read", len(list_of(source, place, row, key)))
        marks = None if given is None else marks_of(source, place, given, notes)
        text = text_of(source, place, row, reading)
        images = images_of(source, place, row, reading, notes)
        records.append(Record(place, id_of(source, place, row, reading), text, marks=marks, image_ids=images))
    return records


def ubiai(posts: Iterable[Example]) -> str:
    """Posts as documents."""
    rows = []
    for post in posts:
        text, marks = joined(post)
        row: dict[str, object] = {"documentName": post.id, "document": text}
        if post.tags is not None:
            row["tokens"] = [{"text": m.text, "start": m.start, "end": m.end, "entityLabel": m.type} for m in marks]
            row["relations"] = []
        if post.image_ids:
            row["image"] = post.image_ids[0] if len(post.image_ids) == 1 else post.image_ids
        rows.append(row)
    return json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
