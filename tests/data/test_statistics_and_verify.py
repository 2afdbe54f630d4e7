from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2, Entities

from mner.data.examples import Example, fingerprint
from mner.data.formats.conll import write_conll
from mner.data.formats.json_lines import write_jsonl
from mner.data.statistics import render_statistics, split_statistics, stats
from mner.data.verify import verify, verify_command
from mner.errors import DataFormatError, DataNotFoundError


def post(id_: str, line: str, image_id: str | None = "same") -> Example:
    """`"In/O Oslo/B-LOC"` as a post."""
    words, tags = zip(*(pair.rsplit("/", 1) for pair in line.split()), strict=True)
    return Example(id_, id_ if image_id == "same" else image_id, words, tags)


TRAIN = [
    post("1", "In/O Oslo/B-LOC ,/O Ann/B-PER Lee/I-PER"),
    post("2", "Dr/O ./O Seuss/I-PER reads/O"),
    post("3", "hi/O"),
]
VALID = [post("4", "Rome/B-LOC I/O")]


def test_numbers_of_a_split():
    found = split_statistics(TRAIN)
    assert (found.posts, found.unlabelled, found.without_entity, found.max_words) == (3, 0, 1, 5)
    assert found.mean_words == pytest.approx(10 / 3)
    assert found.mean_characters == pytest.approx((13 + 13 + 2) / 3)
    assert found.lenient == {"LOC": 1, "PER": 2}
    assert found.strict == {"LOC": 1, "PER": 1}
    assert found.stray == 1
    assert found.fingerprint == fingerprint(TRAIN)


def test_numbers_without_gold_or_posts():
    found = split_statistics([Example("1", None, ("a", "b")), *VALID])
    assert (found.posts, found.unlabelled, found.without_entity, found.lenient) == (2, 1, 0, {"LOC": 1})
    assert split_statistics([]).mean_words == 0


def test_entities_are_those_of_seqeval():
    random.seed(3)
    labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    posts = [Example(str(n), None, ("x",) * 6, tuple(random.choice(labels) for _ in range(6))) for n in range(200)]
    found = split_statistics(posts)
    tags = [list(each.tags or ()) for each in posts]
    lenient = [type_ for sequence in tags for type_, _, _ in get_entities(sequence)]
    strict = [entity.tag for sequence in Entities(tags, IOB2).entities for entity in sequence]
    assert found.lenient == {type_: lenient.count(type_) for type_ in ("LOC", "PER")}
    assert found.strict == {type_: strict.count(type_) for type_ in ("LOC", "PER")}
    assert sum(found.strict.values()) < sum(found.lenient.values())


def test_table():
    text = render_statistics({"train": split_statistics(TRAIN), "valid": split_statistics(VALID), "test": None})
    rows = {line[:20].strip(): line[20:].split() for line in text.split("\n")}
    assert rows["posts"] == ["3", "1", "not", "found"]
    assert rows["entities, lenient"] == ["3", "1", "-"]
    assert rows["entities, strict"] == ["2", "1", "-"]
    assert rows["PER"] == ["1", "0", "-"]  # the later of the two blocks, strict
    assert rows["stray I-"] == ["1", "0", "-"]
    assert rows["fingerprint"] == [fingerprint(TRAIN), fingerprint(VALID), "-"]
    assert "without gold" not in text
    assert "without gold" in render_statistics({"test": split_statistics([Example("1", None, ("a",))])})
    many = render_statistics({"train": split_statistics([post(str(n), "a/O") for n in range(4000)])})
    assert "4,000" in many


def test_stats_command(tmp_path, capsys):
    write_conll(tmp_path / "train.txt", TRAIN)
    assert stats(tmp_path) == 0
    alone = capsys.readouterr().out
    assert "not found" in alone
    assert " all" not in alone
    write_jsonl(tmp_path / "dev.jsonl", VALID)
    assert stats(tmp_path) == 0
    header, posts = (line.split() for line in capsys.readouterr().out.split("\n")[2:4])
    assert header == ["train", "valid", "test", "all"]
    assert posts == ["posts", "3", "1", "not", "found", "4"]
    (tmp_path / "train.txt").write_text("IMGID:1\na\tX\n", encoding="utf-8")
    with pytest.raises(DataFormatError, match=r"train\.txt:2"):
        stats(tmp_path)


def test_clean_data_are_fit():
    report = verify({"train": [TRAIN[0], TRAIN[2]], "valid": VALID})
    assert report.fit_for_training
    assert (report.errors, report.warnings) == ([], [])
    assert report.splits["train"].types == ["LOC", "PER"]
    assert report.splits["train"].images is None
    text = report.render()
    assert "images: not checked" in text
    assert text.endswith("\nfit for training (0 errors, 0 warnings)")
    assert fingerprint(VALID) in text


@pytest.mark.parametrize(
    ("splits", "error"),
    [
        ({}, "no posts at all"),
        ({"train": []}, "no posts at all"),
        ({"train": TRAIN, "valid": []}, "valid: no posts"),
        ({"train": [*TRAIN, TRAIN[0]]}, "train: 1 id used more than once: 1"),
        ({"train": [Example("1", None, ("a",), ("X-PER",))]}, "train: 1 post with malformed tags: 1"),
        ({"train": [Example("1", None, ("a", "b"), ("O",))]}, "train: 1 post with malformed tags: 1"),
        ({"train": [Example("1", None, ("a",), None)]}, "train: 1 post without gold tags: 1"),
        ({"train": TRAIN, "valid": [TRAIN[0]]}, "train and valid share 1 id, 1 of them with the same text: 1"),
        ({"train": TRAIN, "test": [post("2", "x/O")]}, "train and test share 1 id, 0 of them with the same text: 2"),
        ({"valid": VALID, "test": VALID}, "valid and test share 1 id"),
        ({"train": TRAIN, "valid": [post("5", "x/B-MISC")]}, "valid: entity types ['MISC'] are not among"),
    ],
)
def test_errors(splits, error):
    report = verify(splits)
    assert not report.fit_for_training
    assert any(each.startswith(error) for each in report.errors), report.errors
    assert f"error: {error}" in report.render()
    assert "NOT fit for training" in report.render()


def test_expected_types():
    assert verify({"train": TRAIN}, types=["PER", "LOC", "ORG"]).fit_for_training
    report = verify({"train": TRAIN, "valid": VALID}, types=["LOC"])
    assert report.errors == ["train: entity types ['PER'] are not among those expected, ['LOC']"]


@pytest.mark.parametrize(
    ("splits", "warning"),
    [
        ({"train": TRAIN}, "train: 1 stray I-"),
        ({"train": [*TRAIN, post("9", "hi/B-PER")]}, "train: 1 post with the text of an earlier one: 9"),
        ({"train": TRAIN, "test": [post("9", "hi/O")]}, "train and test share the text of 1 post: 9"),
        ({"test": [Example("1", None, ("a",), None)]}, "test: 1 post without gold tags: 1"),
    ],
)
def test_warnings_leave_data_fit(splits, warning):
    report = verify(splits)
    assert report.fit_for_training
    assert any(each.startswith(warning) for each in report.warnings), report.warnings
    assert f"warning: {warning}" in report.render()


def test_lists_of_ids_are_cut():
    posts = [post(str(n), "hi/O") for n in range(9)]
    assert verify({"train": posts}).warnings == [
        "train: 8 posts with the text of an earlier one: 1, 2, 3, 4, 5, ...",
    ]


def images(folder: Path) -> None:
    folder.mkdir(parents=True)
    Image.effect_noise((40, 40), 80).save(folder / "good.jpg")
    whole = (folder / "good.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "page.jpg").write_bytes(b"<html>404</html>")
    (folder / "empty.jpg").write_bytes(b"")
    size = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", size), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    (folder / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


def test_images(tmp_path):
    images(tmp_path / "images")
    ids = ["good.jpg", "good", "cut.jpg", "page", "empty", "bomb.jpg", "absent.jpg", None]
    posts = [post(str(n), f"word{n}/O", image_id) for n, image_id in enumerate(ids)]
    report = verify({"train": posts}, tmp_path / "images")
    split = report.splits["train"]
    assert split.bad_images == {
        "cut.jpg": "truncated or damaged",
        "page": "not an image",
        "empty": "empty",
        "bomb.jpg": "too large",
        "absent.jpg": "missing",
    }
    assert split.images == 2
    assert report.fit_for_training
    assert report.warnings[0].startswith("train: 5 of 7 images could not be read")
    assert "bomb.jpg as bomb.png" in report.warnings[1]
    assert report.warnings[2] == "train: 1 post without an image id: 7"
    assert "images: 2 good, 1 missing, 4 broken" in report.render()


def test_images_of_each_split(tmp_path):
    images(tmp_path / "a")
    report = verify({"train": [post("good", "a/O")], "valid": [post("5", "b/O")]}, {"train": tmp_path / "a"})
    assert report.splits["train"].images == 1
    assert report.splits["valid"].images is None
    with pytest.raises(DataNotFoundError, match="absent"):
        verify({"train": TRAIN}, tmp_path / "absent")


def test_context_coverage():
    sources = {"blip2": {"1": "a", "2": ""}, "full": dict.fromkeys("123", "t")}
    report = verify({"train": TRAIN}, context={"train": sources})
    assert report.splits["train"].without_text == {"blip2": 2, "full": 0}
    assert [each for each in report.warnings if "blip2" in each or "full" in each] == [
        "train: 2 posts without a text in blip2: 2, 3"
    ]
    assert "blip2: a text for 1 of 3 posts" in report.render()


def test_verify_command(tmp_path, capsys):
    write_conll(tmp_path / "train.txt", TRAIN)
    write_conll(tmp_path / "valid.txt", VALID)
    images(tmp_path / "images")
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions" / "catr.txt").write_text("1.jpg :a man\n", encoding="utf-8")
    assert verify_command(tmp_path) == 0
    text = capsys.readouterr().out
    assert "test: no such split" in text
    assert "catr: a text for 1 of 3 posts" in text
    assert "images: 0 good, 3 missing, 0 broken" in text
    assert verify_command(tmp_path, types=["LOC"]) == 1
    assert "types ['PER']" in capsys.readouterr().out


def test_verify_command_reports_every_malformed_file(tmp_path, capsys):
    (tmp_path / "train.txt").write_text("IMGID:1\na\tX\n", encoding="utf-8")
    write_conll(tmp_path / "valid.txt", VALID)
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions" / "catr.txt").write_text("no caption\n", encoding="utf-8")
    assert verify_command(tmp_path) == 1
    text = capsys.readouterr().out
    assert "train.txt:2: found the tag 'X'" in text
    assert "catr.txt:1: found 'no caption'" in text
    assert "no posts" not in text


def test_verify_command_needs_train_and_valid(tmp_path, capsys):
    write_conll(tmp_path / "test.txt", VALID)
    assert verify_command(tmp_path) == 1
    text = capsys.readouterr().out
    assert "error: train: no such split" in text
    assert "error: valid: no such split" in text
    with pytest.raises(DataNotFoundError):
        verify_command(tmp_path / "absent")


def test_types_that_scores_cannot_name_are_errors():
    report = verify({"train": [Example("1", "1", ("a", "b"), ("B-strict", "O"))]})
    assert any("train: Expected types that scores can name, but got 'strict'" in error for error in report.errors)
