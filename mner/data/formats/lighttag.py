"""LightTag's JSON: examples with the annotations of several annotators, and what a reviewer said of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from mner.data.examples import Example
from mner.data.formats.fields import has, id_of, images_of, list_of, marks_of, text_of
from mner.data.formats.joined import joined
from mner.data.formats.json_document import is_json, json_records, json_top, objects
from mner.data.formats.lines import Source
from mner.data.formats.records import Notes, Reading, Record


def fits_lighttag(source: Source) -> bool:
    """Whether records are examples of LightTag: by their fields, or by the schema of tags beside them."""
    if not is_json(source):
        return False
    top = json_top(source)
    records = json_records(source)
    with_schema = isinstance(top.get("schema"), dict) and "tags" in top["schema"]
    return has(source, _is_ours, records) or (with_schema and has(source, lambda row: "content" in row, records))


def _is_ours(row: Mapping[str, Any]) -> bool:
    return "content" in row and bool({"example_id", "seen_by", "classifications"} & set(row))


def read_lighttag(source: Source, reading: Reading, notes: Notes) -> list[Record]:
    """Records, one for each annotator who has seen an example. What a reviewer called wrong is left out, counted.

    An example that nobody has seen is without gold. Earlier exports do not say who has seen what.
    """
    records, names = [], _names_of_tags(source)
    for place, row in objects(source):
        given = [_with_type(one, names) for one in list_of(source, place, row, "annotations", dict)]
        wrong = [one for one in given if one.get("correct") is False]
        notes.add("annotations that a reviewer called wrong, left out", len(wrong))
        notes.add("classifications, not read", len(list_of(source, place, row, "classifications")))
        given = [one for one in given if one.get("correct") is not False]
        seen = [_name(one) for one in list_of(source, place, row, "seen_by")]
        by = [_annotators(source, place, one) for one in given]
        who = list(dict.fromkeys([*seen, *(name for names in by for name in names)]))
        text, id_ = text_of(source, place, row, reading), id_of(source, place, row, reading)
        meta = row["metadata"] if isinstance(row.get("metadata"), dict) else {}
        images = images_of(source, place, row, reading, notes) or images_of(source, place, meta, reading, notes)
        labelled = bool(who or given) or (row.get("annotations") is not None and "seen_by" not in row)
        unsaid = "examples without annotations, of which the file does not say whether somebody has seen them"
        notes.add(f"{unsaid}, read as without entities", labelled and not who and not given)
        for name in who or [""]:
            own = [one for one, names in zip(given, by, strict=True) if not names or name in names]
            marks = marks_of(source, place, own, notes) if labelled else None
            records.append(Record(place, id_, text, marks=marks, image_ids=images, annotator=name))
    return records


def _names_of_tags(source: Source) -> dict[str, str]:
    """The names of the schema's tags by their ids."""
    schema = json_top(source).get("schema")
    tags = schema.get("tags") if isinstance(schema, dict) else None
    known = [tag for tag in tags if isinstance(tag, dict)] if isinstance(tags, list) else []
    return {str(tag["id"]): str(tag["name"]) for tag in known if "id" in tag and "name" in tag}


def _with_type(one: Mapping[str, Any], names: Mapping[str, str]) -> Mapping[str, Any]:
    """An annotation with the name of its tag, of which some exports have the id alone."""
    name = names.get(str(one.get("tag_id")))
    return one if one.get("tag") is not None or name is None else {**one, "tag": name}


def _annotators(source: Source, place: int | str, one: Mapping[str, Any]) -> list[str]:
    """Who made an annotation: several by now, one in earlier exports."""
    if "annotated_by" not in one and one.get("annotator") is not None:
        return [_name(one["annotator"])]
    return [_name(who) for who in list_of(source, place, one, "annotated_by")]


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
