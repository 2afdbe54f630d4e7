"""LightTag's JSON: examples with the annotations of several annotators, and what a reviewer said of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mner.data.examples import Example
from mner.data.formats.fields import has, id_of, images_of, list_of, marks_of, text_of
from mner.data.formats.joined import joined
from mner.data.formats.json_document import is_json, json_records, objects
from mner.data.formats.lines import Source
from mner.data.formats.records import Notes, Reading, Record


def fits_lighttag(source: Source) -> bool:
    """Whether records are examples of LightTag."""
    return is_json(source) and has(source, _is_ours, json_records(source))


def _is_ours(row: Mapping[str, Any]) -> bool:
    return "content" in row and bool({"example_id", "seen_by", "classifications"} & set(row))


def read_lighttag(source: Source, reading: Reading, notes: Notes) -> list[Record]:
    """Records, one for each annotator who has seen an example. What a reviewer called wrong is left out, counted."""
    records = []
    for place, row in objects(source):
        given = list_of(source, place, row, "annotations", dict)
        wrong = [one for one in given if one.get("correct") is False]
        notes.add("annotations that a reviewer called wrong, left out", len(wrong))
        notes.add("classifications, not read", len(list_of(source, place, row, "classifications")))
        given = [one for one in given if one.get("correct") is not False]
        seen = [_name(one) for one in list_of(source, place, row, "seen_by")]
        by = [[_name(who) for who in list_of(source, place, one, "annotated_by")] for one in given]
        who = list(dict.fromkeys([*seen, *(name for names in by for name in names)]))
        text, id_ = text_of(source, place, row, reading), id_of(source, place, row, reading)
        meta = row["metadata"] if isinstance(row.get("metadata"), dict) else {}
        images = images_of(source, place, row, reading, notes) or images_of(source, place, meta, reading, notes)
        labelled = bool(who) or row.get("annotations") is not None
        for name in who or [""]:
            own = [one for one, names in zip(given, by, strict=True) if not names or name in names]
            marks = marks_of(source, place, own, notes) if labelled else None
            records.append(Record(place, id_, text, marks=marks, image_ids=images, annotator=name))
    return records


def _name(testament: object) -> str:
    who = testament.get("annotator", testament.get("annotator_id")) if isinstance(testament, dict) else testament
    return "" if who is None else str(who)


def lighttag(posts: Iterable[Example]) -> str:
    """Posts as examples, marked by one annotator."""
    examples = []
    for post in posts:
        text, marks = joined(post)
        images = list(post.image_ids)
        row: dict[str, object] = {
            "example_id": post.id,
            "content": text,
            "metadata": {"image": images} if images else {},
        }
        if post.tags is not None:
            by = [{"annotator": "mner"}]
            row["seen_by"] = by
            row["annotations"] = [
                {"tag": m.type, "value": m.text, "start": m.start, "end": m.end, "annotated_by": by} for m in marks
            ]
        examples.append(row)
    return json.dumps({"examples": examples, "relations": []}, ensure_ascii=False, indent=1) + "\n"
