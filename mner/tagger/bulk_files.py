"""What people have, as posts for `mner tag`: files of any format, texts, tables, several of them, a folder, a pipe."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from mner.data.formats.context import Texts
from mner.data.formats.fields import NAMES
from mner.data.formats.json_document import is_json, json_records
from mner.data.formats.lines import Source
from mner.data.formats.posts import FORMATS, find_format, read_records
from mner.data.formats.records import Reading, Record
from mner.data.formats.tables import TAG, WORD
from mner.errors import DataFormatError, DataNotFoundError, MNERError
from mner.files import STANDARD
from mner.labels import split_tag
from mner.tagger.bulk_input import (
    Given,
    Images,
    decoded,
    digest_of,
    from_folder,
    from_lines,
    given_of,
    lines_of,
    said,
    text_files,
)
from mner.tagger.bulk_tables import delimiter_of, from_parquet, from_table
from mner.tagger.post import Post

STREAMED = ("jsonl", "text", "csv", "tsv", "parquet")
"""Formats that are read post by post; those of `mner.data.formats.posts` are read as a whole, a fault in them told at
once."""
FIELDS = ("text", "words", "id", "image", "context")
_LOOK = 1 << 16
"""Bytes from the beginning of a file that tell its format."""
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".parquet": "parquet"}
KNOWN = (*_SUFFIXES, ".json", ".conll", ".conllu", ".iob", ".spacy", ".txt")
"""Suffixes of what is taken from a folder."""


@dataclass(frozen=True, slots=True)
class Input:
    """One of the inputs.

    Attributes:
        name: As it was given.
        kind: How it is read: one of `STREAMED`, `folder` (a text a file), or the name of a format of posts.
    """

    name: str
    kind: str

    @property
    def identity(self) -> str:
        """What tells it from another, though posts may be added to it or mended: its place and its first line."""
        source = Path(self.name)
        if self.name == STANDARD or not source.exists():
            return STANDARD
        if not source.is_file():
            return str(source.resolve()) if source.is_dir() else STANDARD  # a pipe has another name each time
        with source.open("rb") as stream:
            first = stream.readline(1 << 16)
        return f"{source.resolve()} ({hashlib.sha256(first).hexdigest()[:12]})"

    @property
    def count(self) -> int | None:
        """How many posts it may hold; None where that cannot be told beforehand."""
        path = Path(self.name)
        if self.kind == "folder":
            return len(text_files(path))
        if self.kind not in STREAMED[:-1] or self.name == STANDARD or not path.is_file():
            return None  # of what is no file, such as a pipe, counting would take all
        with path.open("rb") as file:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def inputs_of(given: str | Sequence[str], format: str = "auto", fields: Mapping[str, str] | None = None) -> list[Input]:
    """The files that are to be read, each with how.

    A folder stands for its `.txt` files, a post each, or, without any, for the files in it whose suffix is known.

    Args:
        given: Files, folders, `-`.
        format: `auto`, one of `STREAMED`, or a format of posts by its name.
        fields: Which field or column holds what.

    Raises:
        DataNotFoundError: If there is nothing to read.
        MNERError: If there is no such format or field.
    """
    if format not in ("auto", *STREAMED, *FORMATS):
        raise MNERError(f"there is no input format {format!r}; there are {', '.join((*STREAMED, *FORMATS))}")
    if wrong := sorted(set(fields or ()) - set(FIELDS)):
        raise MNERError(f"Expected fields among {', '.join(FIELDS)}, but got {', '.join(wrong)}")
    found = []
    for name in [given] if isinstance(given, str) else given:
        path = Path(name)
        if name != STANDARD and not path.exists():
            raise DataNotFoundError(f"No input at {name}: expected a file of posts, a folder, or - for lines")
        if format == "auto" and FORMATS["saved_dataset"].fits(Source(path)):
            found.append(Input(name, "saved_dataset"))
        elif name != STANDARD and path.is_dir() and format not in FORMATS:
            files = [file for file in sorted(path.iterdir()) if file.suffix.lower() in KNOWN and file.is_file()]
            if not files or any(file.suffix.lower() == ".txt" for file in files):
                text_files(path)  # says what it expects where there is none
                found.append(Input(name, "folder"))
            else:
                found += [Input(str(file), _kind(file, format, fields or {})) for file in files]
        else:
            found.append(Input(name, "jsonl" if (name, format) == (STANDARD, "auto") else _kind(path, format, fields)))
    if not found:
        raise DataNotFoundError("Expected a file of posts, a folder, or - for lines, but got none")
    return found


def posts_from(
    inputs: Sequence[Input],
    images: Callable[[Input], Images],
    sources: Sequence[Texts] = (),
    fields: Mapping[str, str] | None = None,
    reading: Reading | None = None,
) -> Iterator[Given]:
    """The posts of all inputs, one after the other; those of several know their file.

    Args:
        inputs: As `inputs_of` gives them.
        images: Where the images of an input are.
        sources: Context of posts that bring none.
        fields: Which field or column holds what.
        reading: How formats of posts are read where they leave a choice.
    """
    for one in inputs:
        for given in _posts(one, images(one), sources, fields or {}, reading):
            yield replace(given, key=f"{one.name}: {given.key}", source=one.name) if len(inputs) > 1 else given


def _posts(
    one: Input, images: Images, sources: Sequence[Texts], fields: Mapping[str, str], reading: Reading | None
) -> Iterator[Given]:
    keys = {"tokens" if key == "words" else key: name for key, name in fields.items()}
    name = "<stdin>" if one.name == STANDARD else one.name
    if one.kind == "folder":
        yield from from_folder(Path(one.name), images, sources)
    elif one.kind == "parquet":
        yield from from_parquet(one.name, keys, images, sources)
    elif one.kind not in STREAMED:
        yield from _from_records(one, images, sources, fields, reading)
    elif one.name == STANDARD:
        yield from _from_stream(sys.stdin.buffer, name, one.kind, keys, images, sources)
    else:
        with open(one.name, "rb") as stream:
            yield from _from_stream(stream, name, one.kind, keys, images, sources)


def _from_stream(
    stream: BinaryIO, name: str, kind: str, keys: Mapping[str, str], images: Images, sources: Sequence[Texts]
) -> Iterator[Given]:
    if kind == "jsonl":
        yield from from_lines(stream, name, images, sources, fields=keys)
    elif kind == "text":
        for number, raw in lines_of(stream):
            if isinstance(raw, Given):
                yield raw
                continue
            try:
                text = decoded(raw.removeprefix(b"\xef\xbb\xbf"), name, number)
            except DataFormatError as error:
                yield Given(None, number, digest_of(raw), error=said(error))
            else:
                yield Given(None, number, f"line {number}", Post(text=text))
    else:
        yield from from_table(stream, name, kind, keys, images, sources)


# Formats of posts


def _from_records(
    one: Input, images: Images, sources: Sequence[Texts], fields: Mapping[str, str], reading: Reading | None
) -> Iterator[Given]:
    """Posts of a format that is read as a whole, each once, with what the file has beside."""
    known = {key: name for key, name in fields.items() if key != "context"}
    reading = reading or Reading()
    reading = replace(reading, fields={**reading.fields, **known})
    beside = _beside(one, fields)
    met: set[object] = set()
    number = 0
    for record in read_records(one.name, one.kind, reading):
        own = record.key or (record.id if record.annotator or record.withheld else None) or (record.place,)
        if own in met:
            continue  # the same post, by another annotator
        met.add(own)
        number += 1
        row = {**(_labels(record) if beside is None else beside.get(record.place, {})), "image_ids": None}
        if record.text is not None and record.tags is None:
            row["text"] = record.text
        else:
            row["tokens"] = list(record.words or ())
        row |= {"id": record.id, "image_ids": list(record.image_ids) or None}
        row = {key: value for key, value in row.items() if value is not None}
        place = one.name if isinstance(record.place, int) else f"{one.name}, {record.place}"
        line = record.place if isinstance(record.place, int) else number
        yield given_of(row, place, line, digest_of(repr(row).encode(errors="replace")), images, sources)


def _beside(one: Input, fields: Mapping[str, str]) -> dict[object, dict[str, Any]] | None:
    """The other fields of the records of JSON, by their places; None of other formats."""
    source = Source(one.name)
    if one.name == STANDARD or source.path.is_dir() or one.kind in ("spacy", "parquet") or not is_json(source):
        return None
    found: dict[object, dict[str, Any]] = {}
    for place, row in json_records(source):
        if not isinstance(row, dict):  # spaCy's pairs
            continue
        inner = row["data"] if isinstance(row.get("data"), dict) else {}
        flat = {**{key: value for key, value in row.items() if key != "data" or not inner}, **inner}
        context = flat.pop(fields["context"], None) if "context" in fields else None
        taken = {"text", "tokens", "id", "context", *(fields[key] for key in ("text", "words") if key in fields)}
        found[place] = {key: value for key, value in flat.items() if key not in taken}
        found[place] |= {} if context is None else {"context": context}
    return found


def _labels(record: Record) -> dict[str, Any]:
    """The labels that a file has already, which stay."""
    if record.tags is not None:
        return {"label": list(record.tags)}
    return {} if record.marks is None else {"label": [list(mark[:3]) for mark in record.marks]}


# Which format


def _kind(path: Path, format: str, fields: Mapping[str, str] | None) -> str:
    """How a file is read: as it was said, or by its suffix and how it begins."""
    if format != "auto":
        return format
    if not path.is_file():
        return "jsonl"  # a pipe, of which nothing may be taken to look at it
    with path.open("rb") as stream:
        head = stream.read(_LOOK).decode("utf-8-sig", errors="replace")
    suffix, lines = path.suffix.lower(), [line for line in head.splitlines() if line.strip()]
    kind = _SUFFIXES.get(suffix)
    if kind in ("csv", "tsv"):
        return _kind_of_table(kind, lines[0] if lines else "", fields or {})
    if kind == "parquet":
        return kind
    if kind == "jsonl" or suffix == ".json" or head.lstrip()[:1] in ("{", "["):
        return _kind_of_json(path, lines)
    if suffix in (".conll", ".conllu", ".iob", ".spacy", ".ann"):
        return find_format(Source(path))
    return "conll" if _are_columns(lines[:-1] or lines) else "text"


def _kind_of_json(path: Path, lines: Sequence[str]) -> str:
    """Lines with a text or tokens are read one by one; exports of tools as a whole."""
    try:
        first = json.loads(lines[0]) if lines else {}
    except (ValueError, RecursionError):
        first = {} if path.suffix.lower() != ".json" and lines[0].lstrip()[:1] == "{" else None
    if isinstance(first, dict):
        texts = [key for key in ("text", "tokens") if first.get(key) is not None]
        if len(texts) == 1 or not first or (not texts and not isinstance(first.get("data"), dict)):
            return "jsonl"
    return find_format(Source(path))


def _kind_of_table(kind: str, head: str, fields: Mapping[str, str]) -> str:
    """A post a row, unless the columns are those of tokens or of spans."""
    if head.startswith("#FORMAT=WebAnno"):
        return "webanno"
    names = {cell.strip().strip('"').lower() for cell in head.split(delimiter_of(head, kind))}
    if {"text", "words"} & set(fields):
        return kind
    if {"start", "end"} <= names or {"start_offset", "end_offset"} <= names:
        return "csv_spans"
    texts = names & set(NAMES["text"])
    return "csv_tokens" if not texts and names & set(WORD) and names & set(TAG) else kind


def _are_columns(lines: Iterable[str]) -> bool:
    """Whether lines are words with tags, as in CoNLL."""
    rows = [line.split() for line in lines if not line.startswith(("IMGID:", "-DOCSTART-", "#"))]
    return bool(rows) and all(len(row) > 1 and (_is_tag(row[-1]) or _is_tag(row[0])) for row in rows)


def _is_tag(cell: str) -> bool:
    try:
        split_tag(cell)
    except ValueError:
        return cell[:2] in ("E-", "S-", "L-", "U-")
    return True
