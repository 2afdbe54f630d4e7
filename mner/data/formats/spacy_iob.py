"""spaCy's IOB: a post a line, `Anna|B-PER sings|O`, or `Anna|NNP|B-PER` with parts of speech between.

Source: https://spacy.io/api/cli#converters
"""

from __future__ import annotations

from collections.abc import Iterable

from mner.data.examples import Example
from mner.data.formats.lines import Source, shown
from mner.data.formats.records import Notes, Reading, Record
from mner.data.formats.schemes import split_any_tag
from mner.errors import MNERError


def fits_spacy_iob(source: Source) -> bool:
    """Whether the words of the first lines end in `|` and a tag."""
    lines = [line for line in source.text.split("\n")[:50] if line.strip()]
    return bool(lines) and all("\t" not in line and all(map(_is_token, _tokens(line))) for line in lines)


def _tokens(line: str) -> list[str]:
    return [token for token in line.removesuffix("\r").split(" ") if token]


def _is_token(token: str) -> bool:
    try:
        split_any_tag(token.rpartition("|")[2])
    except ValueError:
        return False
    return "|" in token[1:]


def read_spacy_iob(source: Source, reading: Reading, notes: Notes) -> list[Record]:
    """A record for each line. A part of speech between word and tag, where all words have one, is passed."""
    rows = [(number, _tokens(line)) for number, line in enumerate(source.lines, start=1) if line.strip()]
    with_pos = all(token.count("|") > 1 for _, row in rows for token in row)
    records = []
    for number, row in rows:
        wrong = next((token for token in row if not _is_token(token)), None)
        if wrong is not None:
            raise source.fault(number, f"{shown(wrong)}", "word|TAG, with spaces between words")
        pairs = [token.rsplit("|", 2 if with_pos else 1) for token in row]
        records.append(Record(number, words=[pair[0] for pair in pairs], tags=[pair[-1] for pair in pairs]))
    return records


def spacy_iob(posts: Iterable[Example]) -> str:
    """Posts as lines of `word|TAG`; it has no place for ids and images."""
    lines = []
    posts = list(posts)
    if all("|" in word for post in posts for word in post.words):
        raise MNERError("Each word has a |, which spaCy's IOB would take for a part of speech; write json_lines")
    for post in posts:
        if post.tags is None or any(blank in word for word in post.words for blank in " \t\r\n"):
            raise MNERError(f"Post {post.id!r} has no gold, or a word with a blank; write json_lines")
        lines.append(" ".join(f"{word}|{tag}" for word, tag in zip(post.words, post.tags, strict=True)) + "\n")
    return "".join(lines)
