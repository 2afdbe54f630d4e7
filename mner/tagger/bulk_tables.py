"""Tables for `mner tag`, row by row: CSV, TSV and Parquet with columns of texts, ids and images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

from mner.data.formats.context import Texts
from mner.data.formats.fields import NAMES, field_of
from mner.data.formats.lines import shown
from mner.data.formats.parquet import imported
from mner.data.formats.records import Reading
from mner.errors import DataFormatError
from mner.tagger.bulk_input import MAX_BYTES, Given, Images, decoded, digest_of, given_of, said


def from_table(
    stream: BinaryIO, name: str, kind: str, keys: Mapping[str, str], images: Images, sources: Sequence[Texts]
) -> Iterator[Given]:
    """A post a row, under a row with the names of columns; a row that is none is an error in its place.

    Raises:
        DataFormatError: If there is no column of texts, or quotes are not in pairs.
    """
    # What is not UTF-8 is an error of its row, not of the table.
    lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    csv.field_size_limit(max(csv.field_size_limit(), MAX_BYTES))
    head = lines.readline()
    rows = csv.reader(lines, delimiter=delimiter_of(head, kind))
    header = next(csv.reader([head], delimiter=delimiter_of(head, kind)), [])
    columns = _columns(name, header, keys)
    before = 1
    try:
        for row in rows:
            number, before = before + 1, rows.line_num + 1
            if not row:
                continue
            joined = "\x1f".join(row).encode(errors="surrogateescape")
            try:
                decoded(joined, name, number)
            except DataFormatError as error:
                yield Given(None, number, digest_of(joined), error=said(error))
                continue
            if len(row) != len(header):
                fault = DataFormatError(name, number, f"{len(row)} columns in {shown(' '.join(row))}", f"{len(header)}")
                yield Given(None, number, digest_of(joined), error=said(fault))
                continue
            yield _of_row(dict(zip(header, row, strict=True)), name, number, columns, images, sources)
    except csv.Error as error:
        raise DataFormatError(name, before, str(error), "a table with quotes in pairs") from None
    finally:
        lines.detach()  # the stream is not ours to close


def delimiter_of(head: str, kind: str) -> str:
    """The sign between columns, as the first line has it."""
    return "\t" if kind == "tsv" else max(",;\t|", key=lambda sign: (head.count(sign), sign == ","))


def _columns(name: str, header: Sequence[str], keys: Mapping[str, str]) -> dict[str, str]:
    """The columns of text or tokens, id, image and context: those that were named, else those with usual names."""
    for what, column in keys.items():
        if column not in header:
            raise DataFormatError(name, 1, f"no column {column!r} (there are {', '.join(header)})", f"the {what} there")
    if len(set(header)) < len(header):
        twice = next(column for column in header if header.count(column) > 1)
        raise DataFormatError(name, 1, f"two columns {twice!r}", "columns with different names")
    some = dict.fromkeys(header, "")
    usual = {what: field_of(some, what, Reading()) for what in ("id", "image")}
    if not {"text", "tokens"} & set(keys):
        words = next((column for column in header if column.lower() in NAMES["words"][:-1]), None)
        text = field_of(some, "text", Reading())
        usual |= {"text": text} if text is not None else {"tokens": words}
    columns = {**{what: column for what, column in usual.items() if column is not None}, **keys}
    if not {"text", "tokens"} & set(columns):
        advice = "Say which column holds the texts: --fields.text COLUMN."
        raise DataFormatError(name, 1, f"the columns {', '.join(header)}", "one of texts, such as text", advice)
    return columns


def _of_row(
    row: Mapping[str, Any], name: str, number: int, columns: Mapping[str, str], images: Images, sources: Sequence[Texts]
) -> Given:
    record, digest = dict(row), digest_of(repr(row).encode(errors="replace"))
    for what in ("id", "image", "context"):
        if what in columns and record[columns[what]] in ("", None):
            record[columns[what]] = None
    words = record.get(columns.get("tokens", ""))
    if isinstance(words, str):
        try:
            record[columns["tokens"]] = json.loads(words) if words.startswith("[") else words.split()
        except ValueError as error:
            return Given(None, number, digest, error=f"{name}, row {number}: {shown(words)} is no list ({error})")
    return given_of(record, name, number, digest, images, sources, columns)


def from_parquet(name: str, keys: Mapping[str, str], images: Images, sources: Sequence[Texts]) -> Iterator[Given]:
    """A post a row of a Parquet file, some thousand rows in memory.

    Raises:
        DataFormatError: If it is no Parquet file, or has no column of texts.
    """
    imported("pyarrow")
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        table = ParquetFile(name)
        columns = _columns(name, table.schema_arrow.names, keys)
        number = 0
        for batch in table.iter_batches(batch_size=1000):
            for row in batch.to_pylist():
                number += 1
                plain, picture = _plain(row, columns)
                given = _of_row(plain, name, number, columns, images, sources)
                if picture is not None and given.post is not None:
                    given = replace(given, post=replace(given.post, image=picture))
                yield given
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataFormatError(name, None, str(error).splitlines()[0], "a Parquet file") from None


def _plain(row: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[dict[str, Any], bytes | None]:
    """A row as JSON can hold it, and the image whose bytes are in it, as Hugging Face data sets have them."""
    image = row.get(columns.get("image", ""))
    picture = image.get("bytes") if isinstance(image, dict) else image if isinstance(image, bytes) else None
    plain = {key: _json(value) for key, value in row.items()}
    if isinstance(image, (dict, bytes)):
        path = image.get("path") if isinstance(image, dict) else None
        plain[columns["image"]] = None if picture is not None else path
    return plain, picture


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _json(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_json(one) for one in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
