from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import mner
from mner.data.examples import Example, fingerprint
from mner.data.formats.predictions import (
    Prediction,
    ScoredSpan,
    append_predictions,
    prediction_header,
    read_predictions,
    write_predictions,
)
from mner.errors import DataFormatError, DataNotFoundError

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
HEADER = prediction_header(
    model="mner.fusion.TextOnly", split="valid", data="SampleDataModule", fingerprint="0123456789abcdef", labels=LABELS
)
POSTS = [
    Prediction(
        "7",
        "7.jpg",
        ("In", "Oslo", "\u2028", "\xa0"),
        ("O", "I-LOC", "O", "O"),
        ("O", "B-LOC", "I-LOC", "O"),
        (ScoredSpan(1, 3, "LOC", 0.25),),
        True,
    ),
    Prediction("8", None, ("hi",), None, ("O",), (), False),
]


def test_header():
    assert HEADER["mner_predictions"] == 1
    assert HEADER["versions"]["mner"] == mner.__version__
    assert set(HEADER["versions"]) == {"mner", "torch"}
    assert (HEADER["checkpoint"], HEADER["seed"], HEADER["context"]) == (None, None, [])
    assert json.loads(json.dumps(HEADER)) == HEADER


def test_round_trip(tmp_path):
    write_predictions(tmp_path / "p.jsonl", HEADER, iter(POSTS))
    found = read_predictions(tmp_path / "p.jsonl")
    assert found.header == HEADER
    assert found.posts == POSTS


def test_streaming_equals_writing_at_once(tmp_path):
    write_predictions(tmp_path / "once.jsonl", HEADER, POSTS)
    write_predictions(tmp_path / "stream.jsonl", HEADER)
    for post in POSTS:
        append_predictions(tmp_path / "stream.jsonl", [post])
    assert (tmp_path / "once.jsonl").read_bytes() == (tmp_path / "stream.jsonl").read_bytes()


def test_what_a_header_says():
    made = prediction_header(
        model="my.Model", split="test", data="MyData", fingerprint="f", labels=("O", "B-X"), checkpoint="a.ckpt",
        seed=3, context=("captions",),
    )  # fmt: skip
    assert made == {
        "mner_predictions": 1,
        "model": "my.Model",
        "checkpoint": "a.ckpt",
        "split": "test",
        "data": "MyData",
        "fingerprint": "f",
        "labels": ["O", "B-X"],
        "seed": 3,
        "versions": {"mner": mner.__version__, "torch": torch.__version__},
        "context": ["captions"],
    }
    least = prediction_header(model="m", split="s", data="d", fingerprint=None, labels=["O"])
    assert [least[key] for key in ("checkpoint", "seed", "context", "fingerprint")] == [None, None, [], None]


def test_letters_are_kept_as_they_are(tmp_path):
    """The file is UTF-8 that people can read and search, after a header of the same kind."""
    german = Prediction("ü", None, ("Zürich",), None, ("O",))
    write_predictions(tmp_path / "p.jsonl", HEADER | {"model": "mödel"}, [german])
    append_predictions(tmp_path / "p.jsonl", [Prediction("東", None, ("東京",), None, ("O",))])
    header, first, second, end = (tmp_path / "p.jsonl").read_bytes().decode().split("\n")
    assert "mödel" in header
    assert "Zürich" in first
    assert "東京" in second
    assert end == ""


def test_format_on_disk(tmp_path):
    write_predictions(tmp_path / "p.jsonl", HEADER, POSTS)
    lines = (tmp_path / "p.jsonl").read_text(encoding="utf-8").split("\n")
    assert len(lines) == 4
    assert json.loads(lines[1]) == {
        "id": "7",
        "image_id": "7.jpg",
        "words": ["In", "Oslo", "\u2028", "\xa0"],
        "gold": ["O", "I-LOC", "O", "O"],
        "pred": ["O", "B-LOC", "I-LOC", "O"],
        "entities": [{"start": 1, "end": 3, "type": "LOC", "score": 0.25}],
        "has_image": True,
    }


@pytest.mark.parametrize(
    ("post", "fault"),
    [
        (Prediction("1", None, ("a",), None, ("O", "O")), "1 words and 2 predicted tags"),
        (Prediction("1", None, ("a",), (), ("O",)), "1 words and 0 gold tags"),
        (Prediction("1", None, (), None, ()), "no words"),
        (Prediction("1", None, ("a",), None, ("O",), (ScoredSpan(0, 2, "PER", 0.5),)), r"an entity at 0\.\.2"),
        (Prediction("1", None, ("a",), None, ("O",), (ScoredSpan(0, 1, "PER", float("nan")),)), "not JSON compliant"),
    ],
)
def test_contradictions_are_not_written(tmp_path, post, fault):
    with pytest.raises(ValueError, match=fault):
        write_predictions(tmp_path / "p.jsonl", HEADER, [post])


def test_header_of_another_format_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="prediction_header"):
        write_predictions(tmp_path / "p.jsonl", {"model": "x"}, POSTS)
    assert not (tmp_path / "p.jsonl").exists()


def post(**changes: Any) -> str:
    fields = {"id": "9", "image_id": None, "words": ["a", "b"], "gold": ["O", "O"], "pred": ["O", "O"], "entities": []}
    return json.dumps({key: value for key, value in (fields | changes).items() if value != "absent"})


def entity(**changes: Any) -> str:
    return post(entities=[{"start": 0, "end": 1, "type": "PER", "score": 0.5} | changes])


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (post(pred=["O"]), "2 words and 1 predicted tags in post '9'"),
        (post(gold=["O"]), "2 words and 1 gold tags"),
        (post(words=[], pred=[], gold=None), "no words"),
        (post(pred=["O", "LOC"]), "'LOC'"),
        (post(gold=["O", "LOC"]), "'LOC'"),
        (post(pred=["O", "B-MISC"]), "predicted tags ['B-MISC']"),
        (post(pred="absent"), "no 'pred'"),
        (post(words="a b"), "a string as 'words'"),
        (post(id=9), "a number as 'id'"),
        (post(id="first"), "the id 'first' again, after line 2"),
        (post(has_image="yes"), "a string as 'has_image'"),
        (post(entities={}), "an object as 'entities'"),
        (post(entities=["PER"]), "PER"),
        (entity(end=3), "an entity at 0..3 of 2 words"),
        (entity(start=-1), "an entity at -1..1"),
        (entity(end=0), "an entity at 0..0"),
        (entity(score=1.5), "1.5"),
        (entity(score=float("nan")), "NaN"),
        (entity(score="high"), "high"),
        (entity(start=0.0), "0.0"),
        (entity(start=True), "true"),
        (entity(type=None), "null"),
        (post()[:-2], "Expecting"),
        ("[]", "a list"),
    ],
)
def test_wrong_prediction_names_file_line_and_fault(tmp_path, line, found):
    path = tmp_path / "wrong.jsonl"
    path.write_text("\n".join([json.dumps(HEADER), post(id="first"), line]) + "\n", encoding="utf-8")
    with pytest.raises(DataFormatError) as caught:
        read_predictions(path)
    assert (caught.value.path, caught.value.line) == (str(path), 3)
    assert found in caught.value.found


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ({"id": "1", "tokens": ["a"]}, "without 'mner_predictions'"),
        (HEADER | {"mner_predictions": 2}, "format 2"),
        (HEADER | {"labels": "O"}, "a string as 'labels'"),
        (HEADER | {"fingerprint": 3}, "a number as 'fingerprint'"),
    ],
)
def test_wrong_header(tmp_path, header, found):
    path = tmp_path / "wrong.jsonl"
    path.write_text(json.dumps(header) + "\n" + post() + "\n", encoding="utf-8")
    with pytest.raises(DataFormatError) as caught:
        read_predictions(path)
    assert caught.value.line == 1
    assert found in caught.value.found


def test_file_without_predictions(tmp_path):
    write_predictions(tmp_path / "p.jsonl", HEADER)
    with pytest.raises(DataFormatError, match="a header without posts"):
        read_predictions(tmp_path / "p.jsonl")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(DataFormatError, match="empty:1: found an empty file"):
        read_predictions(tmp_path / "empty")
    with pytest.raises(DataNotFoundError):
        read_predictions(tmp_path / "absent")


def test_header_that_says_little_is_enough(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"mner_predictions": 1}\n' + post(entities="absent") + "\n", encoding="utf-8")
    assert read_predictions(tmp_path / "p.jsonl").posts == [Prediction("9", None, ("a", "b"), ("O", "O"), ("O", "O"))]


def write(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "out.txt"
    path.write_bytes(content.encode())
    return path


@pytest.mark.parametrize("separator", ["\t", " ", "   "])
def test_conll_output(tmp_path, separator):
    rows = [["{", "O", "O"], ["Oslo", "B-LOC", "I-LOC"], [], ["\xa0", "O", "B-PER"], ["x", "O", "I-PER"]]
    found = read_predictions(write(tmp_path, "\n".join(separator.join(row) for row in rows)))
    assert found.header == {"format": "conll", "scheme": "IOB2", "fingerprint": None}
    assert found.posts == [
        Prediction("1", None, ("{", "Oslo"), ("O", "B-LOC"), ("O", "I-LOC"), (ScoredSpan(1, 2, "LOC", None),)),
        Prediction("2", None, ("\xa0", "x"), ("O", "O"), ("B-PER", "I-PER"), (ScoredSpan(0, 2, "PER", None),)),
    ]


def test_conll_output_with_ids_has_the_fingerprint(tmp_path):
    found = read_predictions(write(tmp_path, "IMGID:7\nOslo\tB-LOC\tO\n\nIMGID:8\nx\tO\tO\n"))
    assert [(post.id, post.image_id) for post in found.posts] == [("7", "7"), ("8", "8")]
    gold = [Example("7", "7", ("Oslo",), ("B-LOC",)), Example("8", "8", ("x",), ("O",))]
    assert found.header["fingerprint"] == fingerprint(gold)


def test_conll_output_without_gold(tmp_path):
    found = read_predictions(write(tmp_path, "IMGID:7\nOslo B-LOC\n"))
    assert found.posts == [Prediction("7", "7", ("Oslo",), None, ("B-LOC",), (ScoredSpan(0, 1, "LOC", None),))]
    assert found.header["fingerprint"] is None


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        ("a O O\nb O\n", 2, "2 columns"),
        ("a O\n\nb O O\n", 3, "3 columns"),
        ("a\n", 1, "1 columns"),
        ("a x O O\n", 1, "4 columns"),
        ("a O PER\n", 1, "'PER'"),
        ("a PER O\n", 1, "'PER'"),
        ("\tO\tO\n", 1, "3 columns"),
        ("IMGID:1\na O O\n\nb O O\n", 4, "b O O"),
        ("IMGID:1\na O O\n\nIMGID:1\nb O O\n", 4, "the id '1' again, after line 1"),
        ("IMGID:1\n\nIMGID:2\nb O O\n", 1, "without words"),
    ],
)
def test_wrong_conll_output(tmp_path, content, line, found):
    with pytest.raises(DataFormatError) as caught:
        read_predictions(write(tmp_path, content))
    assert caught.value.line == line
    assert found in caught.value.found
