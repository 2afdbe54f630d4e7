"""Exports with wrong values, keys gone, lines changed: posts, or one line with the place and what it should be."""

from __future__ import annotations

import copy
import json
import random

import pytest

from mner.data.formats.posts import FORMATS, read_posts
from mner.errors import MNERError
from tests.data.formats.test_posts import EXPORTS, POSTS

JSON = [name for name in EXPORTS if name.endswith((".json", ".jsonl"))]
LINES = [name for name in EXPORTS if name not in JSON and name != "brat"]
WRONG = [None, True, 0, -1, 3.5, 10**30, "", "x", [], {}, [1], ["a"], {"a": 1}, [[0, 1, "X"]], [{"start": 0}], "\ud83d"]


SIGNS = ["", "\t", "\n", " ", '"', "#", "\\", "[", "|", "9", "😀", ",", ";", "-", "\n\n", "\r"]
OTHER = ["{}", "[]", "[[]]", '"a"', "7", "x", "\n", " \t\n", "\u2028", '[{"a": 1}]', '{"text": "a"}', '["a"]', "null"]


def places(value, path=()):
    """The paths of all values within a value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def damaged(value, draw):
    value = copy.deepcopy(value)
    for _ in range(draw.choice([1, 1, 3])):
        inside = [path for path in places(value) if path]
        if not inside:
            break
        *above, last = draw.choice(inside)
        inner = value
        for key in above:
            inner = inner[key]
        if draw.random() < 0.3:
            del inner[last]
        else:
            inner[last] = copy.deepcopy(draw.choice(WRONG))
    return value


def one_line(path, format=None):
    try:
        read_posts(path, format)
    except MNERError as error:
        said = str(error)
        assert "\n" not in said, said
        assert path.name in said or path.stem in said, said
        assert "xpected" in said, said
        assert len(said) < 1500, said


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize("named", [False, True])
def test_wrong_values(tmp_path, name, named, caplog):
    caplog.set_level("ERROR", logger="mner")
    path = tmp_path / name
    EXPORTS[name](POSTS, path)
    format = read_posts(path).format if named else None
    text = path.read_text(encoding="utf-8")
    lines = name.endswith(".jsonl")
    value = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
    draw = random.Random(name)
    for _ in range(150):
        new = damaged(value, draw)
        dump = "\n".join(map(json.dumps, new)) if lines and isinstance(new, list) else json.dumps(new)
        path.write_text(dump, encoding="utf-8")
        one_line(path, format)


@pytest.mark.parametrize("name", LINES)
def test_wrong_lines(tmp_path, name, caplog):
    caplog.set_level("ERROR", logger="mner")
    path = tmp_path / name
    EXPORTS[name](POSTS, path)
    format = read_posts(path).format
    raw = path.read_text(encoding="utf-8")
    draw = random.Random(name)
    for turn in range(150):
        signs = list(raw)
        for _ in range(draw.choice([1, 1, 4])):
            place = draw.randrange(len(signs))
            signs[place] = draw.choice(SIGNS)
        path.write_text("".join(signs), encoding="utf-8", newline="")
        one_line(path, format if turn % 2 else None)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("content", OTHER)
def test_files_that_are_something_else(tmp_path, name, content, caplog):
    caplog.set_level("ERROR", logger="mner")
    for suffix in (".json", ".jsonl", ".txt", ".csv", ".tsv", ".spacy", ".parquet", ".ann"):
        path = tmp_path / f"a{suffix}"
        path.write_text(content, encoding="utf-8")
        if name in ("spacy", "parquet"):
            pytest.importorskip({"spacy": "spacy", "parquet": "pyarrow"}[name])
        one_line(path, name)
        one_line(path)
