"""JSON and JSON lines of no special tool: words with tags or spans of words, or texts with spans of characters."""

from __future__ import annotations

import json
from collections.abc import Iterable

from mner.data.examples import Example
from mner.data.formats.joined import joined
from mner.data.formats.json_document import is_json, objects
from mner.data.formats.lines import Source
from mner.data.formats.records import Notes, Reading, Record
from mner.data.formats.rows import read_rows


def fits_json(source: Source) -> bool:
    """Whether a file is JSON at all; asked last."""
    return is_json(source)


def read_json(source: Source, reading: Reading, notes: Notes) -> list[Record]:
    """Records of any JSON with one object a post.

    For example `{"tokens": ["In", "Oslo"], "ner_tags": [0, 5]}` with `label_names`, `{"tokens": […], "spans":
    [{"start": 1, "end": 2, "label": "LOC"}]}` or `{"body": "In Oslo", "entities": [[3, 7, "LOC"]]}`.
    """
    return read_rows(source, objects(source), reading, notes)


def json_spans(posts: Iterable[Example]) -> str:
    """Posts as JSON lines of texts, words joined by spaces, with spans of characters."""
    lines = []
    for post in posts:
        text, marks = joined(post)
        row: dict[str, object] = {"id": post.id, "text": text}
        if post.image_ids:
            row["image"] = post.image_ids[0] if len(post.image_ids) == 1 else post.image_ids
        if post.tags is not None:
            row["spans"] = [{"start": m.start, "end": m.end, "label": m.type, "text": m.text} for m in marks]
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines)
