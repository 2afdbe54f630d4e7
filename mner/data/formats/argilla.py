"""Argilla's records: of version 1 for token classification, of feedback data sets, and of version 2, nested or flat.

Source: https://docs.argilla.io/latest/how_to_guides/import_export/
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mner.data.examples import Example
from mner.data.formats.fields import has, id_of, images_of, is_spans, list_of, marks_of, text_of
from mner.data.formats.joined import joined
from mner.data.formats.json_document import is_json, json_records, objects
from mner.data.formats.lines import Source, shown
from mner.data.formats.records import Notes, Reading, Record

_FLAT = ".responses"


def fits_argilla(source: Source) -> bool:
    """Whether records have Argilla's fields and responses."""
    return is_json(source) and has(source, _is_ours, json_records(source))


def _is_ours(row: Mapping[str, Any]) -> bool:
    nested = isinstance(row.get("fields"), dict) and bool({"responses", "suggestions", "status"} & set(row))
    return nested or "annotation_agent" in row or any(str(key).endswith(_FLAT) for key in row)


def read_argilla(source: Source, reading: Reading, notes: Notes) -> list[Record]:
    """Records, one for each response; discarded ones, drafts and suggestions are not read as gold."""
    return [record for place, row in objects(source) for record in _records(source, place, row, reading, notes)]


def _records(source: Source, place: int | str, row: dict[str, Any], reading: Reading, notes: Notes) -> list[Record]:
    data = row["fields"] if isinstance(row.get("fields"), dict) else row
    text = text_of(source, place, data, reading)
    id_ = id_of(source, place, row, reading)
    meta = row["metadata"] if isinstance(row.get("metadata"), dict) else {}
    images = images_of(source, place, data, reading, notes) or images_of(source, place, meta, reading, notes)
    status = str(row.get("status") or "").lower()
    records = []
    for value, who, state in _responses(source, place, row, reading, notes):
        record = Record(place, id_, text, marks=marks_of(source, place, value or [], notes), image_ids=images)
        record.annotator = "" if who is None else str(who)
        if "discarded" in (state, status) or state == "draft":
            record.withheld = "discarded" if "discarded" in (state, status) else "that are drafts"
        records.append(record)
    if not records and (row.get("suggestions") or row.get("prediction") or _suggested(row)):
        notes.add("records with suggestions and no response, read without gold")
    return records or [Record(place, id_, text, image_ids=images)]


def _responses(
    source: Source, place: int | str, row: dict[str, Any], reading: Reading, notes: Notes
) -> list[tuple[Any, object, str]]:
    """Spans, annotator and status of each response to the question of spans."""
    if "annotation_agent" in row or ("annotation" in row and "fields" not in row):
        given = row.get("annotation")
        return [] if given is None else [(given, row.get("annotation_agent"), "")]
    questions: dict[str, list[tuple[Any, object, str]]] = {}
    responses = row.get("responses")
    if isinstance(responses, dict):  # version 2: the responses of each question
        for name in responses:
            for one in list_of(source, place, responses, name, dict):
                questions.setdefault(name, []).append((one.get("value"), one.get("user_id"), str(one.get("status"))))
    elif isinstance(responses, list):  # feedback data sets: the questions of each response
        for one in list_of(source, place, row, "responses", dict):
            answers = one.get("values") or {}
            if not isinstance(answers, dict) or not all(isinstance(answer, dict) for answer in answers.values()):
                raise source.fault(place, f"{shown(str(answers))} as 'values'", "an answer to each question, an object")
            for name, answer in answers.items():
                found = (answer.get("value"), one.get("user_id"), str(one.get("status")))
                questions.setdefault(name, []).append(found)
    for key in [key for key in row if str(key).endswith(_FLAT)]:
        users, states = (list_of(source, place, row, f"{key}.{what}") for what in ("users", "status"))
        for number, value in enumerate(list_of(source, place, row, key)):
            who = users[number] if number < len(users) else None
            state = str(states[number]) if number < len(states) else ""
            questions.setdefault(key.removesuffix(_FLAT), []).append((value, who, state))
    wanted = reading.fields.get("spans")
    of_spans = {name: answers for name, answers in questions.items() if any(is_spans(v) for v, _, _ in answers)}
    names = [wanted] if wanted is not None else sorted(of_spans) or _empty(questions)
    if len(names) > 1:
        advice = "Say which is meant: fields={'spans': QUESTION}."
        raise source.fault(place, f"several questions of spans, {names}", "one", advice)
    for name in set(questions) - set(names):
        notes.add(f"responses to {name!r}, not read", len(questions[name]))
    return questions.get(names[0], []) if names else []


def _empty(questions: Mapping[str, list[tuple[Any, object, str]]]) -> list[str]:
    return [name for name, answers in questions.items() if all(value == [] for value, _, _ in answers)][:1]


def _suggested(row: Mapping[str, Any]) -> bool:
    return any(str(key).endswith(".suggestion") and value for key, value in row.items())


def argilla(posts: Iterable[Example]) -> str:
    """Posts as records of version 2, their entities as the submitted response to a question `spans`."""
    rows = []
    for post in posts:
        text, marks = joined(post)
        fields: dict[str, object] = {"text": text}
        if post.image_ids:
            fields["image"] = post.image_ids[0] if len(post.image_ids) == 1 else post.image_ids
        value = [{"label": mark.type, "start": mark.start, "end": mark.end} for mark in marks]
        given = [{"value": value, "user_id": "mner", "status": "submitted"}]
        rows.append({
            "id": post.id,
            "status": "pending" if post.tags is None else "completed",
            "fields": fields,
            "metadata": {},
            "suggestions": {},
            "responses": {} if post.tags is None else {"spans": given},
        })  # fmt: skip
    return json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
