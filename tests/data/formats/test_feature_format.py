"""The files of a store are those that the documentation names: made by hand they are read; what is wrong is told."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import mner
from mner.data.formats.feature_store import FeatureStore
from mner.data.formats.feature_writer import FeatureWriter
from mner.errors import DataFormatError, DataNotFoundError

GRID = {"kind": "grid", "encoder": "test_resnet", "width": 4}
REGIONS = {"kind": "regions", "encoder": "detector", "width": 2, "classes": ["dog", "cat"], "dtype": "float32"}
ARRAYS = {
    "features.bin": np.array([[1, 2], [3, 4], [5, 6]], "<f4"),
    "boxes.bin": np.array([[0, 0, 4, 8], [2, 2, 4, 4], [1, 2, 3, 4]], "<f4"),
    "scores.bin": np.array([0.75, 0.5, 0.25], "<f4"),
    "labels.bin": np.array([1, 0, 1], "<i2"),
    "sizes.bin": np.array([[4, 8], [4, 8], [6, 5]], "<i4"),
    "groups.bin": np.array([0, 1, 0], "<i2"),
}
META = {
    "mner_features": 1,
    "kind": "regions",
    "encoder": "detector",
    "width": 2,
    "weights": None,
    "weights_hash": None,
    "transform": {},
    "dtype": "float32",
    "classes": ["dog", "cat"],
    "suffixes": True,
    "mner": mner.__version__,
    "complete": True,
    "sizes": True,
    "groups": True,
    "images": 2,
    "regions": 3,
}
INDEX = "2\ta.jpg\n1\tb\n"


def test_a_store_made_by_hand_is_read(tmp_path):
    for name, array in ARRAYS.items():
        (tmp_path / name).write_bytes(array.tobytes())
    (tmp_path / "index.tsv").write_text(INDEX)
    (tmp_path / "meta.json").write_text(json.dumps(META))
    store = FeatureStore(tmp_path)
    assert store["a.jpg"].tolist() == [[1, 2], [3, 4]]
    assert store.boxes("b").tolist() == [[1, 2, 3, 4]]
    assert store.scores("a.jpg").tolist() == [0.75, 0.5]
    assert store.names("a.jpg") == ["cat", "dog"]
    assert (store.size("a.jpg"), store.size("b")) == ((4, 8), (6, 5))
    assert store.groups("a.jpg").tolist() == [0, 1]
    assert store.places("a.jpg").tolist() == [[0, 0, 1, 1], [0.5, 0.25, 1, 0.5]]
    assert store.broken == {}
    (tmp_path / "sizes.bin").write_bytes(np.array([[1, 1], [1, 8], [0, 0]], "<i4").tobytes())
    small = FeatureStore(tmp_path)
    assert small.places("a.jpg").tolist() == [[0, 0, 1, 1], [1, 0.25, 1, 0.5]]  # within the image
    assert small.places("b").tolist() == [[1, 1, 1, 1]]  # 0 stands for no picture; no division by it
    assert repr(store) == f"FeatureStore({str(tmp_path)!r}: 2 images by detector, width 2)"


def test_a_store_is_written_as_by_hand(tmp_path):
    by_name = {name.removesuffix(".bin"): array for name, array in ARRAYS.items()}
    tmp_path = tmp_path / "not" / "there"
    with FeatureWriter(tmp_path, **REGIONS, sizes=True, groups=True) as writer:
        for image_id, rows in (("a.jpg", slice(0, 2)), ("b", slice(2, 3))):
            writer.append(
                [image_id],
                [by_name["features"][rows]],
                [by_name["boxes"][rows]],
                [by_name["scores"][rows]],
                [[REGIONS["classes"][label] for label in by_name["labels"][rows]]],
                [tuple(by_name["sizes"][rows][0])],
                [by_name["groups"][rows]],
            )
        writer.finish()
    for name, array in ARRAYS.items():
        assert (tmp_path / name).read_bytes() == array.tobytes()
    assert (tmp_path / "index.tsv").read_text() == INDEX
    assert json.loads((tmp_path / "meta.json").read_text()) == META
    others = {path.name for path in tmp_path.iterdir()} - set(ARRAYS)
    assert others == {"index.tsv", "meta.json", "broken.json", "lock"}


@pytest.mark.parametrize("version", ["0.1.0", None])
def test_regions_of_before_have_no_sizes(tmp_path, version):
    for name, array in ARRAYS.items():
        (tmp_path / name).write_bytes(array.tobytes())
    (tmp_path / "index.tsv").write_text(INDEX)
    old = {key: value for key, value in META.items() if key not in ("sizes", "groups", "mner")}
    (tmp_path / "meta.json").write_text(json.dumps(old | ({"mner": version} if version else {})))
    store = FeatureStore(tmp_path)
    assert store.groups("a.jpg").tolist() == [0, 0]
    for use in (store.check_sizes, lambda: store.places("a"), lambda: store.size("a")):
        assert told(DataFormatError, use) == (
            f"{tmp_path}: found boxes without the sizes of their images (stored by mner {version or 0}); expected "
            "sizes, without which boxes are not known in 0..1. "
            "Extract again into a new folder: `mner features --regions … --images … --out …`."
        )


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store of one image in the folder `s`."""
    monkeypatch.chdir(tmp_path)
    with FeatureWriter("s", **GRID) as writer:
        writer.append(["a.jpg"], [np.ones((2, 4))])
        writer.finish()
    return Path("s")


def told(error, run):
    with pytest.raises(error) as caught:
        run()
    return str(caught.value)


MADE_OTHERWISE = (
    "expected one encoder, one set of weights and one transform in a store. "
    "Name another folder for the new features, or delete this one."
)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "meta.json",
            "[]",
            "s/meta.json: found something else (TypeError('list indices must be integers or slices, not str')); "
            "expected the description of stored features, version 1.",
        ),
        (
            "index.tsv",
            "x\ta\n",
            "s/index.tsv:1: found 'x\\ta'; expected number of regions, tab, new image key. "
            "Delete the store and extract again.",
        ),
        (
            "index.tsv",
            "2\ta\n2\tb\n",
            "s: found an index of {'images': 2, 'regions': 4}, but meta.json says {'images': 1, 'regions': 2}; "
            "expected equal counts. The store is damaged: delete it and extract again.",
        ),
        (
            "features.bin",
            "short",
            "s: found 5 bytes in features.bin; expected 16 (2 regions). "
            "The store is damaged: delete it and extract again.",
        ),
        ("broken.json", '["a"]', "s/broken.json: found something else (['a']); expected reasons by image key."),
        ("broken.json", '{"a": 1}', "s/broken.json: found something else ({'a': 1}); expected reasons by image key."),
    ],
)
def test_damage_is_told(store, file, content, message):
    (store / file).write_text(content)
    assert told(DataFormatError, lambda: FeatureStore(store).broken) == message


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"mner_features": 2}, "version 2, kind 'grid', dtype 'float16', width 4"),
        ({"kind": "x"}, "version 1, kind 'x', dtype 'float16', width 4"),
        ({"dtype": "<f2"}, "version 1, kind 'grid', dtype '<f2', width 4"),
        ({"width": 0}, "version 1, kind 'grid', dtype 'float16', width 0"),
        ({"width": "4"}, "version 1, kind 'grid', dtype 'float16', width '4'"),
    ],
)
def test_another_version_is_told(store, change, found):
    meta = json.loads((store / "meta.json").read_text())
    (store / "meta.json").write_text(json.dumps(meta | change))
    expected = "the description of stored features, version 1. Was it made by another version of mner?"
    assert told(DataFormatError, lambda: FeatureStore(store)) == f"s/meta.json: found {found}; expected {expected}"


def test_what_else_is_told(store):
    found = FeatureStore(store)
    advice = "Extract features for this model (`mner features`), or change the model."
    made = "(made by test_resnet)"
    assert told(DataFormatError, lambda: found.check(8)) == (
        f"s: found features of width 4 {made}; expected width 8. {advice}"
    )
    assert told(DataFormatError, lambda: found.check(kind="regions")) == (
        f"s: found features of kind 'grid' {made}; expected kind 'regions'. {advice}"
    )
    assert told(ValueError, lambda: found.boxes("a")) == (
        "s holds a grid of features; only detected regions have boxes"
    )
    assert told(KeyError, lambda: found["b"]) == (
        '"s has no features of image \'b\'; `in` and `missing` say which it has"'
    )
    assert told(DataFormatError, lambda: found.places("a")) == (
        "s: found 2 cells of image 'a'; expected a square grid, for boxes."
    )
    assert told(DataFormatError, lambda: FeatureWriter(store, **GRID | {"encoder": "other"})) == (
        f"s: found features made otherwise (encoder 'test_resnet', now 'other'); {MADE_OTHERWISE}"
    )
    assert told(DataFormatError, lambda: FeatureWriter(store, **GRID | {"classes": ["dog"]})) == (
        f"s: found features made otherwise (other classes); {MADE_OTHERWISE}"
    )
    meta = json.loads((store / "meta.json").read_text())
    (store / "meta.json").write_text(json.dumps(meta | {"complete": False}))
    assert told(DataFormatError, lambda: FeatureStore(store)) == (
        "s: found an extraction that was stopped; expected a complete store. Run the same command again."
    )
    shutil.rmtree(store)
    assert told(DataNotFoundError, lambda: FeatureStore(store)) == (
        "No stored features at 's' (no meta.json there); `mner features --images FOLDER --out FOLDER` makes them"
    )
    store.mkdir()
    (store / "thesis.tex").touch()
    assert told(DataFormatError, lambda: FeatureWriter(store, **GRID)) == (
        "s: found a folder with ['thesis.tex']; expected a new, an empty, or a store's folder. Name another."
    )


def test_what_a_writer_refuses(tmp_path):
    values = np.ones((1, 4))
    with FeatureWriter(tmp_path / "s", **GRID) as writer:

        def refused(names, features):
            return told(ValueError, lambda: writer.append(names, features))

        assert refused(["a", "a"], [values] * 2) == "Expected images that the store does not have, but got ['a']"
        assert refused(["a\t"], [values]) == (
            "Expected image ids in UTF-8, without tabs and line breaks, but got ['a\\t']"
        )
        assert refused(["a"], [values[:, :3]]) == "Expected `features` of shape (1, 4) for image 'a', but got (1, 3)"
        assert refused(["a", "b"], [values]) == "Expected `features` of 2 images, but got 1"
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy would warn of what is told anyway
            found = refused(["a"], [1e9 * values])
        assert found == (
            "The features of image 'a' are not finite as <f2; use dtype 'float32' if they are too large for float16, "
            "and check the weights of the encoder"
        )
    assert told(ValueError, lambda: FeatureWriter(tmp_path, **GRID, dtype="f8")) == (
        "Expected argument `dtype` to be one of ['float16', 'float32'], but got 'f8'"
    )
    assert told(ValueError, lambda: FeatureWriter(tmp_path, **GRID | {"kind": "cells"})) == (
        "Expected argument `kind` to be 'grid' or 'regions', but got 'cells'"
    )
