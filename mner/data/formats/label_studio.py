"""Label Studio's exports JSON and JSON-MIN. Its CoNLL2003 is read as CoNLL, its CSV and TSV as tables.

Source: https://labelstud.io/guide/export#Label-Studio-JSON-format-of-annotated-tasks
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mner.data.examples import Example
from mner.data.formats.fields import field_of, has, id_of, images_of, is_spans, list_of, marks_of, spans_field, text_of
from mner.data.formats.joined import joined
from mner.data.formats.json_document import is_json, json_records, objects
from mner.data.formats.lines import Source, json_type
from mner.data.formats.records import Mark, Notes, Reading, Record

_OF_SPANS = ("labels", "hypertextlabels", "paragraphlabels")


def fits_label_studio(source: Source) -> bool:
    """Whether records are tasks: an object `data`, and results in lists of annotations."""
    return is_json(source) and has(source, _is_task, json_records(source))


def fits_label_studio_min(source: Source) -> bool:
    """Whether records are of JSON-MIN: the fields of the task with those of its annotation."""
    own = {"annotation_id", "lead_time", "annotator"}
    return is_json(source) and has(source, lambda row: len(own & set(row)) >= 2, json_records(source))


def _is_task(row: Mapping[str, Any]) -> bool:
    lists = [row.get(key) for key in ("annotations", "completions", "predictions")]
    return isinstance(row.get("data"), dict) and (
        "data" in row and (any(x is not None for x in lists) or len(row) <= 2)
    )


def read_label_studio(source: Source, reading: Reading, notes: Notes) -> list[Record]:
    """Records of the export JSON, one for each annotation of a task.

    A cancelled (skipped) annotation is not read as gold, nor is a prediction, unless `annotators` is `predictions`; a
    task without annotation is unlabelled.
    Results that are no spans of text (choices, relations, boxes) are counted.
    """
    tasks = objects(source)
    for place, task in tasks:
        if not isinstance(task.get("data"), dict):
            raise source.fault(place, f"no 'data' (the keys are {sorted(task)})", "a task with its 'data'")
    # The user's own ids, where each task has one; else Label Studio's.
    own = all(field_of(task["data"], "id", reading) is not None for _, task in tasks)
    return [record for place, task in tasks for record in _task(source, place, task, own, reading, notes)]


def _task(
    source: Source, place: int | str, task: dict[str, Any], own: bool, reading: Reading, notes: Notes
) -> list[Record]:
    data = task["data"]
    field = "annotations" if task.get("annotations") else "completions"  # as version 0 called them
    of_models = reading.annotators == "predictions"
    annotations = list_of(source, place, task, "predictions" if of_models else field, dict)
    results = [one for annotation in annotations for one in _results(source, place, annotation)]
    names = {key for one in results if isinstance(key := one.get("to_name"), str) and isinstance(data.get(key), str)}
    chosen = data[names.pop()] if len(names) == 1 and "text" not in reading.fields else None
    text = chosen if chosen is not None else text_of(source, place, data, reading)
    id_ = id_of(source, place, data if own else task, reading)
    images = images_of(source, place, data, reading, notes)
    records = []
    for annotation in annotations:
        marks = _marks(source, place, annotation, reading, notes)
        record = Record(place, id_, text, marks=marks, image_ids=images, annotator=_who(annotation))
        record.chosen = bool(annotation.get("ground_truth"))
        cancelled = annotation.get("was_cancelled") or annotation.get("skipped")
        record.withheld = "cancelled or skipped" if cancelled else ""
        records.append(record)
    if not annotations and task.get("predictions"):
        notes.add("tasks with predictions and no annotation, read without gold")
    return records or [Record(place, id_, text, image_ids=images)]


def _results(source: Source, place: int | str, annotation: object) -> list[dict[str, Any]]:
    results = annotation.get("result") if isinstance(annotation, dict) else None
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise source.fault(place, f"{json_type(results)} as 'result' of an annotation", "a list of results")
    return results


def _marks(source: Source, place: int | str, annotation: dict[str, Any], reading: Reading, notes: Notes) -> list[Mark]:
    found = []
    wanted = reading.fields.get("spans")
    for one in _results(source, place, annotation):
        kind, value = str(one.get("type")), one.get("value")
        if kind not in _OF_SPANS or not isinstance(value, dict) or wanted not in (None, one.get("from_name")):
            notes.add(f"results of kind {kind}, not read")
            continue
        places = value.get("globalOffsets") or value  # of HTML, start and end are paths of elements
        span = {"start": places.get("start"), "end": places.get("end"), "label": value.get(kind)}
        if isinstance(value.get("text"), str):
            span["text"] = value["text"]
        found += marks_of(source, place, [span], notes)
    return found


def _who(annotation: Mapping[str, Any]) -> str:
    who = annotation.get("completed_by", annotation.get("created_username", annotation.get("model_version")))
    if isinstance(who, dict):
        who = next((who[key] for key in ("email", "username", "id") if who.get(key) is not None), None)
    return "" if who is None else str(who)


def read_label_studio_min(source: Source, reading: Reading, notes: Notes) -> list[Record]:
    """Records of JSON-MIN, one for each annotation: fields of the task, and spans under the name of their control."""
    rows = objects(source)
    spans = spans_field([row for _, row in rows], reading)
    records = []
    for place, row in rows:
        marks = marks_of(source, place, row.get(spans) or [], notes) if spans is not None else []
        others = [key for key, value in row.items() if key != spans and (is_spans(value) or _is_choice(key, value))]
        for key in others:
            notes.add(f"results under {key!r}, not read")
        record = Record(place, id_of(source, place, row, reading), text_of(source, place, row, reading), marks=marks)
        record.image_ids = images_of(source, place, row, reading, notes)
        record.annotator = "" if row.get("annotator") is None else str(row["annotator"])
        records.append(record)
    return records


def _is_choice(key: str, value: object) -> bool:
    return (isinstance(value, dict) and "choices" in value) or (
        key in ("choice", "sentiment") and isinstance(value, str)
    )


def label_studio(posts: Iterable[Example]) -> str:
    """Posts as tasks with one annotation each, as Label Studio imports and exports them."""
    tasks = []
    for number, post in enumerate(posts, start=1):
        text, marks = joined(post)
        data: dict[str, object] = {"id": post.id, "text": text}
        if post.image_ids:
            data["image"] = post.image_ids[0] if len(post.image_ids) == 1 else post.image_ids
        task: dict[str, object] = {"id": number, "data": data, "annotations": [], "predictions": []}
        if post.tags is not None:
            results = [
                {
                    "id": f"{number}-{place}",
                    "from_name": "label",
                    "to_name": "text",
                    "type": "labels",
                    "value": {**_utf16(text, mark), "text": mark.text, "labels": [mark.type]},
                }
                for place, mark in enumerate(marks)
            ]
            task["annotations"] = [{"id": number, "result": results, "was_cancelled": False, "ground_truth": False}]
        tasks.append(task)
    return json.dumps(tasks, ensure_ascii=False, indent=1) + "\n"


def _utf16(text: str, mark: Mark) -> dict[str, int]:
    """Label Studio counts as its browser does."""
    start, end = (len(text[:edge].encode("utf-16-le", "surrogatepass")) // 2 for edge in mark[:2])
    return {"start": start, "end": end}
