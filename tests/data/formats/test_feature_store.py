import json
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from mner.data.formats.feature_store import FeatureStore, FeatureWriter
from mner.errors import DataFormatError, DataNotFoundError

OPTIONS = {"kind": "grid", "encoder": "test_resnet", "width": 4, "weights": "random", "weights_hash": "abc"}
REGIONS = {**OPTIONS, "kind": "regions", "encoder": "random", "classes": ["person", "dog"]}


def grid(number, rows=3, width=4):
    return np.random.default_rng(number).normal(size=(rows, width)).astype(np.float32)


def write(path, numbers, finish=True, **options):
    with FeatureWriter(path, **{**OPTIONS, **options}) as writer:
        for number in numbers:
            if f"image{number}" not in writer:
                writer.append([f"image{number}"], [grid(number, rows=1 + number % 3)])
        if finish:
            writer.finish()


def test_what_is_written_is_read(tmp_path):
    transform = {"size": 64, "mean": (0.5, 0.5, 0.5)}
    with FeatureWriter(tmp_path, **OPTIONS, transform=transform) as writer:
        writer.append(["a.jpg", "b"], [grid(1), grid(2, rows=5)])
        writer.append(["c"], [grid(3, rows=0)])
        assert "a.jpg" in writer
        assert "a.png" not in writer
        assert len(writer) == 3
        writer.finish({"d": "empty"})
    store = FeatureStore(tmp_path)
    assert (store.width, store.kind, len(store), list(store)) == (4, "grid", 3, ["a.jpg", "b", "c"])
    assert np.array_equal(store["a"], grid(1).astype(np.float16))
    assert np.array_equal(store["b.jpg"], grid(2, rows=5).astype(np.float16))
    assert store["c"].shape == (0, 4)
    assert store["a"].dtype == np.float16
    assert type(store["a"]) is np.ndarray
    assert not store["a"].flags.writeable
    assert "a.png" in store
    assert "d" not in store
    assert store.missing(["a", "d.jpg", "x.jpg", "x.jpg"]) == ["x.jpg"]
    assert store.broken == {"d": "empty"}
    expected = {**OPTIONS, "dtype": "float16", "images": 3, "regions": 8, "complete": True}
    assert expected.items() <= store.meta.items()
    assert store.meta["transform"] == {"size": 64, "mean": [0.5, 0.5, 0.5]}
    assert "test_resnet" in repr(store)


def test_float32_is_exact(tmp_path):
    write(tmp_path, [1], dtype="float32")
    assert np.array_equal(FeatureStore(tmp_path)["image1"], grid(1, rows=2))


def test_regions_keep_boxes_scores_and_names(tmp_path):
    boxes = np.array([[0, 0, 5, 5], [1, 2, 3, 4]], dtype=np.float32)
    with FeatureWriter(tmp_path, **REGIONS) as writer:
        writer.append(["a"], [grid(1, 2)], [boxes], [[0.9, 0.25]], [["dog", "person"]])
        writer.append(["b"], [grid(2, 0)], [np.zeros((0, 4))], [[]], [[]])
        writer.append(["c"], [grid(3, 1)], [boxes[:1]], [[0.5]], [["dog"]])
        writer.finish()
    store = FeatureStore(tmp_path)
    assert np.array_equal(store.boxes("a"), boxes)
    assert np.array_equal(store.scores("a"), np.float32([0.9, 0.25]))
    assert (store.names("a"), store.names("b"), store.names("c")) == (["dog", "person"], [], ["dog"])
    assert store.boxes("b").shape == (0, 4)


def test_a_grid_has_no_boxes(tmp_path):
    write(tmp_path, [1])
    with pytest.raises(ValueError, match="only detected regions have boxes"):
        FeatureStore(tmp_path).boxes("image1")
    with pytest.raises(KeyError, match="no features of image 'image9'"):
        FeatureStore(tmp_path)["image9"]


def test_an_empty_store(tmp_path):
    write(tmp_path, [])
    store = FeatureStore(tmp_path)
    assert len(store) == 0
    assert store.missing(["a"]) == ["a"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": [grid(1, width=3)]}, r"`features` of shape \(3, 4\) for image 'a', but got \(3, 3\)"),
        ({"boxes": [np.zeros((2, 4))]}, r"`boxes` of shape \(3, 4\)"),
        ({"boxes": None}, "`boxes` of 1 images, but got None"),
        ({"scores": []}, "`scores` of 1 images, but got 0"),
        ({"names": [["dog", "dog", "cat"]]}, "but got 'cat'"),
        ({"features": [grid(1) * 1e6]}, "not finite as <f2; use dtype 'float32'"),
        ({"features": [grid(1) * float("nan")]}, "not finite"),
        ({"image_ids": ["old"]}, r"does not have, but got \['old'\]"),
        ({"image_ids": ["a\tb"]}, "without tabs"),
    ],
)
def test_bad_input_changes_nothing(tmp_path, change, message):
    good = {"boxes": [np.zeros((3, 4))], "scores": [[0.1] * 3], "names": [["dog"] * 3]}
    with FeatureWriter(tmp_path, **REGIONS) as writer:
        writer.append(["old"], [grid(0)], **good)
        with pytest.raises(ValueError, match=message):
            writer.append(**{"image_ids": ["a"], "features": [grid(1)], **good, **change})
        writer.append(["a"], [grid(1)], **good)
        writer.finish()
    assert np.array_equal(FeatureStore(tmp_path)["a"], grid(1).astype(np.float16))


def test_the_same_id_twice_in_one_call(tmp_path):
    with FeatureWriter(tmp_path, **OPTIONS) as writer, pytest.raises(ValueError, match=r"but got \['a'\]"):
        writer.append(["a", "a"], [grid(1), grid(1)])


def test_a_name_with_a_suffix_is_that_image(tmp_path):
    with FeatureWriter(tmp_path, **OPTIONS) as writer:
        writer.append(["1.jpg", "1.png", "2.JPG"], [grid(1), grid(2), grid(3)])
        writer.finish({"3.png": "empty"})
    store = FeatureStore(tmp_path)
    assert list(store) == ["1.jpg", "1.png", "2.JPG"]
    for name, number in (("1.jpg", 1), ("1.png", 2), ("2", 3), ("2.jpg", 3), ("2.png", 3)):
        assert np.array_equal(store[name], grid(number).astype(np.float16))
    with pytest.raises(DataFormatError, match=r"1.jpg and 1.png for the image '1'"):
        store["1"]
    assert store.missing(["1.png", "3", "4"]) == ["4"]
    assert "2.png as 2.JPG" in store.names_index.report()


def test_a_store_of_before_loads_and_goes_on(tmp_path):
    """Its images are known without their suffixes."""
    write(tmp_path, range(2), finish=False)
    meta = json.loads((tmp_path / "meta.json").read_text())
    del meta["suffixes"]
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    with FeatureWriter(tmp_path, **OPTIONS) as writer:
        assert "image1.png" in writer
        writer.append(["image2.jpg"], [grid(2, rows=1 + 2 % 3)])
        writer.finish()
    store = FeatureStore(tmp_path)
    assert list(store) == ["image0", "image1", "image2"]
    check_all(store)
    assert np.array_equal(store["image1.jpg"], store["image1"])
    assert store.names_index.report() == ""


def test_unfinished_is_said_and_can_be_gone_on_with(tmp_path):
    write(tmp_path, range(4), finish=False)
    with pytest.raises(DataFormatError, match="was stopped; expected a complete store"):
        FeatureStore(tmp_path)
    write(tmp_path, range(8))
    store = FeatureStore(tmp_path)
    assert list(store) == [f"image{number}" for number in range(8)]
    check_all(store)


def check_all(store):
    for key in store:
        number = int(key.removeprefix("image"))
        assert np.array_equal(store[key], grid(number, rows=1 + number % 3).astype(np.float16))


def test_a_finished_store_takes_more_images(tmp_path):
    """So a data set with a folder of images for each split gets one store."""
    write(tmp_path, range(2))
    write(tmp_path, range(4))
    check_all(FeatureStore(tmp_path))
    assert len(FeatureStore(tmp_path)) == 4


def test_mended_images_are_broken_no_more(tmp_path):
    with FeatureWriter(tmp_path, **OPTIONS) as writer:
        writer.finish({"image1": "empty", "image2": "missing"})
    write(tmp_path, [1])
    assert FeatureStore(tmp_path).broken == {"image2": "missing"}


@pytest.mark.parametrize("file", ["index.tsv", "features.bin"])
@pytest.mark.parametrize("cut", [0, 1, 7, 8, 9, 17, 23, 24, 33, 40])
def test_a_tail_cut_anywhere_is_dropped_and_written_again(tmp_path, file, cut):
    write(tmp_path, range(4), finish=False)
    os.truncate(tmp_path / file, min(cut, (tmp_path / file).stat().st_size))
    write(tmp_path, range(6))
    store = FeatureStore(tmp_path)
    assert set(store) == {f"image{number}" for number in range(6)}
    check_all(store)


def test_data_that_the_index_does_not_name_are_dropped(tmp_path):
    write(tmp_path, range(4), finish=False)
    with (tmp_path / "features.bin").open("ab") as file:
        file.write(b"\x01" * 13)
    write(tmp_path, range(6))
    check_all(FeatureStore(tmp_path))


KILLED = """
import sys
from test_feature_store import OPTIONS, FeatureWriter, grid
with FeatureWriter(sys.argv[1], **OPTIONS) as writer:
    number = len(writer)
    while True:
        writer.append([f"image{number}"], [grid(number, rows=1 + number % 3)])
        number += 1
        print(number, flush=True)
"""


def test_killed_writers_lose_nothing(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    told = 0
    for pause in (0.0, 0.01):  # somewhere within the next images
        command = [sys.executable, "-c", KILLED, str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        for _ in range(3):
            told = int(process.stdout.readline())
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    with FeatureWriter(tmp_path, **OPTIONS) as writer:
        count = len(writer)
        writer.finish()
    assert count >= told >= 6
    store = FeatureStore(tmp_path)
    assert list(store) == [f"image{number}" for number in range(count)]
    check_all(store)


def test_two_writers_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mner.files.WAIT", 0.2)
    with FeatureWriter(tmp_path, **OPTIONS), pytest.raises(BlockingIOError, match="Another process is writing"):
        FeatureWriter(tmp_path, **OPTIONS)
    FeatureWriter(tmp_path, **OPTIONS).close()


@pytest.mark.parametrize(
    "change",
    [{"encoder": "resnet152"}, {"weights_hash": "xyz"}, {"transform": {"size": 9}}, {"dtype": "float32"}, {"width": 5}],
)
def test_other_features_are_not_mixed_in(tmp_path, change):
    write(tmp_path, [1])
    name = next(iter(change))
    with pytest.raises(DataFormatError, match=f"features made otherwise \\({name} .*, now "):
        FeatureWriter(tmp_path, **{**OPTIONS, **change})
    check_all(FeatureStore(tmp_path))  # nothing was touched


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DataFormatError, match=r"a folder with \['thesis.tex'\]"):
        FeatureWriter(tmp_path, **OPTIONS)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_bad_options(tmp_path):
    with pytest.raises(ValueError, match="`dtype` to be one of"):
        FeatureWriter(tmp_path / "a", **OPTIONS, dtype="int8")
    with pytest.raises(ValueError, match="`kind` to be 'grid' or 'regions'"):
        FeatureWriter(tmp_path / "a", **{**OPTIONS, "kind": "boxes"})


def test_no_store(tmp_path):
    with pytest.raises(DataNotFoundError, match="mner features --images"):
        FeatureStore(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("meta.json", "{", "expected the description of stored features"),
        ("meta.json", "[]", "expected the description of stored features"),
        ("meta.json", '{"mner_features": 1}', "expected the description of stored features"),
        ("index.tsv", "2\timage1\nx\timage2\n", "index.tsv:2: found 'x\\\\timage2'"),
        ("index.tsv", "2\timage1\n", "an index of {'images': 1, 'regions': 2}, but meta.json says"),
        ("features.bin", "short", "5 bytes in features.bin; expected"),
    ],
)
def test_damage_is_found_when_the_store_is_opened(tmp_path, file, content, message):
    write(tmp_path, range(1, 4))
    (tmp_path / file).write_text(content)
    with pytest.raises(DataFormatError, match=message):
        FeatureStore(tmp_path)


def test_another_version(tmp_path):
    write(tmp_path, [1])
    meta = json.loads((tmp_path / "meta.json").read_text()) | {"mner_features": 2}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DataFormatError, match="version 2"):
        FeatureStore(tmp_path)


def test_check_says_before_training_what_does_not_fit(tmp_path):
    write(tmp_path, [1])
    store = FeatureStore(tmp_path)
    store.check(width=4, kind="grid")
    with pytest.raises(DataFormatError, match=r"features of width 4 \(made by test_resnet\); expected width 2048"):
        store.check(width=2048)
    with pytest.raises(DataFormatError, match="expected kind 'regions'"):
        store.check(kind="regions")


class Rows(Dataset):
    def __init__(self, store):
        self.store = store

    def __len__(self):
        return len(self.store)

    def __getitem__(self, index):
        return index, self.store[f"image{index}"].copy()


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_the_same(tmp_path, context):
    write(tmp_path, range(6))
    store = FeatureStore(tmp_path)
    again = pickle.loads(pickle.dumps(store))
    check_all(again)
    assert len(pickle.dumps(store)) < 500  # a path, not the features
    loader = DataLoader(Rows(store), batch_size=None, num_workers=1, multiprocessing_context=context)
    for index, features in loader:
        assert np.array_equal(features, store[f"image{index}"])
