"""What is known of the sample's pictures is exact."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mner.data import SampleDataModule
from mner.data.formats.conll import read_conll
from mner.data.formats.context import read_context
from mner.data.formats.feature_store import FeatureStore
from mner.data.formats.images import ImageFolder
from mner.data.formats.relations import read_relations
from mner.data.sample.canvas import OBJECTS, Draw
from mner.data.sample.objects import WIDTH
from mner.data.sample.scenes import SIZE, draw_objects, draw_scene
from mner.data.sample.texts import AMBIGUOUS, TYPES, write_sample
from mner.labels import spans

WORDS = {  # of the captions, for each object
    "person": {"man", "woman", "person", "people"}, "mountain": {"mountains"}, "lake": {"lake"}, "trees": {"trees"},
    "building": {"buildings"}, "sun": {"beach"}, "palm tree": {"palm"}, "shop": {"shop"}, "logo": {"logo"},
    "dog": {"dog"}, "cup": {"cup"}, "record": {"record"},
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "small"
    write_sample(folder, 60, 20, 20)
    return folder


def test_a_box_is_that_of_the_changed_pixels():
    image = Image.new("RGB", (20, 20))
    draw = Draw(image)
    draw.rectangle([0, 0, 19, 5], "red")
    draw.begin()
    draw.rectangle([3, 7, 9, 12], "blue")
    draw.rectangle([8, 2, 8, 8], "green")
    draw.drew("dog")
    draw.drew("nothing, since nothing was drawn")
    assert draw.things == [("dog", (3, 2, 10, 13))]


@pytest.mark.parametrize("type_", TYPES)
def test_boxes_and_names_belong_to_the_picture(type_):
    for seed in range(12):
        image, caption, things = draw_objects(type_, str(seed))
        same, told = draw_scene(type_, str(seed))
        assert (same.tobytes(), told) == (image.tobytes(), caption)
        assert things
        for thing in things:
            left, top, right, bottom = thing.box
            assert 0 <= left < right <= SIZE
            assert 0 <= top < bottom <= SIZE
            assert WORDS[thing.name] & set(caption.split()), (thing, caption)
    assert set(WORDS) == set(OBJECTS)


def test_boxes_are_turned_with_the_picture():
    """The sun is the brightest spot of a beach, wherever it is."""
    found = 0
    for seed in range(60):
        image, caption, things = draw_objects("LOC", str(seed))
        if "night" not in caption or "beach" not in caption:
            continue
        found += 1
        sun = next(thing.box for thing in things if thing.name == "sun")
        grey = np.asarray(image.convert("L"), dtype=float)[: SIZE // 3]
        y, x = np.unravel_index(grey.argmax(), grey.shape)
        assert sun[0] - 1 <= x <= sun[2] + 1
        assert sun[1] - 1 <= y <= sun[3] + 1
    assert found > 2


def test_the_store_holds_every_picture(root):
    store, images = FeatureStore(root / "objects"), ImageFolder(root / "images")
    assert sorted(store) == sorted(Path(name).stem for name in images)
    assert store.width == WIDTH
    tags = read_context(root / "tags.jsonl")
    for key in store:
        assert store.size(key) == (SIZE, SIZE)
        assert store.scores(key).tolist() == [1.0] * len(store[key])
        assert tags[key] == ", ".join(dict.fromkeys(store.names(key)))
        part = images.open(key).resize((8, 8), Image.Resampling.BOX, tuple((store.places(key)[0] * SIZE).tolist()))
        shown = store[key][0].astype(float).reshape(8, 8, 3)
        # But for JPEG's loss.
        np.testing.assert_allclose(shown.mean((0, 1)), np.asarray(part).mean((0, 1)) / 127.5 - 1, atol=0.1)


def test_a_picture_adds_to_the_text_where_the_name_is_ambiguous(root):
    relations = read_relations(root / "relations.tsv")
    posts = [post for split in ("train", "valid", "test") for post in read_conll(root / f"{split}.txt")]
    for post in posts:
        names = {" ".join(post.words[span.start : span.end]) for span in spans(post.tags)}
        if post.image_id in relations:
            assert relations[post.image_id] == float(bool(names & set(AMBIGUOUS)))
    assert 0.5 < np.mean(list(relations.values())) < 0.75
    assert set(relations) == set(FeatureStore(root / "objects"))


def test_a_data_module_writes_them_when_it_is_asked_for_their_width(tmp_path):
    data = SampleDataModule(str(tmp_path / "sample"), train=20, features="objects")
    assert data.region_width == WIDTH
    assert data.names_from == "regions"
    assert json.loads((tmp_path / "sample" / "sample.json").read_text())["train"] == 20
    plain = SampleDataModule(str(tmp_path / "sample"), train=20)
    plain.serve(None)
    assert (plain.names_from, plain.object_names) == ("file", "tags.jsonl")
    tags = SampleDataModule(str(tmp_path / "sample"), train=20, context=["tags.jsonl"])
    tags.serve(None)
    assert tags.names_from == "context"
