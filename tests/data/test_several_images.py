"""Posts with several images: read, written, counted, and taken away."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mner.data.examples import Example
from mner.data.formats.conll import write_conll
from mner.data.formats.context import Texts, attach
from mner.data.formats.images import ImageFolder
from mner.data.formats.json_lines import read_jsonl, write_jsonl
from mner.data.sources import report_images
from mner.errors import DataFormatError, DataNotFoundError
from mner.probing.conditions import image_conditions

WORDS = ["Anna", "sings"]


def write(path, **fields):
    path.write_text(json.dumps({"id": "1", "tokens": WORDS, "label": ["B-PER", "O"], **fields}) + "\n")
    return path


def test_image_ids_are_read_and_written_back(tmp_path):
    (post,) = read_jsonl(write(tmp_path / "a.jsonl", image_ids=["x", "y", "z"]))
    assert (post.image_id, post.image_ids) == ("x", ("x", "y", "z"))
    write_jsonl(tmp_path / "b.jsonl", [post])
    assert read_jsonl(tmp_path / "b.jsonl") == [post]
    assert read_jsonl(write(tmp_path / "c.jsonl", image_id="x", image_ids=["x"])) == [
        Example("1", "x", tuple(WORDS), ("B-PER", "O"))
    ]
    assert read_jsonl(write(tmp_path / "d.jsonl", image_ids=[]))[0].image_ids == ()


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"image_ids": "x"}, "a string as 'image_ids'"),
        ({"image_ids": ["x", 3]}, "a number among 'image_ids'"),
        ({"image_ids": ["x", ""]}, "different ids with content"),
        ({"image_ids": ["x", "x"]}, "Name each image once"),
        ({"image_ids": ["x", "y"], "image_id": "y"}, "image_id 'y' beside image_ids ['x', 'y']"),
        ({"image_ids": [], "image_id": "y"}, "the first of them"),
    ],
)
def test_bad_image_ids(tmp_path, fields, found):
    with pytest.raises(DataFormatError) as caught:
        read_jsonl(write(tmp_path / "a.jsonl", **fields))
    assert found in str(caught.value)
    assert "a.jsonl:1" in str(caught.value)


POST = Example("1", "x", tuple(WORDS), ("B-PER", "O"), more_images=("y",))


def test_conll_keeps_one(tmp_path):
    with pytest.raises(ValueError, match=r"one image a post, but 'x' has several; use json_lines"):
        write_conll(tmp_path / "a.txt", [Example("x", "x", ("a",), ("O",), more_images=("y",))])


def test_texts_are_found_by_any_of_the_images():
    assert Texts({}, {"y": "second"}).find(POST) == "second"
    assert Texts({}, {"y": "second", "x": "first"}).find(POST) == "first"
    assert Texts({"1": "own"}, {"x": "first"}).find(POST) == "own"
    assert attach([POST], {"captions": {"y": "second"}}).examples[0].context == ("second",)


def test_a_post_lacks_an_image_when_all_are_gone(tmp_path, caplog):
    Image.new("RGB", (4, 4)).save(tmp_path / "y.png")
    report_images([POST], "train", ImageFolder(tmp_path))
    assert not caplog.records
    with pytest.raises(DataNotFoundError, match="1 missing"):
        report_images([Example("1", "u", ("a",), more_images=("v",))], "train", ImageFolder(tmp_path))


def test_all_of_them_are_taken_away_and_shuffled():
    stored = {"x": np.zeros((1, 2)), "y": np.full((3, 2), 4.0)}
    posts = SimpleNamespace(regions=stored, examples=[POST, Example("2", "z", ("b",))])
    conditions = {condition.name: condition for condition in image_conditions(posts)}
    without = conditions["no image"].posts([POST], np.random.default_rng(0))
    assert without[0].image_ids == ()
    shuffled = conditions["shuffled images"].posts(posts.examples, np.random.default_rng(0))
    assert [post.image_ids for post in shuffled] == [("z",), ("x", "y")]
    batch = {"regions": torch.zeros(1, 4, 2), "region_mask": torch.ones(1, 4, dtype=torch.bool)}
    blank = conditions["blank image"].batch(batch, torch.Generator())
    assert blank["regions"][0].tolist() == [[3.0, 3.0]] * 4  # the mean of all four regions
    image = {"image": torch.zeros(1, 2, 3, 2, 2), "image_mask": torch.tensor([[True, False]])}
    posts.regions = None
    pixels = {condition.name: condition for condition in image_conditions(posts)}
    noise = pixels["noise for images"].batch(image, torch.Generator().manual_seed(0))["image"]
    assert noise[0, 0].all()
    assert not noise[0, 1].any()
