"""Which field of a record holds what: the names that tools and people use, or those that were given."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from mner.data.formats.lines import Source, json_type, shown
from mner.data.formats.records import UNTYPED, Mark, Notes, Reading

NAMES: dict[str, tuple[str, ...]] = {
    "text": ("text", "content", "document", "sentence", "tweet", "body", "post", "message", "txt", "raw"),
    "words": ("tokens", "words", "tokenized_text", "token_list", "word"),
    "tags": ("ner_tags", "tags", "labels", "label", "ner", "bio", "iob", "bio_tags", "iob_tags", "ner_labels", "tag"),
    "spans": (
        *("spans", "entities", "ents", "label", "labels", "annotation", "annotations", "ner", "mentions", "marks"),
        *("named_entities", "tags"),
    ),
    "id": (
        "id",
        "post_id",
        "text_id",
        "tweet_id",
        "example_id",
        "doc_id",
        "document_id",
        "uuid",
        "guid",
        "documentName",
    ),
    "image": (
        *("image_id", "image_ids", "image", "images", "img", "img_id", "image_path", "img_path", "image_file"),
        *("image_name", "image_filename", "image_url", "imgid", "photo", "picture"),
    ),
    "annotator": ("annotator", "annotator_id", "user", "username", "worker", "coder"),
}
START = ("start", "begin", "start_offset", "startOffset", "start_char", "char_start", "offset", "from")
END = ("end", "stop", "end_offset", "endOffset", "end_char", "char_end", "to")
TYPE = (
    *("label", "labels", "type", "tag", "entity", "entity_type", "entityLabel", "entity_group", "class", "category"),
    *("hypertextlabels", "displayName", "ner", "name"),
)
PAIR = ("pos", "span", "position", "offsets")
"""Where start and end are one list."""
OWN_TEXT = ("text", "value", "span", "surface", "word", "mention", "string", "entity_text", "covered_text")


def field_of(record: Mapping[str, Any], what: str, reading: Reading) -> str | None:
    """The name of the field that holds `what`: the one that was given, or a usual one; None without."""
    if what in reading.fields:
        given = reading.fields[what]
        return given if given in record else None
    return next((name for name in cased(record, NAMES[what]) if record.get(name) is not None), None)


def cased(record: Mapping[str, Any], names: Iterable[str]) -> Iterable[str]:
    """Those of the names that a record has, as it writes them: `Text` is `text`."""
    lower = {str(key).lower(): key for key in reversed(list(record))}
    return (lower[name.lower()] for name in names if name.lower() in lower)


def text_of(source: Source, place: int | str, record: Mapping[str, Any], reading: Reading) -> str:
    """The text of a record: under a usual name, the given one, or in the one field that can be it.

    Raises:
        DataFormatError: If there is none, or it is no text.
    """
    name = field_of(record, "text", reading)
    if name is None and "text" not in reading.fields:
        other = {*NAMES["id"], *NAMES["image"], *NAMES["annotator"], *NAMES["tags"]}
        strings = [key for key, value in record.items() if isinstance(value, str) and key not in other]
        strings = [key for key in strings if not key.startswith("_") and not key.endswith(("_at", "_id", "time"))]
        if len(strings) == 1:
            name = strings[0]
    if name is None:
        wanted = reading.fields.get("text", "text")
        advice = "Say which key holds the text: fields={'text': KEY}."
        raise source.fault(
            place, f"no text under {wanted!r} (the keys are {sorted(map(str, record))})", "a text", advice
        )
    if not isinstance(record[name], str):
        raise source.fault(place, f"{json_type(record[name])} as {name!r}", "a text")
    return str(record[name])


def id_of(source: Source, place: int | str, record: Mapping[str, Any], reading: Reading) -> str | None:
    """The id of a record; None where it has none.

    Raises:
        DataFormatError: If it is neither a string nor a whole number.
    """
    name = field_of(record, "id", reading)
    value = None if name is None else record[name]
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():  # as tables with gaps have them
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise source.fault(place, f"{_said(value)} as {name!r}", "an id, a string or a whole number")
    return str(value)


def images_of(
    source: Source, place: int | str, record: Mapping[str, Any], reading: Reading, notes: Notes
) -> tuple[str, ...]:
    """The ids of a record's images."""
    name = field_of(record, "image", reading)
    value = None if name is None else record[name]
    found = [_image(source, place, one, notes) for one in (value if isinstance(value, (list, tuple)) else [value])]
    return tuple(dict.fromkeys(image for image in found if image))


def _image(source: Source, place: int | str, value: object, notes: Notes) -> str | None:
    if isinstance(value, dict):  # as Hugging Face data sets keep images
        value = value.get("path")
        if value is None:
            notes.add("images within the file, not read")
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise source.fault(place, f"{_said(value)} as image", "the name of an image")
    if value.startswith("data:"):
        notes.add("images within the file (base64), not read")
        return None
    parts = urlsplit(value)
    if not parts.scheme and not value.startswith("/"):
        return value
    notes.add("images named by the last part of their path or address")
    path = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]  # Label Studio's local files have ?d=path
    last = path.rsplit("/", 1)[-1]
    return re.sub(r"^[0-9a-f]{8}-", "", last) if "/upload/" in path else last


def list_of(
    source: Source, place: int | str, record: Mapping[str, Any], key: str, kind: type[Any] = object
) -> list[Any]:
    """A list in a record; an empty one where it is missing or null.

    Raises:
        DataFormatError: If it is no list, or holds something else than `kind`.
    """
    value = record.get(key)
    value = [] if value is None else value
    if not isinstance(value, list) or not all(isinstance(one, kind) for one in value):
        what = "an object" if kind is dict else "a value"
        raise source.fault(place, f"{shown(str(value))} as {key!r}", f"a list with {what} each")
    return value


def marks_of(
    source: Source, place: int | str, value: object, notes: Notes, over: str = "text", names: object = None
) -> list[Mark]:
    """Spans in any of the ways that tools write them: objects, or lists `[start, end, type]`.

    Args:
        source: The file.
        place: The record.
        value: The list of spans.
        notes: Gets what has no type.
        over: `text` for offsets in characters, `words` for those of words.
        names: The names of numbered types, by their number.

    Raises:
        DataFormatError: If a span has no start and end.
    """
    if not isinstance(value, (list, tuple)):
        raise source.fault(place, f"{json_type(value)} as spans", "a list of spans")
    found: list[Mark] = []
    for one in value:
        start, end, types, text = _span(source, place, one, over)
        if not types:
            notes.add(UNTYPED)
        for type_ in types:
            found.append(Mark(start, end, _type(source, place, type_, names), text))
    return found


def _span(source: Source, place: int | str, one: object, over: str) -> tuple[int, int, list[object], str | None]:
    types: list[object]
    if isinstance(one, dict):
        inner = one.get("value") if isinstance(one.get("value"), dict) else one
        assert isinstance(inner, dict)
        first = ("token_start", "start_token") if over == "words" else ()
        last = ("token_end", "end_token") if over == "words" else ()
        start = next((inner[key] for key in (*first, *START) if key in inner), None)
        end = next((inner[key] for key in (*last, *END) if key in inner), None)
        if end is None and isinstance(inner.get("length"), int) and isinstance(start, int):
            end = start + inner["length"]
        if any(key in inner for key in last) and isinstance(end, int):
            end += 1  # Prodigy's token_end is the last token
        if start is None and end is None and (pair := _pair(inner)) is not None:
            start, end = pair
        types = next((inner[key] for key in TYPE if inner.get(key) not in (None, "", [])), [])
        text = next((inner[key] for key in OWN_TEXT if isinstance(inner.get(key), str)), None)
        types = types if isinstance(types, list) else [types]
    elif isinstance(one, (list, tuple)) and len(one) >= 3:
        numbers = [value for value in one[:3] if isinstance(value, int) and not isinstance(value, bool)]
        start, end = (numbers[0], numbers[1]) if len(numbers) >= 2 else (None, None)
        types = [one[2] if not isinstance(one[2], int) or len(numbers) == 3 else one[0]]
        text = None
    else:
        start, end, text, types = None, None, None, []
    good = all(isinstance(value, int) and not isinstance(value, bool) for value in (start, end))
    if not good:
        expected = "spans with start, end and label: an object, or [start, end, label]"
        raise source.fault(place, f"the span {shown(str(one))}", expected)
    return int(start), int(end), types, text  # type: ignore[arg-type]


def _pair(span: Mapping[str, Any]) -> tuple[int, int] | None:
    """Start and end where a span has them as one list, `{"pos": [0, 3], "type": "PER"}`."""
    pairs = (span[key] for key in PAIR if isinstance(span.get(key), (list, tuple)) and len(span[key]) == 2)
    return next(((start, end) for start, end in pairs if type(start) is type(end) is int), None)


def _type(source: Source, place: int | str, type_: object, names: object) -> str:
    if isinstance(type_, int) and not isinstance(type_, bool):
        try:
            return str(names[type_])  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            advice = "Give the names of all numbers, in order: `label_names`."
            raise source.fault(place, f"the type {type_} by its number", "a name", advice) from None
    if not isinstance(type_, str):
        raise source.fault(place, f"{json_type(type_)} as the type of a span", "a name")
    return type_


def spans_field(records: Sequence[Mapping[str, Any]], reading: Reading) -> str | None:
    """The field of spans: a usual or the given name, or the one whose values are lists of spans."""
    if "spans" in reading.fields:
        return reading.fields["spans"]
    names = [*dict.fromkeys(name for record in records for name in cased(record, NAMES["spans"]))]
    usual = [name for name in names if any(is_spans(record.get(name)) for record in records)]
    if usual:
        return usual[0]
    others = {key for record in records for key, value in record.items() if is_spans(value) and key != "tokens"}
    if len(others) == 1:
        return str(others.pop())
    empty = [name for name in names if any(record.get(name) == [] for record in records)]
    return empty[0] if empty else None


def is_spans(value: object) -> bool:
    """Whether a value is a list of spans, and not empty."""
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_span, value))


def _is_span(one: object) -> bool:
    if isinstance(one, dict):
        inner = one.get("value") if isinstance(one.get("value"), dict) else one
        starts, ends = (*START, "token_start"), (*END, "token_end", "length")
        return isinstance(inner, dict) and (
            (any(k in inner for k in starts) and any(k in inner for k in ends)) or _pair(inner) is not None
        )
    return (
        isinstance(one, (list, tuple))
        and len(one) == 3
        and sum(isinstance(value, int) and not isinstance(value, bool) for value in one) in (2, 3)
        and any(isinstance(value, (str, int)) for value in one)
    )


def has(source: Source, test: Callable[[dict[str, Any]], bool], records: Sequence[tuple[int | str, Any]]) -> bool:
    """Whether some of the first records pass a test."""
    return any(test(value) for _, value in records[:50] if isinstance(value, dict))


def _said(value: object) -> str:
    return shown(value) if isinstance(value, str) else json_type(value)
