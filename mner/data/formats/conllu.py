"""CoNLL-U, with entities in MISC (`NER=B-PER`), and CoNLL-U Plus, whose first line names the columns.

Source: https://universaldependencies.org/format.html, https://universaldependencies.org/ext-format.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mner.data.examples import Example
from mner.data.formats.lines import Source, shown
from mner.data.formats.records import Notes, Reading, Record
from mner.errors import MNERError

COLUMNS = ["ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC"]
_GLOBAL = "# global.columns ="
_KEYS = ("NER", "NE", "ENTITY", "NERTAG", "NAMEDENTITY")
_COMMENT = re.compile(r"#\s*(sent_id|image|image_id)\s*=\s*(.+)")


def fits_conllu(source: Source) -> bool:
    """Whether a file names its columns, or has ten whose first are numbers."""
    if source.text.startswith(_GLOBAL):
        return True
    row = next((line for line in source.text.split("\n") if line.strip() and not line.startswith("#")), "")
    cells = row.split("\t")
    return len(cells) == 10 and re.fullmatch(r"\d+([-.]\d+)?", cells[0]) is not None


def read_conllu(source: Source, reading: Reading, notes: Notes) -> list[Record]:
    """A record for each sentence. Ranges of words (`1-2`) and empty nodes (`1.1`) are counted, not read."""
    first = source.lines[0]
    columns = first.removeprefix(_GLOBAL).split() if first.startswith(_GLOBAL) else COLUMNS
    form, tag = reading.fields.get("words") or "FORM", reading.fields.get("tags")
    tag = tag or next((name for name in columns if name.rsplit(":", 1)[-1] in _KEYS), "MISC")
    column = tag if tag in columns else "MISC"
    for name in (form, column):
        if name not in columns:
            raise source.fault(1, f"the columns {', '.join(columns)}", f"a column {name}")
    records = []
    words: list[str] = []
    tags: list[str] = []
    record = Record(1)
    for number, line in enumerate([*source.lines, ""], start=1):
        if line.startswith("#"):
            if found := _COMMENT.match(line):
                if found[1] == "sent_id":
                    record.id = found[2].strip()
                else:
                    record.image_ids = (*record.image_ids, found[2].strip())
            continue
        if not line.strip():
            if words:
                record.words, record.tags = words, tags if any(tags) else None
                if record.tags is not None:
                    record.tags = [one or "O" for one in tags]
                records.append(record)
            words, tags, record = [], [], Record(number + 1)
            continue
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise source.fault(number, f"{len(cells)} columns in {shown(line)}", f"{len(columns)}, with tabs between")
        if not cells[0].isdigit() and "ID" in columns:
            notes.add("ranges of words and empty nodes, not read")
            continue
        words.append(cells[columns.index(form)])
        cell = cells[columns.index(column)]
        tags.append(cell if column != "MISC" or (tag in columns and tag != "MISC") else _from_misc(cell, tag))
    if any(record.id is None for record in records):
        for record in records:
            record.id = None
    if any(record.tags for record in records):  # a sentence without any NER= has no entity
        for record in records:
            record.tags = record.tags or ["O"] * len(record.words or ())
    return records


def _from_misc(cell: str, key: str) -> str:
    pairs = dict(pair.partition("=")[::2] for pair in cell.split("|"))
    return next((value for name, value in pairs.items() if name == key or name.upper() in _KEYS), "")


def conllu(posts: Iterable[Example]) -> str:
    """Posts as sentences with `NER=` in MISC, of each word of a post with gold."""
    posts, blocks = list(posts), []
    if len({post.tags is not None for post in posts}) > 1:
        raise MNERError("Some posts have gold and some have none, which CoNLL-U cannot tell apart; write json_lines")
    for post in posts:
        if any(not field or "\t" in field or "\n" in field for field in (post.id, *post.words)):
            raise MNERError(f"Post {post.id!r} has an empty field or a tab or line break in one; write json_lines")
        lines = [f"# sent_id = {post.id}", *(f"# image = {image}" for image in post.image_ids)]
        for place, word in enumerate(post.words):
            misc = "_" if post.tags is None else f"NER={post.tags[place]}"
            lines.append("\t".join([str(place + 1), word, *["_"] * 7, misc]))
        blocks.append("\n".join([*lines, ""]))
    return "\n".join(blocks)
