"""Anybody's own posts as a data module: files, folders, memory, splits that are dealt out, types by other names."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

from mner.data import Example, PostsDataModule
from mner.data.formats.posts import write_posts
from mner.errors import DataFormatError, DataNotFoundError
from mner.fusion import TextOnly
from mner.training import Trainer

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from exports import EXPORTS, content

NAMES = ["Ana", "Bo", "Cy", "Di", "Eva", "Flo", "Gus", "Hal", "Ida", "Jo"]
PLACES = ["Oslo", "Lima", "Rome", "Bonn", "Kyiv"]
VERBS = ["left", "loves", "saw", "hates"]
POSTS = [
    Example(f"p{n}", None, (NAMES[n % 10], VERBS[n % 4], PLACES[n % 5], f"x{n}y{n * 37}"), ("B-PER", "O", "B-LOC", "O"))
    for n in range(20)
]


@pytest.mark.parametrize("name", EXPORTS)
def test_exports_of_one_data_set_are_the_same_posts(tmp_path, name):
    suffix = Path(name).suffix
    for split, posts in (("train", POSTS[:16]), ("valid", POSTS[16:])):
        EXPORTS[name](posts, tmp_path / f"{split}{suffix}")
    # numbers of records begin anew in each file, and are no ids
    data = PostsDataModule(str(tmp_path), fields={"id": None} if name.endswith((".json", ".jsonl", "brat")) else None)
    assert data.labels == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert content(data.examples("train") + data.examples("valid")) == content(POSTS)
    data.setup("fit")
    assert sum(len(batch["words"]) for batch in data.train_dataloader()) == 16


def test_one_file_is_dealt_out(tmp_path, caplog):
    write_posts(tmp_path / "export.jsonl", [*POSTS, Example("u", None, ("no", "gold"))], "json_lines")
    for root in (tmp_path, tmp_path / "export.jsonl"):
        data = PostsDataModule(str(root))
        parts = {name: data.examples(name) for name in data.split_names()}
        assert {name: len(part) for name, part in parts.items()} == {"train": 16, "valid": 2, "test": 2}
        assert sorted(post.id for part in parts.values() for post in part) == sorted(post.id for post in POSTS)
    assert "dealt out as train 16, valid 2, test 2" in caplog.text
    assert "1 posts without gold" in caplog.text
    assert len(PostsDataModule(str(tmp_path), shares=(0.5, 0.5, 0)).examples("valid")) == 10


def test_posts_that_are_all_alike_are_not_dealt_out(tmp_path):
    def write(texts):
        posts = [Example(f"{n}", None, (*text.split(), f"{n}"), ("B-PER", "O", "O", "O", "O")) for n, text in texts]
        write_posts(tmp_path / "export.jsonl", posts, "json_lines")
        return PostsDataModule(str(tmp_path / "export.jsonl"))

    kinds = "Ana sings in Rome", "Bob drives through Norway"
    data = write((n, kinds[n % 2]) for n in range(12))
    assert data.split_names() == ["train", "valid"], "nothing is left for test, which nobody asked for"
    with pytest.raises(DataFormatError, match=r"12 posts of too few kinds.*own.*Nothing is left for valid"):
        write((n, kinds[0]) for n in range(12)).setup("fit")


def test_valid_is_taken_from_train_where_it_is_missing(tmp_path):
    write_posts(tmp_path / "train.txt", POSTS[:18], "conll")
    write_posts(tmp_path / "test.txt", POSTS[18:], "conll")
    data = PostsDataModule(str(tmp_path))
    assert {name: len(data.examples(name)) for name in data.split_names()} == {"train": 16, "test": 2, "valid": 2}
    data.setup("fit")


def test_posts_without_gold_are_left_out_of_train_and_told(tmp_path, caplog):
    for split in ("train", "valid", "test"):
        posts = [Example(f"{split}1", None, ("Ana",), ("B-PER",)), Example(f"{split}2", None, ("Bo",))]
        write_posts(tmp_path / f"{split}.jsonl", posts, "doccano")
    data = PostsDataModule(str(tmp_path))
    assert [len(data.examples(split)) for split in ("train", "valid", "test")] == [1, 1, 2]
    assert "1 posts without gold left out of train" in caplog.text
    write_posts(tmp_path / "train.jsonl", [Example("2", None, ("Bo",))], "json_lines")
    with pytest.raises(DataFormatError, match="no post with gold in train"):
        PostsDataModule(str(tmp_path))


def test_types_by_other_names_are_in_the_fingerprint(tmp_path):
    for split, posts in (("train", POSTS[:16]), ("valid", POSTS[16:])):
        write_posts(tmp_path / f"{split}.jsonl", posts, "json_lines")
    plain, mapped = (PostsDataModule(str(tmp_path), type_map=m) for m in (None, {"LOC": "PLACE", "PER": None}))
    assert mapped.labels == ["O", "B-PLACE", "I-PLACE"]
    plain.examples("valid")
    mapped.examples("valid")
    assert plain.fingerprints["valid"] != mapped.fingerprints["valid"]
    assert mapped.describe_inputs()["type_map"] == {"LOC": "PLACE", "PER": None}


def rows(posts):
    return [{"id": post.id, "tokens": list(post.words), "ner_tags": list(post.tags)} for post in posts]


def tokens(posts):
    return [
        {"sentence": n, "word": word, "tag": tag}
        for n, post in enumerate(posts)
        for word, tag in zip(post.words, post.tags, strict=True)
    ]


def frame(make):
    def build(posts):
        return pytest.importorskip("pandas").DataFrame(make(posts))

    return build


def polars(posts):
    return pytest.importorskip("polars").DataFrame(rows(posts))


def dataset(posts):
    return pytest.importorskip("datasets").Dataset.from_list(rows(posts))


@pytest.mark.parametrize("make", [list, rows, frame(rows), frame(tokens), polars, dataset])
def test_what_is_in_memory(make):
    data = PostsDataModule(train=make(POSTS[:16]), valid=make(POSTS[16:]), batch_size=4)
    assert content(data.examples("train")) == content(POSTS[:16])
    data.setup("fit")
    assert len(list(data.val_dataloader())) == 1
    assert data.split_names() == ["train", "valid"]


def test_memory_and_root_exclude_each_other(tmp_path):
    for options in ({}, {"root": str(tmp_path), "train": POSTS}):
        with pytest.raises(ValueError, match="not both"):
            PostsDataModule(**options)
    with pytest.raises(TypeError, match="but got dict"):
        PostsDataModule(train={"a": 1})
    with pytest.raises(DataFormatError, match=r"train\.memory, row 1: found no text"):
        PostsDataModule(train=[{"x": 1}])


def test_several_files_that_are_no_splits(tmp_path):
    for name in ("one.jsonl", "two.jsonl"):
        (tmp_path / name).write_text(json.dumps({"text": "Ana"}))
    with pytest.raises(DataNotFoundError, match=r"found one\.jsonl, two\.jsonl"):
        PostsDataModule(str(tmp_path))


def test_ids_that_count_anew_in_each_file(tmp_path):
    for split in ("train", "valid"):
        posts = [Example(str(n), None, (split, str(n)), ("B-X", "O")) for n in range(3)]
        write_posts(tmp_path / f"{split}.jsonl", posts, "doccano")
    with pytest.raises(DataFormatError, match=r"fields: \{id: null\}"):
        PostsDataModule(str(tmp_path)).setup("fit")
    data = PostsDataModule(str(tmp_path), fields={"id": None})
    data.setup("fit")
    assert [post.id for post in data.examples("valid")] == ["valid/1", "valid/2", "valid/3"]


def test_chinese_with_long_posts_trains(tmp_path):
    """Space-separated columns of characters, posts longer than an encoder takes."""
    draw = random.Random(0)
    signs = [chr(0x4E00 + n) for n in range(300)]
    for split, lengths in (("train", (555, 40, 7, 12)), ("valid", (555, 3))):
        blocks = []
        for length in lengths:
            tags = ["B-LOC", "I-LOC", "O", "O", "O"] * length
            blocks.append("".join(f"{draw.choice(signs)} {tag}\n" for tag in tags[:length]))
        (tmp_path / f"{split}.txt").write_text("\n".join(blocks), encoding="utf-8")
    data = PostsDataModule(str(tmp_path), batch_size=2, text_encoder="tiny")
    assert max(len(post.words) for post in data.examples("train")) == 555
    trainer = Trainer(fast_dev_run=True, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(TextOnly(data.labels), data)
    assert data.word_style.style == "characters"


def test_what_mner_writes_beside_a_file_is_no_posts(tmp_path):
    write_posts(tmp_path / "export.json", POSTS, "label_studio")
    for name in ("export.json.patch.json", "tagged.jsonl.mner.json"):
        (tmp_path / name).write_text("{}")
    data = PostsDataModule(str(tmp_path))
    assert sum(len(data.examples(split)) for split in ("train", "valid", "test")) == len(POSTS)
