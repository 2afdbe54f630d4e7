"""Rows with named fields, of JSON, tables, data sets or memory: words with tags or spans, or texts with spans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mner.data.formats.fields import NAMES, cased, field_of, id_of, images_of, marks_of, spans_field, text_of
from mner.data.formats.lines import Source, json_type, shown
from mner.data.formats.records import Mark, Notes, Reading, Record
from mner.data.formats.schemes import split_any_tag
from mner.data.formats.span_shapes import hides_spans, names_spans, plain_rows

Rows = Sequence[tuple[int | str, Mapping[str, Any]]]


def read_rows(source: Source, rows: Rows, reading: Reading, notes: Notes) -> list[Record]:
    """The records of rows; which field holds what is found by usual names, or `reading.fields`.

    Raises:
        DataFormatError: If a row has neither words nor text, or holds something else than it should.
    """
    rows = plain_rows(rows, notes)
    plain = [row for _, row in rows]
    spans = spans_field(plain, reading)
    for what in ("text", "words", "tags", "spans", "image", "annotator"):
        name = reading.fields.get(what)
        if name is not None and not (what == "image" and name == "id") and not any(name in row for row in plain):
            keys = ", ".join(sorted({str(key) for row in plain[:50] for key in row}))
            raise source.fault(rows[0][0], f"no field {name!r} (there are {keys})", f"the {what} there")
    last = _last_included(source, rows, spans, reading, notes)
    records = [_record(source, place, row, reading, notes, spans, last) for place, row in rows]
    if spans is None and not any(record.labelled for record in records):
        for row in plain:
            for key in (key for key, value in row.items() if hides_spans(value) or names_spans(str(key), value)):
                notes.add(f"records whose field {key!r} seems to hold spans in a way that is not known, not read")
    some = next((record for record in records if record.id is None), None)
    if some is not None and any(record.id is not None for record in records):
        raise source.fault(some.place, "a post without id in a file whose other posts have one", "an id in each post")
    return records


def _record(
    source: Source,
    place: int | str,
    row: Mapping[str, Any],
    reading: Reading,
    notes: Notes,
    spans: str | None,
    last: bool,
) -> Record:
    id_ = id_of(source, place, row, reading) if "id" not in reading.fields or reading.fields["id"] else None
    record = Record(place, id_, image_ids=images_of(source, place, row, reading, notes))
    if who := field_of(row, "annotator", reading):
        record.annotator = str(row[who])
    words = _list(source, place, row, "words", reading)
    if words is None and isinstance(text := _optional_text(row, reading), str):
        found = _tags(source, place, row, reading, spans)
        if found is not None and "words" not in reading.fields and len(found) == len(text.split()):
            words = text.split()  # words with spaces between them, a tag for each
        elif found and all(map(_is_tag, found)):
            what = f"{len(text.split())} words between spaces and {len(found)} tags"
            raise source.fault(place, what, "as many tags as words", "Words and tags belong together one by one.")
    if words is not None:
        _take_words(source, place, record, words, row, reading)
        record.tags = _tags(source, place, row, reading, spans)
        if record.tags is not None:
            record.text = None
            return record
        if spans is not None and row.get(spans) is not None:
            over = "text" if record.text is not None else "words"
            marks = marks_of(source, place, row[spans], notes, over, reading.label_names)
            record.marks = [mark._replace(end=mark.end + 1) if last else mark for mark in marks]
        return record
    record.text = text_of(source, place, row, reading)
    if spans is not None and row.get(spans) is not None:
        record.marks = marks_of(source, place, row[spans], notes, names=reading.label_names)
    elif spans is not None and row.get("annotation_id") is not None:
        record.marks = []  # somebody has seen it: Label Studio's CSV
    return record


def _is_marked(row: Mapping[str, Any], spans: str | None) -> bool:
    value = None if spans is None else row.get(spans)
    return isinstance(value, (list, tuple)) and bool(value) and not isinstance(value[0], (str, int))


def _optional_text(row: Mapping[str, Any], reading: Reading) -> object:
    name = field_of(row, "text", reading)
    return None if name is None else row[name]


def _list(source: Source, place: int | str, row: Mapping[str, Any], what: str, reading: Reading) -> list[Any] | None:
    name = field_of(row, what, reading)
    if name is None and what == "words" and isinstance(_plain(_optional_text(row, reading)), (list, tuple)):
        name = field_of(row, "text", reading)
    value = None if name is None else _plain(row[name])
    if isinstance(value, str) and what == "words" and name in reading.fields.values():
        return value.split()
    if name is None or isinstance(value, str):
        return None
    if not isinstance(value, (list, tuple)):
        raise source.fault(place, f"{json_type(value)} as {name!r}", "a list of words")
    return list(value)


def _plain(value: Any) -> Any:
    """Lists of numpy, as data frames hold them, as lists."""
    return value.tolist() if hasattr(value, "tolist") and not isinstance(value, (str, int, float)) else value


def _take_words(
    source: Source, place: int | str, record: Record, words: list[Any], row: Mapping[str, Any], reading: Reading
) -> None:
    """Words, and their places where the record has the text too."""
    text = _optional_text(row, reading)
    if words and all(isinstance(word, dict) and isinstance(word.get("text"), str) for word in words):
        if isinstance(text, str) and all(type(word.get(key)) is int for word in words for key in ("start", "end")):
            record.places = [(word["start"], word["end"]) for word in words]
            record.text = text
        words = [word["text"] for word in words]
    for word in words:
        if not isinstance(word, str):
            raise source.fault(place, f"{json_type(word)} among the words", "a list of strings")
    record.words = words
    if record.text is None and isinstance(text, str):
        record.places = _located(words, text)
        record.text = text if record.places is not None else None


def _located(words: Sequence[str], text: str) -> list[tuple[int, int]] | None:
    places, end = [], 0
    for word in words:
        start = text.find(word, end)
        if start < 0 or not word or text[end:start].strip(" \t\r\n"):
            return None
        end = start + len(word)
        places.append((start, end))
    return places if not text[end:].strip(" \t\r\n") else None


def _tags(
    source: Source, place: int | str, row: Mapping[str, Any], reading: Reading, spans: str | None
) -> list[str] | None:
    """The tags, numbers by their names; None without."""
    named = [reading.fields["tags"]] if "tags" in reading.fields else cased(row, NAMES["tags"])
    for name in named:
        value = None if name is None else _plain(row.get(name))
        if isinstance(value, str) and (" " in value.strip() or _is_tag(value)):
            value = value.split()
        if value is None or isinstance(value, str) or (name == spans and not value):
            continue
        if not isinstance(value, (list, tuple)):
            raise source.fault(place, f"{json_type(value)} as {name!r}", "a list of tags")
        if value and isinstance(value[0], (dict, list, tuple)):
            continue
        return [_tag(source, place, name, tag, reading) for tag in value]
    return None


def _is_tag(cell: str) -> bool:
    try:
        return bool(split_any_tag(cell))
    except ValueError:
        return False


def _tag(source: Source, place: int | str, name: object, tag: object, reading: Reading) -> str:
    if isinstance(tag, str):
        return tag
    if isinstance(tag, int) and not isinstance(tag, bool):
        if reading.label_names is None:
            advice = "Give the names of all numbers, in order: `label_names`."
            raise source.fault(place, f"the tag {tag} under {name!r}, a number", "names of tags", advice)
        if 0 <= tag < len(reading.label_names):
            return reading.label_names[tag]
        raise source.fault(place, f"the tag {tag} under {name!r}", f"a number from 0 to {len(reading.label_names) - 1}")
    raise source.fault(place, f"{json_type(tag)} among {name!r}", "a list of tags")


def _last_included(source: Source, rows: Rows, spans: str | None, reading: Reading, notes: Notes) -> bool:
    """Whether spans of words are given with their last word (`[0, 0, "PER"]` is one word), as some tools do."""
    one_word: int | str | None = None
    whole: int | str | None = None
    any_span = False
    for place, row in rows:
        words = _list(source, place, row, "words", reading)
        if (
            words is None
            or spans is None
            or not _is_marked(row, spans)
            or isinstance(_optional_text(row, reading), str)
        ):
            continue
        marks: list[Mark] = marks_of(source, place, row[spans], Notes(), "words", reading.label_names)
        any_span = any_span or bool(marks)
        if any(mark.start == mark.end for mark in marks):
            one_word = one_word if one_word is not None else place
        if any(mark.end == len(words) for mark in marks):
            whole = whole if whole is not None else place
    if one_word is not None and whole is not None:
        found = f"a span that ends where it begins, and in {shown(str(whole))} one that ends behind the last word"
        raise source.fault(one_word, found, "spans of words whose last word is given, or the one behind it, not both")
    if one_word is not None:
        notes.add("file whose spans of words are given with their last word")
    elif any_span and whole is None:
        notes.add("file whose spans of words may be given with or without their last word: read as without")
    return one_word is not None
