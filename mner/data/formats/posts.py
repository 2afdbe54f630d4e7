"""A file of posts in any format that is read, found by its suffix, or read by a function of the user's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path

from mner.data.examples import Example, Posts
from mner.data.formats.conll import CONLL_SUFFIXES, read_conll
from mner.data.formats.json_lines import JSON_SUFFIXES, read_jsonl
from mner.data.formats.schemes import SchemeOf
from mner.errors import DataFormatError

Reader = Callable[[str], list[Example]]
"""Reads a file of posts."""

FORMATS: dict[str, Reader] = {"conll": read_conll, "json_lines": read_jsonl}


def read_posts(path: str | PathLike[str], format: str | Reader | None = None) -> Posts:
    """Read a file of posts.

    Args:
        path: The file.
        format: `conll` or `json_lines`; a function that reads a file, or its import path (`my_module.read_x`); None to
            go by the suffix: `.txt` or `.conll`, `.jsonl` or `.json`.

    Raises:
        DataNotFoundError: If there is no such file.
        DataFormatError: If the suffix or the format is another, the file is malformed, or the function gives no posts.
    """
    if format is not None:
        return _read_by(_reader(path, format), path)
    suffix = Path(path).suffix.lower()
    if suffix in CONLL_SUFFIXES:
        return read_conll(path)
    if suffix in JSON_SUFFIXES:
        return read_jsonl(path)
    expected = f"{' or '.join(CONLL_SUFFIXES)} for CoNLL, {' or '.join(JSON_SUFFIXES)} for JSON lines"
    advice = "Rename the file, or say how it is read: `format`, the name of a format or a function of yours."
    raise DataFormatError(path, None, f"the suffix {suffix!r}", expected, advice)


def _reader(path: object, format: str | Reader) -> Reader:
    if not isinstance(format, str):
        return format
    if format in FORMATS:
        return FORMATS[format]
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
