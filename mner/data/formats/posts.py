"""A file of posts in any format that is read, found by its suffix."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from mner.data.examples import Posts
from mner.data.formats.conll import CONLL_SUFFIXES, read_conll
from mner.data.formats.json_lines import JSON_SUFFIXES, read_jsonl
from mner.errors import DataFormatError


def read_posts(path: str | PathLike[str]) -> Posts:
    """Read a file of posts; its suffix says how: `.txt` or `.conll`, `.jsonl` or `.json`.

    Raises:
        DataNotFoundError: If there is no such file.
        DataFormatError: If the suffix is another, or the file is malformed.
    """
    suffix = Path(path).suffix.lower()
    if suffix in CONLL_SUFFIXES:
        return read_conll(path)
    if suffix in JSON_SUFFIXES:
        return read_jsonl(path)
    expected = f"{' or '.join(CONLL_SUFFIXES)} for CoNLL, {' or '.join(JSON_SUFFIXES)} for JSON lines"
    advice = "Rename the file, or call read_conll or read_jsonl."
    raise DataFormatError(path, None, f"the suffix {suffix!r}", expected, advice)
