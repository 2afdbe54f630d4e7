"""brat's standoff format: `.ann` files beside `.txt` files, in a folder (each a post) or one pair (each line a post).

Source: https://brat.nlplab.org/standoff.html
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from mner.data.examples import Example
from mner.data.formats.joined import joined
from mner.data.formats.lines import Source, shown
from mner.data.formats.offsets import to_characters
from mner.data.formats.records import Mark, Notes, Reading, Record
from mner.errors import DataNotFoundError, MNERError
from mner.files import name_as_text, output_folder, whole

_OTHERS = {
    "R": "relations", "E": "events", "A": "attributes", "M": "attributes", "N": "normalisations", "#": "notes",
    "*": "equivalences", "!": "unknown lines",
}  # fmt: skip


def fits_brat(source: Source) -> bool:
    """Whether it is an .ann file, a .txt file with one beside it, or a folder with some."""
    if source.path.is_dir():
        return next(source.path.rglob("*.ann"), None) is not None
    beside = source.path.with_suffix(".ann") if source.suffix == ".txt" else source.path
    return beside.suffix == ".ann" and beside.is_file()


def read_brat(source: Source, reading: Reading, notes: Notes) -> list[Record]:
    """Records of a folder, one for each `.txt` file, or of one pair of files, one for each line of text.

    Of discontinuous spans the whole stretch is read. Relations, events, attributes and notes are counted. A span over
    the end of a line joins two lines to one post.
    """
    if source.path.is_dir():
        texts = sorted(source.path.rglob("*.txt"))
        without = next((a for a in sorted(source.path.rglob("*.ann")) if not a.with_suffix(".txt").is_file()), None)
        if without is not None:
            raise DataNotFoundError(f"Expected the text of {without} in {without.stem}.txt beside it; it is missing")
        records = [_document(Source(text), notes, text.relative_to(source.path)) for text in texts]
        for record in records:
            record.id = name_as_text(str(record.place).removesuffix(".txt"))
        return records
    text = source.path.with_suffix(".txt")
    if not text.is_file():
        raise DataNotFoundError(f"Expected the text of {source} in {text.name} beside it, which is not there")
    document = _document(Source(text), notes, Path(text.name))
    to_characters(Source(source.path.with_suffix(".ann")), [document], reading.offsets, notes)
    return list(_lines(document, notes))


def _document(text: Source, notes: Notes, name: Path) -> Record:
    annotations = Source(text.path.with_suffix(".ann"))
    record = Record(name.as_posix(), text=text.text)
    if annotations.path.is_file():
        record.marks = list(_marks(annotations, notes))
    return record


def _marks(source: Source, notes: Notes) -> Iterator[Mark]:
    for number, line in enumerate(source.text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        if line[0] in _OTHERS:
            notes.add(f"{_OTHERS[line[0]]}, not read")
            continue
        cells = line.split("\t")
        type_, _, places = cells[1].partition(" ") if len(cells) > 1 else ("", "", "")
        pieces = [piece.split(" ") for piece in places.split(";")]
        if line[0] != "T" or not type_ or not all(len(p) == 2 and p[0].isdigit() and p[1].isdigit() for p in pieces):
            expected = "T<number><TAB><type> <start> <end><TAB><text>, or one of brat's other kinds of line"
            raise source.fault(number, shown(line), expected)
        notes.add("discontinuous spans, read from their first to their last character", len(pieces) > 1)
        own = cells[2] if len(cells) > 2 and len(pieces) == 1 else None
        yield Mark(int(pieces[0][0]), int(pieces[-1][1]), type_, own)


def _lines(document: Record, notes: Notes) -> Iterator[Record]:
    """The lines of a document, as posts."""
    text, marks = document.text or "", list(document.marks or ())
    start = number = 0
    while start < len(text):
        number += 1
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        while any(mark.start < end < mark.end for mark in marks):
            notes.add("line ends within a span, so that two lines are one post")
            following = text.find("\n", end + 1)
            end = len(text) if following < 0 else following
        line = text[start:end].removesuffix("\r")
        if line.strip():
            own = [m._replace(start=m.start - start, end=m.end - start) for m in marks if start <= m.start < end]
            yield Record(f"post {number}", text=line, marks=own)
        start = end + 1


def write_brat(path: Path, posts: Sequence[Example]) -> None:
    """Posts as a folder of files named by their ids, or, where the name ends in .ann, as one pair of a line a post."""
    if path.suffix == ".ann":
        text = ""
        lines: list[str] = []
        for post in posts:
            if post.tags is None:
                raise MNERError(f"Post {post.id!r} has no gold; in one .ann file it would be a post without entities")
            text, lines = _added(post, text, lines)
        for place, content in ((path.with_suffix(".txt"), text), (path, "".join(lines))):
            with whole(place) as stream:
                stream.write(content.encode())
        return
    with output_folder(path) as folder:
        for post in posts:
            name = PurePosixPath(post.id)
            if name.is_absolute() or ".." in name.parts or str(name) != post.id or "\0" in post.id:
                raise MNERError(f"The id {post.id!r} cannot be the name of a file; brat has no other place for ids")
            place = folder / f"{post.id}.txt"
            place.parent.mkdir(parents=True, exist_ok=True)
            text, lines = _added(post, "", [])
            place.write_bytes(text.removesuffix("\n").encode())
            if post.tags is not None:
                (folder / f"{post.id}.ann").write_bytes("".join(lines).encode())


def _added(post: Example, text: str, lines: list[str]) -> tuple[str, list[str]]:
    own, marks = joined(post)
    new = [
        f"T{len(lines) + place}\t{m.type} {len(text) + m.start} {len(text) + m.end}\t{m.text}\n"
        for place, m in enumerate(marks, start=1)
    ]
    return f"{text}{own}\n", [*lines, *new]
