"""A file, folder or pipe of posts in any format that is read, found by its suffix and content, and written again."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import NamedTuple

from mner.data.examples import Example, Posts
from mner.data.formats import (
    argilla,
    brat,
    conll,
    conllu,
    docbin,
    doccano,
    json_lines,
    json_rows,
    label_studio,
    lighttag,
    parquet,
    prodigy,
    spacy_iob,
    spacy_json,
    tables,
    ubiai,
    webanno,
)
from mner.data.formats.assemble import map_types, posts_of, prepared
from mner.data.formats.json_document import is_json
from mner.data.formats.lines import Source, shown
from mner.data.formats.records import Notes, Offsets, Overlaps, Reading, Record
from mner.data.formats.schemes import SchemeOf
from mner.data.word_splitter import Splitter
from mner.errors import DataFormatError, DataNotFoundError, MNERError
from mner.files import output_folder, whole

Reader = Callable[[str], list[Example]]
"""Reads a file of posts: a function of the user's own."""


class Format(NamedTuple):
    """A format of posts.

    Attributes:
        read: The records of a file.
        fits: Whether a file is in it.
        write: Writes posts to a new file; None for a format that is only read.
        suffix: What files that are written are called.
        what: What it is, in a few words.
    """

    read: Callable[[Source, Reading, Notes], list[Record]]
    fits: Callable[[Source], bool]
    write: Callable[[Path, Sequence[Example]], None] | None
    suffix: str
    what: str


def _text(render: Callable[[Iterable[Example]], str]) -> Callable[[Path, Sequence[Example]], None]:
    def write(path: Path, posts: Sequence[Example]) -> None:
        content = render(posts)
        with whole(path) as stream:
            stream.write(content.encode())

    return write


def _by(*suffixes: str) -> Callable[[Source], bool]:
    return lambda source: source.suffix in suffixes


FORMATS: dict[str, Format] = {
    "spacy": Format(docbin.read_docbin, _by(".spacy"), docbin.write_docbin, ".spacy", "spaCy's DocBin"),
    "parquet": Format(parquet.read_parquet, _by(".parquet"), parquet.write_parquet, ".parquet", "Parquet"),
    "brat": Format(brat.read_brat, brat.fits_brat, brat.write_brat, "", "brat's .ann beside .txt"),
    "saved_dataset": Format(
        parquet.read_saved_dataset, parquet.is_saved_dataset, None, "", "a split that save_to_disk wrote"
    ),
    "label_studio": Format(
        label_studio.read_label_studio, label_studio.fits_label_studio, _text(label_studio.label_studio), ".json",
        "Label Studio, JSON",
    ),
    "label_studio_min": Format(
        label_studio.read_label_studio_min, label_studio.fits_label_studio_min, None, ".json", "Label Studio, JSON-MIN"
    ),
    "lighttag": Format(lighttag.read_lighttag, lighttag.fits_lighttag, _text(lighttag.lighttag), ".json", "LightTag"),
    "ubiai": Format(ubiai.read_ubiai, ubiai.fits_ubiai, _text(ubiai.ubiai), ".json", "UBIAI"),
    "argilla": Format(argilla.read_argilla, argilla.fits_argilla, _text(argilla.argilla), ".json", "Argilla"),
    "spacy_json": Format(
        spacy_json.read_spacy_json, spacy_json.fits_spacy_json, _text(spacy_json.spacy_json), ".jsonl", "spaCy's JSON"
    ),
    "prodigy": Format(prodigy.read_prodigy, prodigy.fits_prodigy, _text(prodigy.prodigy), ".jsonl", "Prodigy"),
    "doccano": Format(doccano.read_doccano, doccano.fits_doccano, _text(doccano.doccano), ".jsonl", "doccano"),
    "json_lines": Format(
        json_lines.read_json_lines, json_lines.fits_json_lines, _text(json_lines.jsonl_text), ".jsonl",
        "JSON lines with tokens and label",
    ),
    "json": Format(
        json_rows.read_json, json_rows.fits_json, _text(json_rows.json_spans), ".jsonl",
        "other JSON: tokens and tags, tokens and spans, text and spans",
    ),
    "webanno": Format(webanno.read_webanno, webanno.fits_webanno, _text(webanno.webanno), ".tsv", "WebAnno TSV 3"),
    "conllu": Format(conllu.read_conllu, conllu.fits_conllu, _text(conllu.conllu), ".conllu", "CoNLL-U, CoNLL-U Plus"),
    "csv_spans": Format(
        tables.read_table, tables.fits_span_table, _text(tables.csv_spans), ".csv", "CSV, TSV: texts and spans"
    ),
    "csv_tokens": Format(
        tables.read_table, tables.fits_table, _text(tables.csv_tokens), ".csv", "CSV, TSV: a token a row, or texts"
    ),
    "spacy_iob": Format(
        spacy_iob.read_spacy_iob, spacy_iob.fits_spacy_iob, _text(spacy_iob.spacy_iob), ".iob", "spaCy's IOB lines"
    ),
    "conll": Format(
        conll.read_columns, lambda source: True, _text(conll.conll_text), ".txt", "CoNLL, with IMGID: or without"
    ),
}  # fmt: skip
"""The formats by name, in the order in which a file is tried."""


def read_posts(
    path: str | PathLike[str],
    format: str | Reader | None = None,
    *,
    words: str | Splitter | None = None,
    overlaps: Overlaps = "error",
    annotators: str = "error",
    fields: Mapping[str, str | None] | None = None,
    label_names: Sequence[str] | None = None,
    type_map: Mapping[str, str | None] | None = None,
    offsets: Offsets | None = None,
    reading: Reading | None = None,
) -> Posts:
    """Read a file, folder or pipe of posts.

    What had to be decided is logged in one line and kept in `notes` of the posts: spans that cut words, blanks at their
    ends, records without gold, and so on, with counts.

    Args:
        path: Where they are; `-` for the standard input.
        format: The name of a format of `FORMATS`; a function that reads a file, or its import path
            (`my_module.read_x`); None to go by suffix and content.
        words: How texts become words: `spaces`, a style of `mner.data.word_splitter`, or a function. None for the words
            of the file where it has any, else `spaces` (`characters` in scripts without spaces).
        overlaps: `error`, or `outer` to keep the longer of two spans that overlap.
        annotators: Of posts that several people marked differently: `error`, `first`, `majority`, or the name of one;
            `predictions` reads what a model marked in tasks of Label Studio.
        fields: Which key or column is what: `text`, `words`, `tags`, `spans`, `id`, `image`, `annotator`.
        label_names: The names of numbered tags, in order.
        type_map: New names of entity types; None drops a type.
        offsets: `characters`, `utf-16` or `bytes`; None to find out from the texts of spans.
        reading: All of these together, in their place.

    Raises:
        DataNotFoundError: If there is no such file.
        DataFormatError: If it is malformed, or its format is not found; with line or record.
    """
    reading = reading or Reading(words, overlaps, annotators, dict(fields or {}), label_names, type_map, offsets)
    if format is not None and not (isinstance(format, str) and format in FORMATS):
        return _mapped(_read_by(_reader(path, format), path), reading)
    source, notes = Source(path), Notes()
    name = format if isinstance(format, str) else find_format(source)
    return posts_of(source, FORMATS[name].read(source, reading, notes), reading, notes, name)


def read_records(path: str | PathLike[str], format: str | None = None, reading: Reading | None = None) -> list[Record]:
    """What `read_posts` makes its posts of: each annotation of each post, whoever made it.

    Raises:
        DataNotFoundError: If there is no such file.
        DataFormatError: If it is malformed, or its format is not found; with line or record.
    """
    source, notes, reading = Source(path), Notes(), reading or Reading()
    name = format if format is not None else find_format(source)
    if name not in FORMATS:
        raise MNERError(f"there is no format {name!r}; there are {', '.join(FORMATS)}")
    return prepared(source, FORMATS[name].read(source, reading, notes), reading, notes)


def find_format(source: Source) -> str:
    """The name of a file's format.

    Raises:
        DataNotFoundError: If there is no such file, or no format of a folder.
    """
    if source.path.is_dir():
        found = next((name for name in ("saved_dataset", "brat") if FORMATS[name].fits(source)), None)
        if found is None:
            raise DataNotFoundError(
                f"Expected a file, but {source} is a folder; those of brat (.ann beside .txt) and of a split that "
                " save_to_disk wrote are posts themselves"
            )
        return found
    known = next((name for name in ("spacy", "parquet", "brat") if FORMATS[name].fits(source)), None)
    if known is not None:
        return known
    if not any(source.lines):  # says what is wrong with the file as a whole
        return "conll"
    if is_json(source):
        return next(name for name, one in FORMATS.items() if name not in _NOT_JSON and one.fits(source))
    found = next(name for name, one in FORMATS.items() if one.fits(source))
    first = next(line for line in source.lines if line)
    if found == "conll" and source.suffix == ".csv" and "\t" not in first and ("," in first or ";" in first):
        advice = "Say which is which: format='csv_tokens' (or csv_spans), fields={'words': COLUMN, 'tags': COLUMN, …}."
        expected = "names of columns: sentence, word, tag; or text, start, end, label; or id, text"
        raise DataFormatError(source, 1, shown(first), expected, advice)
    return found


def format_named(name: str) -> Format:
    """A format that is written.

    Raises:
        MNERError: If there is none of that name.
    """
    if name not in FORMATS or FORMATS[name].write is None:
        known = ", ".join(name for name, one in FORMATS.items() if one.write is not None)
        raise MNERError(f"there is no format {name!r} to write; there are {known}")
    return FORMATS[name]


def write_posts(path: str | PathLike[str], posts: Sequence[Example], format: str) -> None:
    """Write posts so that `read_posts` gives them back.

    `.mner.json` in the folder keeps what was written there, which alone is replaced.

    Raises:
        DataFormatError: If there is a file that mner did not write, or that somebody changed since.
        MNERError: If there is no such format, or it cannot express a post: a word with a blank in a format of texts, no
            gold in one that has no sign for that.
    """
    target, kind = Path(path), format_named(format)
    assert kind.write is not None
    if not (kind.suffix or target.suffix):  # a folder of files, which looks after itself
        kind.write(target, posts)
        return
    with output_folder(target.parent) as draft:
        kind.write(draft / target.name, posts)


_NOT_JSON = ("spacy", "parquet", "saved_dataset", "webanno", "conllu", "csv_tokens", "csv_spans", "spacy_iob", "conll")


def _mapped(posts: Posts, reading: Reading) -> Posts:
    if reading.type_map is None:
        return posts
    notes = Notes()
    return Posts(map_types(posts, reading.type_map, notes), posts.scheme, posts.format, notes.lines())


def _reader(path: object, format: str | Reader) -> Reader:
    if not isinstance(format, str):
        return format
    module, _, name = format.rpartition(".")
    try:
        found: Reader = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        expected = f"one of {', '.join(FORMATS)}, or the import path of a function (my_module.read_x)"
        raise DataFormatError(path, None, f"the format {format!r} ({error})", expected) from error
    return found


def _read_by(reader: Reader, path: str | PathLike[str]) -> Posts:
    read = reader(fspath(path))
    posts = read if isinstance(read, Posts) else list(read)
    for post in posts:
        if not isinstance(post, Example):
            found = f"{type(post).__name__} from {getattr(reader, '__name__', reader)}"
            raise DataFormatError(path, None, found, "a list of mner.data.Example")
    ids = [post.id for post in posts]
    if len(set(ids)) < len(ids):
        twice = next(id_ for id_ in ids if ids.count(id_) > 1)
        raise DataFormatError(path, None, f"the id {twice!r} twice", "each id once")
    if isinstance(posts, Posts):
        return posts
    scheme = SchemeOf(path)
    for post in posts:
        for tag in post.tags or ():
            scheme.check(f"post {post.id!r}", tag)
    return scheme.posts(posts)
