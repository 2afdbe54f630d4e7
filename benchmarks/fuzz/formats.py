"""Damaged files in each format of annotation tools that mner writes: read as they are, or refused in one line.

Valid files are what `write_posts` makes of invented posts. Records are counted by Python's own readers, where
the form of a file says how many there are; what was left out must stand in the posts' notes.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from outcomes import READ, Outcome, Target, broken, tried

from mner.data.examples import Example, Posts
from mner.data.formats.posts import FORMATS, read_posts, write_posts

NAMES = [name for name, one in FORMATS.items() if one.write is not None and name not in ("conll", "json_lines")]
WORDS = ["O'Neill", "U.S.", "#tag", "@user", "naïve", "😀", "北京", "مرحبا", "&amp;"]
WORDS += ['"', "\\", "{", "B-PER", ",", "'", "1"]
TAGS = ["O", "O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def posts(pick: random.Random) -> list[Example]:
    """Some posts with gold; their words hold no blanks, which formats of texts cannot express."""
    found = []
    for number in range(pick.randint(1, 6)):
        count = pick.randint(1, 8)
        words = tuple(pick.choice(WORDS) if pick.random() < 0.3 else f"word{pick.randrange(99)}" for _ in range(count))
        tags: list[str] = []
        for _ in words:
            tag, before = pick.choice(TAGS), tags[-1] if tags else "O"
            tags.append(tag if not tag.startswith("I-") or before[2:] == tag[2:] else "B" + tag[1:])
        found.append(Example(f"p{number}", f"16_{number}.jpg" if pick.random() < 0.5 else None, words, tuple(tags)))
    return found


def records(name: str, raw: bytes) -> int | None:
    """How many posts a file has; None where only the reader of the format can tell."""
    if name in ("parquet", "spacy", "brat", "webanno", "conllu", "csv_tokens", "csv_spans"):
        return None
    text = raw.decode("utf-8-sig")
    if name in ("prodigy", "doccano", "json", "spacy_json"):
        return values(text)
    if name == "spacy_iob":
        return sum(bool(line.strip()) for line in text.split("\n"))
    whole: Any = json.loads(text)
    return len(whole) if isinstance(whole, list) else None


def values(text: str) -> int:
    """How many JSON values stand one after the other."""
    count, place, decoder = 0, 0, json.JSONDecoder()
    while text := text[place:].lstrip():
        _, place = decoder.raw_decode(text)
        count += 1
    return count


def words(name: str, raw: bytes) -> int | None:
    """How many words a file has, where a line is a word."""
    if name == "csv_tokens":
        rows = csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline=""))
        return sum(any(row) for row in rows) - 1
    if name == "conllu":
        lines = raw.decode("utf-8-sig").split("\n")
        return sum(line.split("\t")[0].isdigit() for line in lines)
    return None


def lost(name: str, raw: bytes, found: Posts) -> str:
    """What is missing; nothing is where the notes say what was left out."""
    if found.format != name or found.notes:
        return ""
    if (count := records(name, raw)) is not None and count != len(found):
        return f"{len(found)} posts of {count}"
    if (count := words(name, raw)) is not None and count != sum(len(post.words) for post in found):
        return f"{sum(len(post.words) for post in found)} words of {count}"
    return ""


def format_target(name: str) -> Target:
    """What breaks a valid file of a format and reads it."""

    def target(pick: random.Random, folder: Path) -> Callable[[], Outcome]:
        suffix = FORMATS[name].suffix or ".ann"

        def read(path: Path, raw: bytes) -> Outcome:
            return tried(lambda: read_posts(path), lambda found: lost(name, raw, found))

        valid = []
        while len(valid) < 30:
            place = folder / f"{len(valid)}"
            made = place / f"a{suffix}" if FORMATS[name].suffix else place
            if not FORMATS[name].suffix:
                write_posts(place, posts(pick), name)
            else:
                place.mkdir()
                write_posts(made, posts(pick), name)
            file = made if made.is_file() else pick.choice(sorted(made.glob("*.ann")))
            raw = file.read_bytes()
            assert read(made, raw) == READ, (name, raw)
            if raw:
                valid.append((made, file, raw))
        others = [raw for _, _, raw in valid]

        def once() -> Outcome:
            made, file, raw = pick.choice(valid)
            changed = broken(pick, raw, others)
            file.write_bytes(changed)
            try:
                result, details = read(made, changed)
            finally:
                file.write_bytes(raw)
            return result, details and f"{details}\n{changed[:500]!r}"

        return once

    return target


TARGETS: dict[str, Target] = {f"read_posts, {name}": format_target(name) for name in NAMES}
