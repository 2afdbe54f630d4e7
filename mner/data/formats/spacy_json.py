"""spaCy's JSON: training data of version 2, `["text", {"entities": […]}]`, and what `Doc.to_json()` gives.

The pairs may be in a list under `annotations`, beside the names of the types, as NER Annotator writes them.

Source: https://v2.spacy.io/api/annotation#json-input, https://spacy.io/api/doc#to_json
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from mner.data.examples import Example
from mner.data.formats.fields import has, id_of, images_of, marks_of
from mner.data.formats.joined import joined
from mner.data.formats.json_document import is_json, json_records, json_top
from mner.data.formats.lines import Source, json_type
from mner.data.formats.records import Notes, Reading, Record


def fits_spacy_json(source: Source) -> bool:
    """Whether records are spaCy's."""
    if not is_json(source):
        return False
    records = json_records(source)
    pairs = any(_is_pair(value) for _, value in records[:50])
    return pairs or "paragraphs" in json_top(source) or has(source, _is_ours, records)


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], dict)


def _is_ours(row: dict[str, Any]) -> bool:
    return isinstance(row.get("paragraphs"), list) or ("text" in row and isinstance(row.get("ents"), list))


def read_spacy_json(source: Source, reading: Reading, notes: Notes) -> list[Record]:
    """Records of each kind; of `paragraphs`, each sentence is one."""
    top = json_top(source)
    records: list[Record] = []
    for place, value in [("record 1", top)] if "paragraphs" in top else json_records(source):
        if value is None:
            notes.add("records that are null, left out")
            continue
        if isinstance(value, list) and _is_pair(value):
            text, row = value[0], value[1]
            marks = marks_of(source, place, row["entities"], notes) if "entities" in row else None
        elif isinstance(value, dict) and isinstance(value.get("text"), str):
            row, text = value, value["text"]
            marks = marks_of(source, place, value.get("ents") or [], notes)
        elif isinstance(value, dict) and isinstance(value.get("paragraphs"), list):
            records += _sentences(source, place, value)
            continue
        else:
            raise source.fault(
                place, json_type(value), 'one of spaCy\'s: ["text", {"entities": […]}], a Doc, paragraphs'
            )
        images = images_of(source, place, row, reading, notes)
        records.append(Record(place, id_of(source, place, row, reading), text, marks=marks, image_ids=images))
        if isinstance(row.get("tokens"), list) and row["tokens"] and "start" in row["tokens"][0]:
            records[-1].places = [(token["start"], token["end"]) for token in row["tokens"]]
            records[-1].words = [text[start:end] for start, end in records[-1].places]
    if all(record.id is not None and record.id.isdigit() for record in records):
        for record in records:  # numbers of documents, anew in each file
            record.id = None
    return records


def _sentences(source: Source, place: int | str, document: dict[str, Any]) -> Iterable[Record]:
    for paragraph in document["paragraphs"]:
        for sentence in paragraph.get("sentences") or []:
            tokens = sentence.get("tokens") or []
            words = [token.get("orth") for token in tokens]
            if not all(isinstance(word, str) for word in words):
                raise source.fault(place, "a token without 'orth'", "tokens with 'orth' and 'ner'")
            tags = [token.get("ner", "-") for token in tokens]
            unknown = all(tag in ("-", None, "") for tag in tags)  # spaCy's sign for what nobody annotated
            yield Record(place, words=words, tags=None if unknown else ["O" if tag == "-" else tag for tag in tags])


def spacy_json(posts: Iterable[Example]) -> str:
    """Posts as JSON lines `["text", {"entities": [[start, end, type]]}]`, spaCy's simple training format."""
    lines = []
    for post in posts:
        text, marks = joined(post)
        row: dict[str, object] = {"id": post.id, "entities": [mark[:3] for mark in marks]}
        if post.image_ids:
            row["image"] = post.image_ids[0] if len(post.image_ids) == 1 else post.image_ids
        if post.tags is None:
            del row["entities"]
        lines.append(json.dumps([text, row], ensure_ascii=False) + "\n")
    return "".join(lines)
