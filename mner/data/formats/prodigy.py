"""Prodigy's JSON lines: text, its tokens, spans, and the annotator's answer.

Source: https://prodi.gy/docs/api-interfaces#ner_manual
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from mner.data.examples import Example
from mner.data.formats.fields import field_of, has, id_of, images_of
from mner.data.formats.joined import joined
from mner.data.formats.json_document import is_json, json_records, objects
from mner.data.formats.lines import Source
from mner.data.formats.records import Notes, Reading, Record
from mner.data.formats.rows import read_rows

_OWN = {"_input_hash", "_task_hash", "_session_id", "_view_id", "answer"}


def fits_prodigy(source: Source) -> bool:
    """Whether records have Prodigy's hashes or answers."""
    return is_json(source) and has(source, lambda row: "text" in row and bool(_OWN & set(row)), json_records(source))


def read_prodigy(source: Source, reading: Reading, notes: Notes) -> list[Record]:
    """Records of tasks; what was rejected or ignored is read without gold.

    The sessions of one text (by `_input_hash`) are its annotators.
    """
    rows = objects(source)
    records = []
    for place, row in rows:
        bare = {key: value for key, value in row.items() if key != "user"}
        (record,) = read_rows(source, [(place, bare)], reading, notes)
        meta = row["meta"] if isinstance(row.get("meta"), dict) else {}
        record.id = record.id or id_of(source, place, meta, reading)
        if field_of(row, "image", reading) is None:
            record.image_ids = images_of(source, place, meta, reading, notes)
        record.key = str(row.get("_input_hash") or "")
        record.annotator = str(row.get("_annotator_id") or row.get("_session_id") or "")
        answer = row.get("answer", "accept")
        if answer not in ("accept", "reject", "ignore"):
            raise source.fault(place, f"the answer {answer!r}", "accept, reject or ignore")
        if record.marks is None and answer == "accept" and "answer" in row:
            record.marks = []
        if answer != "accept":
            record.withheld = f"that were answered {answer}"
        records.append(record)
    if any(record.id is None for record in records):  # Prodigy has no ids of its own
        for record in records:
            record.id = None
    return records


def prodigy(posts: Iterable[Example]) -> str:
    """Posts as Prodigy reads and writes them, their words as tokens."""
    lines = []
    for post in posts:
        text, marks = joined(post)
        tokens, start = [], 0
        for number, word in enumerate(post.words):
            ws = number + 1 < len(post.words)
            tokens.append({"text": word, "start": start, "end": start + len(word), "id": number, "ws": ws})
            start += len(word) + 1
        row: dict[str, object] = {"text": text, "meta": {"id": post.id}, "tokens": tokens}
        if post.image_ids:
            row["image"] = post.image_ids[0] if len(post.image_ids) == 1 else post.image_ids
        if post.tags is not None:
            row["spans"] = [
                {
                    "start": mark.start,
                    "end": mark.end,
                    "token_start": next(t["id"] for t in tokens if t["start"] == mark.start),
                    "token_end": next(t["id"] for t in tokens if t["end"] == mark.end),
                    "label": mark.type,
                }
                for mark in marks
            ]
            row["answer"] = "accept"
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines)
