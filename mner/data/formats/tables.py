"""CSV and TSV with names of columns: tokens with the number of their sentence, texts with spans, or texts alone."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from mner.data.examples import Example
from mner.data.formats.fields import END, NAMES, START, TYPE, id_of, images_of
from mner.data.formats.joined import joined
from mner.data.formats.lines import Source, shown
from mner.data.formats.records import Mark, Notes, Reading, Record
from mner.data.formats.rows import read_rows
from mner.errors import MNERError

Row = dict[str, str]
WORD = ("word", "token", "words", "tokens", "form", "text")
TAG = ("tag", "ner_tag", "ner", "label", "labels", "tags", "ner_tags", "bio", "iob", "entity", "ne", "named_entity")
SENTENCE = (
    *(
        "sentence #",
        "sentence",
        "sentence_id",
        "sentence id",
        "sent_id",
        "sent",
        "sentence_number",
        "sentence no",
        "id",
    ),
    *("post_id", "post", "text_id", "doc_id", "document_id", "tweet_id"),
)
_SEP = re.compile(r"\A\"?sep=.\"?\r?$", re.MULTILINE)
_START, _END = (*START, "start_char", "begin_offset", "start_index"), (*END, "end_index", "span_end")
_OWN = ("span", "entity_text", "entity", "mention", "span_text", "surface")


def fits_table(source: Source) -> bool:
    """Whether the first line names columns that are known, more than one of them."""
    names, table = names_of(source), source.suffix in (".csv", ".tsv", ".tab")
    if any(name == "o" or name[:2] in ("b-", "i-") for name in names):
        return False  # a word with its tag
    if table and names & set(NAMES["text"]):
        return True  # texts alone, or beside columns that are not ours
    kinds = (*WORD, *NAMES["text"]), (*TAG, *_START, *NAMES["spans"]), (*SENTENCE, *NAMES["image"])
    known = sum(bool(names & set(kind)) for kind in kinds)
    return len(names) > 1 and known >= (2 if table else 3)


def fits_span_table(source: Source) -> bool:
    """Whether it is a table with columns for start and end."""
    return fits_table(source) and bool(names_of(source) & set(_START)) and bool(names_of(source) & set(_END))


def _text(source: Source) -> str:
    """Its text, without the line that tells Excel what is between columns."""
    return _SEP.sub("", source.text, count=1)


def names_of(source: Source) -> set[str]:
    """The cells of the first line, in small letters."""
    first = next((line for line in _text(source).split("\n") if line.strip()), "").removesuffix("\r")
    return {name.strip().strip('"').lower() for name in first.split(_delimiter(source, first))}


def read_table(source: Source, reading: Reading, notes: Notes) -> list[Record]:
    """Records of a table. Which it is, its columns say: words with tags, spans with start and end, or texts.

    Raises:
        DataFormatError: For a row with another number of columns than the first, or that lacks what it must have.
    """
    header, rows = _rows(source, notes)
    return table_records(source, header, rows, reading, notes)


def table_records(
    source: Source, header: Sequence[str], rows: Sequence[tuple[int | str, Row]], reading: Reading, notes: Notes
) -> list[Record]:
    """As `read_table`, of a table that is at hand."""
    lower = {name.strip().lower(): name for name in reversed(header)}
    given = {
        what: name for what, name in reading.fields.items() if name is not None and (what, name) != ("image", "id")
    }
    for what, name in given.items():
        if name not in header:
            raise source.fault(1, f"no column {name!r} (there are {', '.join(header)})", f"the {what} there")
    filled = [(number, row) for number, row in rows if any(row.values())]  # sheets have empty ones at their end
    notes.add("rows of empty cells, read as blank lines", len(rows) - len(filled))
    if not filled:
        raise source.fault(1, "a header and no row with a cell that is filled", "at least one row")
    rows = filled
    start, end = (next((lower[n] for n in names if n in lower), None) for names in (_START, _END))
    if start is not None and end is not None:
        return _spans(source, rows, lower, start, end, reading, notes)
    word = given.get("words") or next((lower[name] for name in WORD if name in lower), None)
    tag = given.get("tags") or next((lower[name] for name in TAG if name in lower and lower[name] != word), None)
    sentence = given.get("id") or next((lower[n] for n in SENTENCE if n in lower and lower[n] not in (word, tag)), None)
    plain = [row[tag] for _, row in rows if row[tag]] if tag is not None else []
    if word is not None and tag is not None and (plain or word.lower() != "text") and all(map(_is_tag, plain)):
        return _tokens(source, rows, word, tag, sentence, reading, notes)
    return read_rows(source, [(number, _cells(row)) for number, row in rows], reading, notes)


def _is_tag(cell: str) -> bool:
    return cell == "O" or (len(cell) > 2 and cell[0] in "BIESLUM" and cell[1] == "-" and " " not in cell)


def _cells(row: Row) -> dict[str, Any]:
    """The cells of a row, lists of JSON or Python as lists, empty ones as None."""
    found: dict[str, Any] = {}
    for name, cell in row.items():
        value: Any = cell if cell else None
        if cell[:1] == "[" and cell[-1:] == "]":
            try:
                value = json.loads(cell)
            except ValueError:
                value = _python_list(cell)
        found[name] = value
    return found


def _python_list(cell: str) -> Any:
    """A list as pandas writes it; those of numpy have blanks in place of commas."""
    import ast
    import tokenize

    parts: list[str] = []
    before: int | str = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(cell).readline):
            value = token.type in (tokenize.STRING, tokenize.NUMBER) or token.string in ("[", "{", "(")
            if value and before in (tokenize.STRING, tokenize.NUMBER, "]", "}", ")"):
                parts.append(",")  # two strings side by side would be one to Python
            parts.append(token.string)
            if token.type != tokenize.NL:
                before = token.string if token.type == tokenize.OP else token.type
        return ast.literal_eval("".join(parts))
    except (ValueError, SyntaxError, tokenize.TokenError, MemoryError, RecursionError):
        return cell


def _tokens(
    source: Source, rows: Sequence[tuple[int | str, Row]], word: str, tag: str, sentence: str | None, reading: Reading,
    notes: Notes,
) -> list[Record]:  # fmt: skip
    """A record for each run of rows of one sentence; where only its first row has the number, as well.

    Without a column of numbers, blank lines tell posts apart.
    """
    numbers_of = [(int(str(place).rpartition(" ")[2]), place) for place, _ in rows]
    gaps = {place for (before, _), (number, place) in pairwise(numbers_of) if number > before + 1}
    if sentence is None and not gaps:
        names = ", ".join(rows[0][1])
        advice = "Say which column it is, fields={'id': COLUMN}, or put a blank line behind each post."
        raise source.fault(
            1, f"tokens without a column that tells posts apart ({names})", "one, such as sentence", advice
        )
    runs: list[tuple[str, list[tuple[int | str, Row]]]] = []
    for number, row in rows:
        before = runs[-1][0] if runs else ""
        if sentence is None:
            name = str(number) if number in gaps or not runs else before
        else:
            name = row[sentence].strip() or before
        if not name:
            raise source.fault(number, f"a first row without {sentence!r}", "the number of its post")
        if not runs or before != name:
            runs.append((name, []))
        runs[-1][1].append((number, row))
    counted = [name.rsplit(" ", 1)[-1] for name, _ in runs]
    numbers = sentence is None or (  # anew in each file
        sentence.lower().startswith("sent") and all(c.isdigit() for c in counted)
    )
    records = []
    for name, run in runs:
        record = Record(run[0][0], None if numbers or reading.fields.get("id", "") is None else name)
        empty = next((number for number, row in run if not row[word]), None)
        if empty is not None:
            raise source.fault(empty, f"a row without a word in {word!r}", "a word in each row")
        record.words = [row[word] for _, row in run]
        tags = [row[tag] for _, row in run]
        record.tags = tags if any(tags) else None
        record.image_ids = images_of(source, run[0][0], {k: v for k, v in run[0][1].items() if v}, reading, notes)
        records.append(record)
    return records


def _spans(
    source: Source,
    rows: Sequence[tuple[int | str, Row]],
    lower: Row,
    start: str,
    end: str,
    reading: Reading,
    notes: Notes,
) -> list[Record]:
    """A record for each text; a text without spans has one row with empty start and end."""
    chosen = reading.fields.get("tags") or reading.fields.get("spans")
    label = chosen or next((lower[n.lower()] for n in (*TYPE, *TAG) if n.lower() in lower), None)
    text = reading.fields.get("text") or next((lower[n] for n in NAMES["text"] if n in lower), None)
    if label is None or text is None:
        raise source.fault(1, f"the columns {', '.join(lower.values())}", "a text and a label beside start and end")
    own = next((lower[name] for name in _OWN if name in lower and lower[name] not in (label, text)), None)
    records: dict[tuple[str | None, str], Record] = {}
    for number, row in rows:
        filled = {name: cell for name, cell in row.items() if cell}
        id_ = None if reading.fields.get("id", "") is None else id_of(source, number, filled, reading)
        if id_ is None and row[text] == "":
            raise source.fault(number, "a row without a text", "the text in each row")
        known = next((r for (i, _), r in reversed(records.items()) if i == id_), None) if row[text] == "" else None
        record = known or records.setdefault((id_, row[text]), Record(number, id_, row[text], marks=None))
        record.image_ids = record.image_ids or images_of(source, number, filled, reading, notes)
        bounds = row[start].strip(), row[end].strip()
        if bounds == ("", ""):
            record.marks = record.marks or []
            continue
        whole = [bound.removesuffix(".0") for bound in bounds]  # as tables with gaps have them
        if not all(bound.isdigit() for bound in whole):
            raise source.fault(number, f"start and end {bounds}", "two whole numbers")
        if not row[label].strip():
            raise source.fault(number, f"a span without {label!r}", "the type of each span")
        mark = Mark(int(whole[0]), int(whole[1]), row[label].strip(), row[own] if own is not None else None)
        record.marks = [*(record.marks or []), mark]
    return list(records.values())


# Cells


def _delimiter(source: Source, first: str) -> str:
    if source.suffix in (".tsv", ".tab"):
        return "\t"
    return max("\t,;|", key=lambda sign: (first.count(sign), sign == ","))


def _rows(source: Source, notes: Notes) -> tuple[list[str], list[tuple[int | str, Row]]]:
    first = next((line for line in _text(source).split("\n") if line.strip()), None)
    if first is None:
        raise source.fault(1, "no line with text", "a header with the names of columns")
    delimiter = _delimiter(source, first)
    table = _parsed(source, delimiter, quoted=True)
    if table is None or any(delimiter in cell and "\n" in cell for _, row in table for cell in row):
        bare = _parsed(source, delimiter, quoted=False)
        widths = {len(row) for _, row in bare or ()}
        if bare is not None and len(widths) == 1:
            notes.add(
                "cells with quotes that quote nothing, read as they are", sum('"' in c for _, r in bare for c in r)
            )
            table = bare
    if table is None:
        raise source.fault(1, "a quote that is not closed", "CSV with quotes in pairs")
    header, rows = table[0][1], table[1:]
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise source.fault(1, f"two columns {twice!r}", "columns with different names")
    for number, row in rows:
        if len(row) != len(header):
            advice = "A cell with the sign between columns needs quotes."
            raise source.fault(number, f"{len(row)} columns in {shown(delimiter.join(row))}", f"{len(header)}", advice)
    if not rows:
        raise source.fault(1, "a header and no row", "at least one row")
    return header, [(number, dict(zip(header, row, strict=True))) for number, row in rows]


def _parsed(source: Source, delimiter: str, quoted: bool) -> list[tuple[int, list[str]]] | None:
    """The rows with the numbers of their first lines; None where quotes are not in pairs."""
    if not quoted:
        return [
            (number, line.split(delimiter))
            for number, line in enumerate(source.lines, start=1)
            if line and not (number == 1 and _SEP.match(line))
        ]
    csv.field_size_limit(max(csv.field_size_limit(), len(source.text)))
    reader = csv.reader(io.StringIO(_text(source), newline=""), delimiter=delimiter, strict=True)
    found, before = [], 0
    try:
        for row in reader:
            if row:
                found.append((before + 1, row))
            before = reader.line_num
    except csv.Error:
        return None
    return found


def csv_tokens(posts: Iterable[Example]) -> str:
    """Posts as a table of tokens: `id`, `image_id`, `word`, `tag`; the tags of a post without gold are empty."""
    rows = [["id", "image_id", "word", "tag"]]
    for post in posts:
        for place, word in enumerate(post.words):
            rows.append([post.id, post.image_id or "", word, post.tags[place] if post.tags is not None else ""])
    return _written(rows)


def csv_spans(posts: Iterable[Example]) -> str:
    """Posts as a table of spans: `id`, `image_id`, `text`, `start`, `end`, `label`; without any, one row."""
    rows = [["id", "image_id", "text", "start", "end", "label"]]
    for post in posts:
        if post.tags is None:
            raise MNERError(f"Post {post.id!r} has no gold; in a table of spans it would be a post without entities")
        text, marks = joined(post)
        first = [post.id, post.image_id or "", text]
        rows += [[*first, str(mark.start), str(mark.end), mark.type] for mark in marks] or [[*first, "", "", ""]]
    return _written(rows)


def _written(rows: Sequence[Sequence[str]]) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()
