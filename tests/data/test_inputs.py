"""What a post has beyond its regions, from the store to the batch."""

import json
import math

import numpy as np
import pytest
import torch

from mner.data.batching import Collate
from mner.data.dataset import MNERDataset, join_images
from mner.data.examples import Example
from mner.data.formats.context import Texts
from mner.data.formats.feature_store import FeatureStore
from mner.data.formats.feature_writer import FeatureWriter
from mner.data.inputs import NEEDS, PostInputs, RegionSet, cell_boxes, check_needs, join_regions, stored_regions
from mner.data.tokenizer import PostTokenizer
from mner.errors import DataFormatError

LABELS = ["O", "B-PER", "I-PER"]
BOXES = np.array([[0, 0, 40, 10], [10, 5, 20, 20]], np.float32)


def write_store(path, sizes=True, groups=False):
    """Image `a` of 40 x 20 pixels with two regions, `b` of 80 x 20 with one, `none` without any."""
    with FeatureWriter(
        path, kind="regions", encoder="test", width=3, classes=["dog", "cup"], sizes=sizes, groups=groups
    ) as writer:
        writer.append(
            ["a", "b", "none"],
            [np.ones((2, 3)), 2 * np.ones((1, 3)), np.ones((0, 3))],
            [BOXES, BOXES[:1], BOXES[:0]],
            [np.array([0.75, 0.5]), np.array([0.25]), np.zeros(0)],
            [["dog", "cup"], ["dog"], []],
            [(40, 20), (80, 20), (5, 5)] if sizes else None,
            [np.array([0, 1]), np.array([0]), np.zeros(0)] if groups else None,
        )
        writer.finish()
    return FeatureStore(path)


# The store


def test_boxes_become_parts_of_their_image(tmp_path):
    store = write_store(tmp_path / "store")
    np.testing.assert_allclose(store.places("a"), [[0, 0, 1, 0.5], [0.25, 0.25, 0.5, 1]])
    np.testing.assert_allclose(store.places("b.jpg"), [[0, 0, 0.5, 0.5]])
    assert store.places("none").shape == (0, 4)
    np.testing.assert_array_equal(store.boxes("a"), BOXES)
    assert (store.size("a"), store.size("none")) == ((40, 20), (0, 0))
    assert store.groups("a").tolist() == [0, 0]
    assert write_store(tmp_path / "crops", groups=True).groups("a").tolist() == [0, 1]


def test_a_box_beyond_the_edge_is_cut(tmp_path):
    with FeatureWriter(tmp_path, kind="regions", encoder="t", width=1, classes=["dog"], sizes=True) as writer:
        box = np.array([[-1, 0, 41, 20]])
        writer.append(["a"], [np.ones((1, 1))], [box], [np.ones(1)], [["dog"]], [(40, 20)])
        writer.finish()
    assert FeatureStore(tmp_path).places("a").tolist() == [[0, 0, 1, 1]]


def test_cells_of_a_stored_grid(tmp_path):
    with FeatureWriter(tmp_path / "grid", kind="grid", encoder="test", width=2) as writer:
        writer.append(["a", "odd"], [np.ones((4, 2)), np.ones((3, 2))])
        writer.finish()
    store = FeatureStore(tmp_path / "grid")
    halves = [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]
    assert store.places("a").tolist() == halves == cell_boxes(2, 2).tolist()
    with pytest.raises(DataFormatError, match="a square grid"):
        store.places("odd")
    found = stored_regions(store, "a", frozenset(NEEDS))
    assert found.scores.tolist() == [1, 1, 1, 1]
    assert found.names is None


def test_an_older_store_loads_and_is_refused_only_where_boxes_are_needed(tmp_path):
    store = write_store(tmp_path / "old", sizes=False)
    assert "sizes" not in store.meta
    assert not (tmp_path / "old" / "sizes.bin").exists()
    assert store["a"].shape == (2, 3)
    assert stored_regions(store, "a", frozenset({"scores", "groups"})).scores.tolist() == [0.75, 0.5]
    with pytest.raises(DataFormatError, match=r"without the sizes of their images .* `mner features"):
        store.places("a")


def test_an_older_store_is_gone_on_with(tmp_path):
    write_store(tmp_path / "old", sizes=False)
    with FeatureWriter(
        tmp_path / "old", kind="regions", encoder="test", width=3, classes=["dog", "cup"], sizes=True
    ) as writer:
        writer.append(["c"], [np.ones((1, 3))], [BOXES[:1]], [np.ones(1)], [["dog"]], [(40, 20)])
        writer.finish()
    assert list(FeatureStore(tmp_path / "old")) == ["a", "b", "none", "c"]


def test_a_store_with_groups_is_not_gone_on_with_without(tmp_path):
    write_store(tmp_path / "crops", groups=True)
    with pytest.raises(DataFormatError, match="groups True, now None"):
        FeatureWriter(tmp_path / "crops", kind="regions", encoder="test", width=3, classes=["dog", "cup"], sizes=True)


def test_sizes_are_written_or_refused(tmp_path):
    with FeatureWriter(tmp_path, kind="regions", encoder="t", width=1, classes=["dog"], sizes=True) as writer:
        with pytest.raises(ValueError, match="Expected `sizes` of 1 images, but got None"):
            writer.append(["a"], [np.ones((1, 1))], [BOXES[:1]], [np.ones(1)], [["dog"]])


def test_a_cut_column_of_sizes_is_noticed(tmp_path):
    write_store(tmp_path)
    (tmp_path / "sizes.bin").write_bytes(b"1234")
    with pytest.raises(DataFormatError, match=r"4 bytes in sizes.bin"):
        FeatureStore(tmp_path)


# Several images


def test_regions_of_several_images_are_joined():
    one = RegionSet(np.zeros((2, 3)), BOXES, np.ones(2), None, ["dog", "cup"])
    crops = RegionSet(np.ones((3, 3)), np.ones((3, 4)), np.zeros(3), np.array([0, 1, 2]), ["", "dog", "dog"])
    found = join_regions([one, None, crops, one])
    assert found.features[:, 0].tolist() == [0, 0, 1, 1, 1, 0, 0]
    assert found.groups.tolist() == [0, 0, 2, 3, 4, 5, 5]  # the missing one keeps its number
    assert found.names == ["dog", "cup", "", "dog", "dog", "dog", "cup"]
    assert found.boxes.shape == (7, 4)
    assert join_regions([one]) is one
    assert join_regions([None, None]) is None
    assert join_regions([]) is None


def test_images_are_stacked_and_missing_ones_keep_their_place():
    red, blue = torch.ones(3, 2, 2), 2 * torch.ones(3, 2, 2)
    image, mask = join_images([None, red, blue])
    assert image.sum((1, 2, 3)).tolist() == [0, 12, 24]
    assert mask.tolist() == [False, True, True]
    assert join_images([red]) == (red, None)
    assert join_images([None, None]) == join_images([]) == (None, None)


# Posts


def test_what_a_post_has_by_its_ids():
    post = Example("1", "a.jpg", ("x",), None, ("a caption", "tree, red car"), more_images=("b",))
    regions = RegionSet(np.ones((1, 2)), names=["dog"])
    assert PostInputs().object_names(post, regions) == ["dog"]
    assert PostInputs(tags_place=1).object_names(post, regions) == ["tree", "red car"]
    assert PostInputs(names=Texts({}, {"b": "cup,"})).object_names(post, regions) == ["cup"]
    assert PostInputs().object_names(post, None) == []
    assert PostInputs(relations={"a": 0.5, "b": 1.0}).relation(post) == 0.75
    assert PostInputs(relations={"b": 1.0}).relation(post) == 1.0
    assert math.isnan(PostInputs(relations={"1": 1.0}).relation(post))


def test_unknown_needs_are_refused():
    assert check_needs(["boxes", "groups"]) == {"boxes", "groups"}
    with pytest.raises(ValueError, match=r"It needs \['box'\]; expected some of \['boxes', 'contexts'"):
        check_needs({"box"}, "It")


# Batches


@pytest.fixture
def items(tmp_path, bert_folder):
    posts = [
        Example("1", "b", ("anna", "b"), ("B-PER", "O")),
        Example("2", None, ("c",), ("O",)),
        Example("3", "a", ("d",), ("O",), more_images=("gone", "b")),
    ]
    inputs = PostInputs(NEEDS, relations={"a": 0.0, "b": 1.0})
    store = write_store(tmp_path / "store")
    dataset = MNERDataset(posts, LABELS, PostTokenizer(bert_folder), regions=store, inputs=inputs)
    return [dataset[row] for row in range(3)]


def test_stored_regions_bring_what_is_needed(items):
    batch = Collate(0, region_width=3, needs=NEEDS)(items)
    assert batch["region_mask"].sum(1).tolist() == [1, 0, 3]
    assert batch["region_group"].tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 2]]
    assert batch["region_scores"].tolist() == [[0.25, 0, 0], [0, 0, 0], [0.75, 0.5, 0.25]]
    expected = torch.tensor([[0, 0, 1, 0.5], [0.25, 0.25, 0.5, 1], [0, 0, 0.5, 0.5]])
    torch.testing.assert_close(batch["region_boxes"][2], expected)
    torch.testing.assert_close(batch["region_boxes"][0], torch.cat([expected[2:], torch.zeros(2, 4)]))
    assert batch["object_names"] == [["dog", "", ""], ["", "", ""], ["dog", "cup", "dog"]]
    torch.testing.assert_close(batch["relation"], torch.tensor([1.0, math.nan, 0.5]), equal_nan=True)


def test_only_what_is_needed_is_carried(items):
    fields = {"region_boxes", "region_scores", "region_group", "object_names", "relation"}
    assert not fields & set(Collate(0, region_width=3)(items))
    assert fields & set(Collate(0, region_width=3, needs={"groups"})(items)) == {"region_group"}


def test_a_post_alone_is_as_in_a_batch(items):
    collate = Collate(0, region_width=3, needs=NEEDS)
    together = collate(items)
    for row, item in enumerate(items):
        alone = collate([item])
        r = alone["region_mask"].shape[1]
        for field in ("region_boxes", "region_scores", "region_group"):
            assert together[field][row, :r].equal(alone[field][0])


def test_cells_of_images_have_boxes(bert_folder):
    pictures = {"a": torch.ones(3, 4, 4), "b": 2 * torch.ones(3, 4, 4)}
    posts = [Example("1", "a", ("x",)), Example("2", "gone", ("x",)), Example("3", "gone", ("x",), more_images=("b",))]
    dataset = MNERDataset(posts, LABELS, PostTokenizer(bert_folder), pictures.get, lambda image: image)
    collate = Collate(0, (3, 4, 4), needs={"boxes", "scores", "groups", "object_names"}, grid=(1, 2))
    batch = collate([dataset[row] for row in range(3)])
    assert batch["image"].shape == (3, 2, 3, 4, 4)
    assert batch["image_mask"].tolist() == [[True, False], [False, False], [False, True]]
    assert batch["has_image"].tolist() == [True, False, True]
    assert batch["region_scores"].tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]
    assert batch["region_group"].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]
    assert batch["region_boxes"][2].tolist() == [[0] * 4, [0] * 4, [0, 0, 0.5, 1], [0.5, 0, 1, 1]]
    assert batch["object_names"] == [[""] * 4] * 3
    single = collate([dataset[0], dataset[1]])  # no post with several: as ever
    assert single["image"].shape == (2, 3, 4, 4)
    assert "image_mask" not in single
    assert single["region_boxes"].shape == (2, 2, 4)
    assert Collate(0, needs={"boxes"})([dataset[1]])["region_boxes"].shape == (1, 1, 4)


def test_the_description_says_what_is_stored(tmp_path):
    write_store(tmp_path, groups=True)
    meta = json.loads((tmp_path / "meta.json").read_text())
    assert (meta["sizes"], meta["groups"]) == (True, True)
