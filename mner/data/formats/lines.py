"""Text files line by line: what the readers of posts, texts and predictions share."""

from __future__ import annotations

import json
import sys
from functools import cached_property
from os import PathLike
from pathlib import Path
from sys import intern
from typing import Any

from mner.errors import DataFormatError, DataNotFoundError
from mner.labels import split_tag


class Source:
    """A file, folder or pipe to read from, or rows in memory, whose content is read once.

    Args:
        path: Where it is; `-` for the standard input.

    Attributes:
        path: Where it is.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)

    def __str__(self) -> str:
        return str(self.path)

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def suffix(self) -> str:
        """The suffix of its name, in small letters."""
        return self.path.suffix.lower()

    @property
    def stem(self) -> str:
        """The name that posts without ids are numbered behind."""
        return self.path.stem if self.path.suffix or self.path.is_dir() else "post"

    @cached_property
    def raw(self) -> bytes:
        """Its bytes.

        Raises:
            DataNotFoundError: If there is no such file, or it is a folder.
        """
        try:
            return sys.stdin.buffer.read() if str(self.path) == "-" else self.path.read_bytes()
        except FileNotFoundError:
            raise DataNotFoundError(f"No file {self}; check the path (it is relative to {Path.cwd()})") from None
        except IsADirectoryError:
            raise DataNotFoundError(f"Expected a file, but {self} is a folder") from None

    @cached_property
    def text(self) -> str:
        """Its text, without a byte order mark.

        Raises:
            DataFormatError: If it is not UTF-8.
        """
        try:
            return self.raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            found = f"the byte 0x{error.object[error.start]:02x}, which is not UTF-8"
            advice = "Convert the file, for instance `iconv -f LATIN1 -t UTF-8` (or `-f UTF-16`, as its encoding is)."
            raise DataFormatError(self, line, found, "text in UTF-8", advice) from None

    @cached_property
    def lines(self) -> list[str]:
        r"""Its lines, without `\n` or `\r\n` at their ends.

        Raises:
            DataFormatError: If it has no content but white space.
        """
        lines = [line.removesuffix("\r") for line in self.text.split("\n")]
        if not self.text.strip():
            raise DataFormatError(self, 1, "an empty file", "at least one post or text", "Was the download cut off?")
        return lines[:-1] if not lines[-1] else lines

    def fault(self, place: int | str, found: str, expected: str, advice: str = "") -> DataFormatError:
        """The error of a line (a number) or of a record (its name)."""
        if isinstance(place, int):
            return DataFormatError(self, place, found, expected, advice)
        return DataFormatError(f"{self}, {place}", None, found, expected, advice)


def read_lines(path: str | PathLike[str]) -> list[str]:
    r"""The lines of a UTF-8 text file. A byte order mark and `\r\n` are taken off.

    Only `\n` ends a line: `str.splitlines` would also cut at characters that occur as words of tweets (U+0085, U+2028).

    Raises:
        DataNotFoundError: If there is no such file.
        DataFormatError: If the file is not UTF-8 or has no content.
    """
    return (path if isinstance(path, Source) else Source(path)).lines


def json_object(path: str | PathLike[str], number: int, line: str) -> dict[str, Any]:
    """The JSON object on one line.

    Raises:
        DataFormatError: If the line is not one JSON object, or holds text that UTF-8 cannot express.
    """
    expected = "one JSON object a line"
    try:
        value = DECODER.decode(line)
    except json.JSONDecodeError as error:
        advice = "Write one object a line, without line breaks inside, and no brackets or commas around the lines."
        found = f"{shown(line)} ({error.msg}, column {error.colno})"
        raise DataFormatError(path, number, found, expected, advice) from None
    except (ValueError, RecursionError) as error:  # a key twice, a number of thousands of digits, a thousand brackets
        raise DataFormatError(path, number, f"{shown(line)} ({error})", expected) from None
    if not isinstance(value, dict):
        advice = "Write each element of the list on its own line." if isinstance(value, list) else ""
        raise DataFormatError(path, number, f"{json_type(value)} ({shown(line)})", expected, advice)
    if "\\u" in line:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            advice = "Such an escape comes from text cut inside an emoji; remove it."
            raise DataFormatError(path, number, "half of a surrogate pair", "text", advice) from None
        except RecursionError as error:  # writing goes a little deeper than reading
            raise DataFormatError(path, number, f"{shown(line)} ({error})", expected) from None
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        # Of equal keys Python keeps the last; the others, words or tags, would be lost without a word.
        key = next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place]))
        raise ValueError(f"the key {key!r} twice in one object")
    return record


DECODER = json.JSONDecoder(object_pairs_hook=_each_once)


def text_field(path: str | PathLike[str], number: int, record: dict[str, Any], key: str) -> str:
    """A field that must be a string with content.

    Raises:
        DataFormatError: If it is missing, of another type or empty.
    """
    if key not in record:
        raise DataFormatError(path, number, f"no {key!r} (the keys are {sorted(record)})", f"a string {key!r}")
    value = record[key]
    if not isinstance(value, str):
        advice = f'Put it in quotes: "{value}".' if isinstance(value, int) and not isinstance(value, bool) else ""
        raise DataFormatError(path, number, f"{json_type(value)} as {key!r}", "a string", advice)
    if not value:
        raise DataFormatError(path, number, f"an empty {key!r}", "a string with content")
    return value


def string_list(path: str | PathLike[str], number: int, record: dict[str, Any], key: str) -> tuple[str, ...]:
    """A field that must be a list of strings.

    Raises:
        DataFormatError: If it is missing or of another type.
    """
    if key not in record:
        raise DataFormatError(path, number, f"no {key!r} (the keys are {sorted(record)})", f"a list of strings {key!r}")
    value = record[key]
    if not isinstance(value, list):
        raise DataFormatError(path, number, f"{json_type(value)} as {key!r}", "a list of strings")
    for element in value:
        if not isinstance(element, str):
            raise DataFormatError(path, number, f"{json_type(element)} among {key!r}", "a list of strings")
    return tuple(map(intern, value))  # the same few words again and again: half of the memory of a large file


def check_tag(path: str | PathLike[str], number: int, tag: str, known: set[str]) -> None:
    """Refuse what is no BIO tag; `known` keeps those that passed, so that each is checked once.

    Raises:
        DataFormatError: With the line.
    """
    if tag in known:
        return
    try:
        split_tag(tag)
    except ValueError:
        pass
    else:
        if not any(character.isspace() for character in tag):
            known.add(tag)
            return
    advice = "Convert other schemes (BIOES, IO) to BIO first."
    raise DataFormatError(path, number, f"the tag {shown(tag)}", "O, B-TYPE or I-TYPE", advice)


class UniqueIds:
    """Ids seen in a file, each allowed once."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = path
        self._places: dict[str, int | str] = {}

    def add(self, id_: str, place: int | str) -> None:
        """Take note of an id, at a line (a number) or in a record (its name).

        Raises:
            DataFormatError: If it was there before; it names both places.
        """
        first = self._places.setdefault(id_, place)
        if first != place:
            found = f"the id {id_!r} again, after {f'line {first}' if isinstance(first, int) else first}"
            advice = "Remove one of the two posts, or give it another id."
            raise Source(self.path).fault(place, found, "each id once in a file", advice)


def shown(text: str, width: int = 60) -> str:
    """`text` in quotes, cut to `width` characters, for messages."""
    return repr(text if len(text) <= width else text[: width - 1] + "…")


def json_type(value: object) -> str:
    """What JSON calls the type of `value`, for messages.

    >>> json_type(None), json_type(3), json_type([])
    ('null', 'a number', 'a list')
    """
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    names = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
