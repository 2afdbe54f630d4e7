"""Files of word vectors: GloVe's text, word2vec's text and binary, fastText's text; gzipped or not."""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from itertools import chain, takewhile
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from mner.data.formats.lines import shown
from mner.errors import DataFormatError, DataNotFoundError

log = logging.getLogger(__name__)

Vector = NDArray[np.float32]
_Path = str | PathLike[str]
_Row = tuple[int | None, str, bytes]

_NUMERIC = b"0123456789+-.eE "
_LONGEST_WORD, _LONGEST_LINE = 1 << 14, 1 << 20  # bytes; what is longer is no such file
_CUT_OFF = "Was the download cut off?"


@dataclass(slots=True)
class WordVectors:
    """Some rows of a file of word vectors.

    Attributes:
        width: Numbers of a vector.
        rows: Rows of the whole file.
        vectors: Word to vector (width,), of the words that were asked for and of the most frequent ones.
        frequent: The words of the file's first rows, the most frequent words of what the vectors were trained on.
    """

    width: int
    rows: int = 0
    vectors: dict[str, Vector] = field(default_factory=dict)
    frequent: list[str] = field(default_factory=list)


def read_vectors(path: _Path, wanted: Container[str], most_frequent: int = 0) -> WordVectors:
    r"""Read the vectors of some words.

    The format is found by content:

    - text: a line `word number … number` for each word, parted by single spaces; GloVe's. A first line
      `rows width` (word2vec, fastText) is taken for what it is.
    - word2vec's binary: that first line, then for each word the word, a space, and `width` 4-byte floats.

    The form of every row is checked, also of those that are not kept. A word that is there twice has its first vector.

    Args:
        path: The file; gzip is undone.
        wanted: Words whose vectors are kept.
        most_frequent: Keep the first so many rows too. These files are sorted by frequency.

    Raises:
        DataNotFoundError: If there is no such file.
        DataFormatError: If a row is malformed, has another width or a number that is not finite, or if rows are
            missing; with the line.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "vectors.txt")
    ...     with open(path, "w") as file:
    ...         _ = file.write("the 0.5 1\nLagos 2 -1.5\n")
    ...     found = read_vectors(path, {"Lagos"})
    >>> found.width, found.rows, found.vectors
    (2, 2, {'Lagos': array([ 2. , -1.5], dtype=float32)})
    """
    try:
        with _opened(path) as file:
            first = file.readline(_LONGEST_LINE)
            header = _header(path, first)
            if header is not None and _is_binary(file):
                rows = _binary_rows(path, file, *header)
                return _kept(path, rows, _from_bytes, header[1], wanted, most_frequent)
            width = _width(path, first) if header is None else header[1]
            rows = _text_rows(path, file, first if header is None else None, width)
            found = _kept(path, rows, _from_text, width, wanted, most_frequent)
    except FileNotFoundError:
        raise DataNotFoundError(f"No file {path}; expected word vectors (GloVe or word2vec)") from None
    except IsADirectoryError:
        raise DataNotFoundError(f"Expected a file of word vectors, but {path} is a folder") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataFormatError(path, None, f"broken gzip ({error})", "a whole file", "Download it again.") from None
    if header is not None and found.rows != header[0]:
        raise DataFormatError(path, found.rows + 1, f"{found.rows} rows", f"{header[0]}, as line 1 says", _CUT_OFF)
    return found


def _opened(path: _Path) -> BinaryIO:
    with Path(path).open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    opened: Any = gzip.open(path, "rb") if zipped else Path(path).open("rb")
    stream: BinaryIO = opened
    return stream


def _header(path: _Path, line: bytes) -> tuple[int, int] | None:
    """(rows, width) of a first line with two whole numbers and nothing else."""
    fields = line.split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields):
        return None
    rows, width = map(int, fields)
    if rows < 1 or width < 1:
        raise DataFormatError(path, 1, f"{rows} rows of width {width}", "at least 1 of each")
    return rows, width


def _is_binary(file: BinaryIO) -> bool:
    """Whether what follows has bytes that no text has; floats always do."""
    start: bytes = file.peek(1 << 12)  # type: ignore[attr-defined]  # both kinds of files are buffered
    return any(byte < 32 and byte not in b"\t\r\n" for byte in start[: 1 << 12])


def _width(path: _Path, line: bytes) -> int:
    """How many numbers the first row has after its word, which may have spaces."""
    fields = line.rstrip().split(b" ")
    count = len(list(takewhile(_is_number, reversed(fields[1:]))))
    if count < 1 or b"" in fields:
        advice = "GloVe's and word2vec's files are read, as text or binary, gzipped or not."
        raise DataFormatError(path, 1, _shown(line), "a word and the numbers of its vector", advice)
    return count


def _text_rows(path: _Path, file: BinaryIO, first: bytes | None, width: int) -> Iterator[_Row]:
    """Line, word and numbers (still as text) of each row; `first` is a row that was read already."""
    lines = chain([] if first is None else [first], iter(lambda: file.readline(_LONGEST_LINE), b""))
    for number, line in enumerate(lines, start=1 if first is not None else 2):
        parts = line.rstrip(b" \r\n").rsplit(b" ", width)
        word, values = parts[0], b" ".join(parts[1:])
        before, _, end = word.rpartition(b" ")
        more = bool(before) and _is_number(end)  # one number too many is no part of a word
        if len(parts) != width + 1 or b"" in parts or more or values.translate(None, _NUMERIC):
            expected = f"a word and {width} numbers, parted by single spaces"
            raise DataFormatError(path, number, _shown(line), expected, "Is the file cut off, or mixed with another?")
        try:
            yield number, word.decode(), values
        except UnicodeDecodeError as error:
            found = f"the byte 0x{word[error.start]:02x}, which is not UTF-8"
            advice = "Convert the file, for instance `iconv -f LATIN1 -t UTF-8`."
            raise DataFormatError(path, number, found, "text in UTF-8", advice) from None


def _binary_rows(path: _Path, file: BinaryIO, rows: int, width: int) -> Iterator[_Row]:
    """No line, word and floats (still as bytes) of each row."""
    foreign = 0
    for row in range(1, rows + 1):
        letters = list(takewhile(lambda byte: byte not in (b" ", b""), (file.read(1) for _ in range(_LONGEST_WORD))))
        raw = file.read(4 * width)
        if len(letters) == _LONGEST_WORD or len(raw) < 4 * width:
            found = f"no whole row at row {row}"
            raise DataFormatError(path, None, found, f"{rows} rows of {width} floats, as the start says", _CUT_OFF)
        word = b"".join(letters).lstrip(b"\n")
        try:
            yield None, word.decode(), raw
        except UnicodeDecodeError:
            foreign += 1  # such files often have words that were cut inside a character, which no post can have
            yield None, "", raw
    if file.read(2) not in (b"", b"\n"):
        raise DataFormatError(path, None, f"more than {rows} rows", f"{rows} rows, as the start says")
    if foreign:
        log.warning("%s: %d of %d words are not UTF-8 and were left out", path, foreign, rows)


def _kept(
    path: _Path,
    rows: Iterator[_Row],
    parse: Callable[[bytes], Vector],
    width: int,
    wanted: Container[str],
    most_frequent: int,
) -> WordVectors:
    found = WordVectors(width)
    for number, word, raw in rows:
        found.rows += 1
        frequent = found.rows <= most_frequent
        if not word or word in found.vectors or not (frequent or word in wanted):
            continue
        try:
            vector = parse(raw)
        except ValueError as error:
            raise DataFormatError(path, number, f"{error} in the vector of {word!r}", "numbers") from None
        if not np.isfinite(vector).all():
            raise DataFormatError(path, number, f"a number that is not finite in the vector of {word!r}", "numbers")
        found.vectors[word] = vector
        if frequent:
            found.frequent.append(word)
    return found


def _from_text(values: bytes) -> Vector:
    with np.errstate(over="ignore"):  # infinite is what is asked about next
        return np.array([float(value) for value in values.split(b" ")], dtype=np.float32)


def _from_bytes(values: bytes) -> Vector:
    return np.frombuffer(values, dtype="<f4").astype(np.float32)


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _shown(line: bytes) -> str:
    return shown(line.decode(errors="replace").rstrip("\r\n"))
