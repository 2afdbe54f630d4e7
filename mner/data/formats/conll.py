"""CoNLL files, a word and its tag a line: with `IMGID:` lines as the public Twitter data, or any columns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from sys import intern
from typing import NamedTuple

from mner.data.examples import Example, Posts
from mner.data.formats.assemble import posts_of
from mner.data.formats.images import image_key
from mner.data.formats.json_document import is_json
from mner.data.formats.lines import Source, shown
from mner.data.formats.records import Notes, Reading, Record
from mner.data.formats.schemes import Scheme, SchemeOf, from_iob2, split_any_tag
from mner.errors import DataFormatError
from mner.files import in_folder
from mner.labels import repair

CONLL_SUFFIXES = (".txt", ".conll")
IMGID = "IMGID:"
# What CoNLL-2003 and CoNLL-2000 have in the column before the entities.
_CHUNKS = frozenset("NP VP PP ADVP ADJP SBAR PRT CONJP INTJ LST UCP".split())
_COMMENT = re.compile(r"#\s+\S|#\s*[\w.]+\s*=")  # a `#` alone is a word whose tag is missing
_DOCSTART = re.compile(r"-DOCSTART-(?:[ \t]|$)")
_ID = re.compile(r"#\s*(?:sent_)?id\b\s*[=:]?\s*(\S+)")
_IMAGE = re.compile(r"#\s*image(?:_id)?\s*[=:]\s*(\S.*)")

Lines = Sequence[tuple[int, str]]


class Shape(NamedTuple):
    """How the lines of a file are made.

    Attributes:
        separator: A tab, or "" for runs of spaces.
        width: Number of columns.
        word: Column of the words.
        tag: Column of the tags.
    """

    separator: str
    width: int
    word: int
    tag: int


def read_conll(path: str | PathLike[str]) -> Posts:
    r"""Read posts from a CoNLL file, such as those of the public Twitter-2015 and Twitter-2017 data.

    A post is a line `IMGID:<id>`, then a line `token<TAB>tag` for each word, then a blank line. The image id is the
    post's id too; a second post of the same image is `<id>#2`. A file without any `IMGID:` line holds posts without
    images, numbered or with the ids of comments (`# id = 7`). A file with a tab is split at tabs alone, since a word
    may be a no-break space; one without, at spaces. The tags are in the last column or in the first. `-DOCSTART-` lines
    and comments are passed. Tags in IOB1, IOBES or BILOU become IOB2 (`mner.data.formats.schemes`); a stray `I-` among
    `B-` is kept as it is.

    Raises:
        DataNotFoundError: If there is no such file.
        DataFormatError: For a wrong tag, a missing or additional column, a post without image id among others that have
            one, or without words, the same post of an image twice, a file that is empty or not UTF-8; with the line.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "train.txt")
    ...     with open(path, "w", encoding="utf-8") as file:
    ...         _ = file.write("IMGID:1\nAnna\tB-PER\nvisits\tO\nLagos\tB-LOC\n")
    ...     (post,) = read_conll(path)
    >>> post.image_id, post.words, post.tags
    ('1', ('Anna', 'visits', 'Lagos'), ('B-PER', 'O', 'B-LOC'))
    """
    source, notes = path if isinstance(path, Source) else Source(path), Notes()
    return posts_of(source, read_columns(source, Reading(), notes), Reading(), notes, "conll")


def read_columns(source: Source, reading: Reading, notes: Notes) -> list[Record]:
    """The records of a file of columns."""
    lines = list(enumerate(source.lines, start=1))
    with_ids = any(is_id_line(line) for _, line in lines)
    if is_json(source):
        expected = f"'{IMGID}<id>', or a word and its tag a line"
        advice = "JSON lines are read from files named .jsonl."
        raise DataFormatError(source, 1, shown(source.lines[0]), expected, advice)
    shape = find_shape(source, [(n, line) for n, line in lines if line and not is_id_line(line)], reading)
    records, seen, scheme = [], Counter[str](), SchemeOf(source)
    words_of: dict[tuple[str, tuple[str, ...]], int] = {}
    ends = [_ends(line, shape) or _DOCSTART.match(line) is not None for line in source.lines]
    empty = sum("\t" in line and _ends(line, shape) for line in source.lines)
    notes.add("rows of empty cells, read as blank lines", empty)
    for block in post_blocks(["" if end else line for line, end in zip(source.lines, ends, strict=True)]):
        record = _post(source, block, shape, with_ids, scheme, notes)
        if record is None:
            continue
        if with_ids and record.id is not None and record.words is not None:
            image, number = record.id, int(record.place)
            first = words_of.setdefault((image, tuple(record.words)), number)
            if first != number:
                found = f"the id {image!r} again, after line {first}, before the same words"
                raise DataFormatError(source, number, found, "each post once", "Remove one of the two.")
            seen[image] += 1
            if seen[image] > 1:
                record.id = f"{image}#{seen[image]}"
                notes.add("posts of an image that has another one, numbered ID#2 …")
        records.append(record)
    if not with_ids and any(record.id is None for record in records):
        for record in records:
            record.id = None
    return records


def _post(source: Source, block: Lines, shape: Shape, with_ids: bool, scheme: SchemeOf, notes: Notes) -> Record | None:
    first, line = block[0]
    record = Record(first)
    if is_id_line(line):
        id_ = line.removeprefix(IMGID).strip(" ")
        if not id_:
            raise DataFormatError(source, first, f"{shown(line)}, without an id", f"'{IMGID}<id>'")
        record.id, record.image_ids = id_, (id_,)
        block = block[1:]
    words: list[str] = []
    tags: list[str] = []
    for number, line in block:
        if _is_comment(line, shape):
            if not with_ids and (found := _ID.match(line)):
                record.id = found[1]
            elif not with_ids and (found := _IMAGE.match(line)):
                record.image_ids = (found[1].strip(),)
            continue
        if with_ids and record.id is None:
            expected = f"'{IMGID}<id>' as the first line of a post, as others of the file have one"
            raise DataFormatError(source, number, shown(line), expected, "One blank line ends a post.")
        word, tag = _word_and_tag(source, number, line, shape, notes)
        scheme.check(number, tag)
        words.append(intern(word))  # the same few words again and again: half of the memory of a large file
        tags.append(intern(tag))
    if not words and with_ids and record.id is not None:
        advice = "Remove the post, or the blank line after its id."
        raise DataFormatError(source, first, f"post {record.id!r} without words", "at least one word", advice)
    record.words, record.tags = words, tags
    return record if words else None


def write_conll(path: str | PathLike[str], examples: Iterable[Example], scheme: Scheme = "IOB2") -> None:
    """Write posts so that `read_conll` gives them back. Context is not written.

    Posts without images, all of them, have their ids in comments, `# id = 7`.

    `.mner.json` in the folder keeps what was written there, which alone is replaced.

    Raises:
        DataFormatError: If there is a file that mner did not write, or that somebody changed since.
        ValueError: If a post cannot be expressed; see `conll_text`.
    """
    content = conll_text(examples, scheme)
    with in_folder(path) as file:
        file.write(content.encode())


def conll_text(examples: Iterable[Example], scheme: Scheme = "IOB2") -> str:
    """What `write_conll` writes.

    Raises:
        ValueError: If a post cannot be expressed: no tags, an image id that is not its id, several images, no image
            where others have one, a tab or line break in it.
    """
    posts = list(examples)
    bare = all(post.image_id is None for post in posts)
    seen = Counter[str]()
    blocks = []
    for post in posts:
        if post.tags is None or len(post.tags) != len(post.words) or not post.words:
            raise ValueError(f"Expected words and a tag for each in post {post.id!r}; or use json_lines")
        if post.more_images:
            raise ValueError(f"CoNLL has one image a post, but {post.id!r} has several; use json_lines")
        name = post.id
        if not bare:
            if post.image_id is None:
                raise ValueError(
                    f"CoNLL has an image for each post or for none, but {post.id!r} has none; use json_lines"
                )
            base, _, number = post.id.rpartition("#")
            again = number == str(seen[base] + 1) and seen[base] > 0
            name = base if again else post.id
            if image_key(post.image_id) != image_key(name):
                raise ValueError(
                    f"CoNLL has one id a post, but post {post.id!r} has image {post.image_id!r}; use json_lines"
                )
            seen[name] += 1
        fields = (post.id, *post.words, *post.tags)
        good = all(field and "\t" not in field and "\n" not in field for field in fields)
        if not good or post.id != post.id.strip(" \r") or (bare and len(post.id.split()) != 1):
            raise ValueError(f"Post {post.id!r} has an empty field or a tab or line break in one; use json_lines")
        tags = post.tags if scheme == "IOB2" else from_iob2(repair(post.tags), scheme)
        rows = zip(post.words, tags, strict=True)
        head = f"# id = {name}\n" if bare else f"{IMGID}{name}\n"
        blocks.append("".join([head, *(f"{word}\t{tag}\n" for word, tag in rows)]))
    return "\n".join(blocks)


def is_id_line(line: str) -> bool:
    """Whether a line gives a post's id."""
    return line.startswith(IMGID) and "\t" not in line  # with a tab it is a word


def post_blocks(lines: list[str]) -> Iterator[list[tuple[int, str]]]:
    """The numbered lines of each post: a blank line, or an `IMGID:` line, begins the next."""
    block: list[tuple[int, str]] = []
    for number, line in enumerate(lines, start=1):
        if block and (not line or is_id_line(line)):
            yield block
            block = []
        if line:
            block.append((number, line))
    if block:
        yield block


# The columns


def find_shape(source: Source, lines: Lines, reading: Reading) -> Shape:
    """How the lines of a file are made.

    Raises:
        DataFormatError: If there are two columns of tags, or one that was named is not there.
    """
    rows = [(number, line) for number, line in lines if line.strip() and not _DOCSTART.match(line)]
    plain = [(number, line) for number, line in rows if not _COMMENT.match(line)] or rows
    separator = "\t" if any("\t" in line for _, line in plain) else ""
    split = [(number, line.split("\t") if separator else _fields(line)) for number, line in plain]
    widths = Counter(len(row) for _, row in split)
    most = max(widths.values(), default=0)
    tied = [width for width, count in widths.items() if count == most]
    width = (max(tied) if separator else min((w for w in tied if w > 1), default=1)) if tied else 2
    of_width = [(number, row) for number, row in split if len(row) == width]
    last = sum(_is_tag(row[-1]) for _, row in of_width)
    tag = width - 1 if last >= sum(_is_tag(row[0]) for _, row in of_width) else 0
    word = 1 if tag == 0 else 0
    if width > 2 and tag != 0 and _is_numbering(of_width):
        word = 1
    given = {what: int(name) - 1 for what in ("words", "tags") if (name := reading.fields.get(what))}
    for what, column in given.items():
        if not 0 <= column < width:
            raise source.fault(of_width[0][0], f"{width} columns", f"{what} in column {column + 1}")
    word, tag = given.get("words", word), given.get("tags", tag)
    if "tags" not in given and width > 2:
        _refuse_two(source, of_width, word, tag)
    return Shape(separator, width, word, tag)


def _fields(line: str) -> list[str]:
    return [field for field in line.split(" ") if field]


def _is_tag(cell: str) -> bool:
    try:
        split_any_tag(cell)
    except ValueError:
        return False
    return True


def _is_numbering(rows: Sequence[tuple[int, list[str]]]) -> bool:
    """Whether the first column counts the words of each post from 1."""
    last_line, expected = -1, 1
    for number, row in rows:
        expected = 1 if number != last_line + 1 and row[0] == "1" else expected
        if row[0] != str(expected):
            return False
        last_line, expected = number, expected + 1
    return len(rows) > 1


def _refuse_two(source: Source, rows: Sequence[tuple[int, list[str]]], word: int, tag: int) -> None:
    for column in range(len(rows[0][1])):
        cells = {row[column] for _, row in rows} if column not in (word, tag) else {""}
        types = {split_any_tag(cell)[1] for cell in cells if _is_tag(cell)} - {""}
        if all(map(_is_tag, cells)) and types and not types <= _CHUNKS:
            found = f"tags in column {column + 1} and in column {tag + 1} (gold and predicted? nested?)"
            advice = f"Say which is meant: fields={{'tags': '{column + 1}'}}."
            raise source.fault(rows[0][0], found, "one column of tags", advice)


def _ends(line: str, shape: Shape) -> bool:
    """Whether a line is blank: of spaces, or, as spreadsheets write an empty row, of tabs."""
    return not line.strip(" \t") and (not shape.separator or "\t" in line)


def _is_comment(line: str, shape: Shape) -> bool:
    """Whether a line is a comment: `# text = …`. A word `#` has as many columns as others, be its tab lost or not."""
    if not _COMMENT.match(line) or (shape.separator and "\t" in line):
        return False
    cells = _fields(line)
    return len(cells) != shape.width or not _is_tag(cells[shape.tag])


def _word_and_tag(source: Source, number: int, line: str, shape: Shape, notes: Notes) -> tuple[str, str]:
    columns = line.split("\t") if shape.separator else _fields(line)
    more = len(columns) - shape.width
    if more > 0 and not shape.separator and shape.word == 0 and _is_tag(columns[-1]):
        columns[: more + 1] = [" ".join(columns[: more + 1])]
        more = 0
    elif more > 0 and not shape.separator and (shape.word, shape.tag, shape.width) == (1, 0, 2) and _is_tag(columns[0]):
        columns[1:] = [" ".join(columns[1:])]
        more = 0
    if more or shape.width < 2:
        found = f"{len(columns)} column{'s' * (len(columns) > 1)} in {shown(line)}"
        advice = "Columns are separated by one tab, posts by a line with nothing in it."
        of = "two columns, word<TAB>tag" if shape.width <= 2 else f"{shape.width} columns, as in the other lines"
        raise DataFormatError(source, number, found, of, advice)
    word, tag = columns[shape.word], columns[shape.tag]
    if not word:
        raise DataFormatError(source, number, f"no word before the tab in {shown(line)}", "word<TAB>tag")
    notes.add("words that hold blanks", " " in word)
    return word, tag
