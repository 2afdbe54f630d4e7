"""Posts as JSON lines, the Snapchat format: read strictly and written back unchanged."""

from __future__ import annotations

import json
from collections.abc import Iterable
from os import PathLike
from typing import Any

from mner.data.examples import Example, Posts
from mner.data.formats.assemble import posts_of
from mner.data.formats.json_document import is_json, json_records
from mner.data.formats.lines import Source, UniqueIds, json_object, string_list, text_field
from mner.data.formats.records import Notes, Reading, Record
from mner.data.formats.schemes import SchemeOf
from mner.errors import DataFormatError
from mner.files import in_folder

JSON_SUFFIXES = (".jsonl", ".json")


def read_jsonl(path: str | PathLike[str]) -> Posts:
    """Read posts from JSON lines, the Snapchat format: `{"id", "image_id", "tokens", "label"}`.

    `label` may be missing or null where gold is unknown, `image_id` where a post has no image. A post with several
    images has `image_ids`, a list, in its place. Other keys are ignored. Tags in IOB1, IOBES or BILOU become IOB2
    (`mner.data.formats.schemes`).

    Raises:
        DataNotFoundError: If there is no such file.
        DataFormatError: For malformed JSON, a value of the wrong type, a post without id or words, another number of
            tags than words, a wrong tag, a repeated id, a file that is empty or not UTF-8; with the line.
    """
    source, notes = path if isinstance(path, Source) else Source(path), Notes()
    return posts_of(source, read_json_lines(source, Reading(), notes), Reading(), notes, "json_lines")


def fits_json_lines(source: Source) -> bool:
    """Whether the first records are in this format: an id, words, and tags as `label` or none at all."""
    if not is_json(source):
        return False
    first = [value for _, value in json_records(source)[:50]]
    return all(isinstance(row, dict) and isinstance(row.get("id"), str) and _is_ours(row) for row in first)


def _is_ours(row: dict[str, Any]) -> bool:
    tags, words = row.get("label"), row.get("tokens")
    others = {"labels", "tags", "ner_tags", "spans", "entities", "ner"} & set(row)
    strings = isinstance(words, list) and all(isinstance(word, str) for word in words[:1])
    return strings and (
        (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)) or (tags is None and not others)
    )


def read_json_lines(source: Source, reading: Reading, notes: Notes) -> list[Record]:
    """The records of a file, strictly."""
    ids = UniqueIds(source)
    scheme = SchemeOf(source)
    records = []
    for number, line in enumerate(source.lines, start=1):
        if not line:
            continue
        record = json_object(source, number, line)
        id_ = text_field(source, number, record, "id")
        ids.add(id_, number)
        image_ids = _image_ids(source, number, record)
        words = string_list(source, number, record, "tokens")
        if not words:
            raise DataFormatError(
                source, number, f"post {id_!r} without words", "at least one word", "Remove the post."
            )
        if "" in words:
            raise DataFormatError(source, number, f"an empty word in post {id_!r}", "words with content")
        tags = _labels(source, number, record, len(words), scheme)
        records.append(Record(number, id_, words=words, tags=tags, image_ids=image_ids))
    return records


def write_jsonl(path: str | PathLike[str], examples: Iterable[Example]) -> None:
    """Write posts so that `read_jsonl` gives them back. Context is not written.

    `.mner.json` in the folder keeps what was written there, which alone is replaced.

    Raises:
        DataFormatError: If there is a file that mner did not write, or that somebody changed since.
    """
    content = jsonl_text(examples)
    with in_folder(path) as file:
        file.write(content.encode())


def jsonl_text(examples: Iterable[Example]) -> str:
    """What `write_jsonl` writes."""
    lines = []
    for example in examples:
        record: dict[str, Any] = {"id": example.id, "image_id": example.image_id, "tokens": example.words}
        if example.more_images:
            record["image_ids"] = example.image_ids
        if example.tags is not None:
            record["label"] = example.tags
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    return "".join(lines)


def _image_ids(path: str | PathLike[str], number: int, record: dict[str, Any]) -> tuple[str, ...]:
    first = None if record.get("image_id") is None else text_field(path, number, record, "image_id")
    if record.get("image_ids") is None:
        return () if first is None else (first,)
    image_ids = string_list(path, number, record, "image_ids")
    if "" in image_ids or len(set(image_ids)) < len(image_ids):
        found = f"the image ids {list(image_ids)}"
        raise DataFormatError(path, number, found, "different ids with content", "Name each image once.")
    if first is not None and first not in image_ids[:1]:
        raise DataFormatError(
            path, number, f"image_id {first!r} beside image_ids {list(image_ids)}", "the first of them, or none"
        )
    return image_ids


def _labels(
    path: str | PathLike[str], number: int, record: dict[str, Any], words: int, scheme: SchemeOf
) -> tuple[str, ...] | None:
    if record.get("label") is None:
        # A misspelt key would make posts without gold of posts with gold, silently.
        wrong = sorted({"labels", "tags", "tag", "ner_tags"} & set(record)) if "label" not in record else []
        if wrong:
            raise DataFormatError(path, number, f"tags under {wrong[0]!r}", "tags under 'label'", "Rename the key.")
        return None
    tags = string_list(path, number, record, "label")
    if len(tags) != words:
        advice = "Words and tags belong together one by one."
        raise DataFormatError(path, number, f"{words} tokens and {len(tags)} tags", "as many tags as tokens", advice)
    for tag in tags:
        scheme.check(number, tag)
    return tags
