import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import mner.preprocessing.features
from mner.data.formats.context import read_context
from mner.data.formats.feature_store import FeatureStore
from mner.data.formats.images import ImageFolder
from mner.data.transforms import transform_for
from mner.encoders.detectors import RandomDetector
from mner.encoders.image import ImageEncoder
from mner.errors import DataFormatError, DataNotFoundError
from mner.preprocessing.features import features
from mner.runtime import pick_device
from mner.tagger.feature_encoder import make_encoder


def picture(seed, width=80, height=60):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(5):
        picture(seed, 60 + 20 * seed).save(folder / f"{seed}.{'png' if seed % 2 else 'jpg'}")
    (folder / "broken.jpg").write_text("no image")
    return folder


GRID = {"encoder": "test_resnet", "weights": "random", "image_size": 64, "device": "cpu", "num_workers": 0}
REGIONS = {"regions": "random", "top_k": 4, "device": "cpu", "num_workers": 0}


def test_grid_features_are_the_encoders_own(images, tmp_path, capsys):
    store = features(images, tmp_path / "store", **GRID, batch_size=2, dtype="float32")
    assert sorted(store) == ["0.jpg", "1.png", "2.jpg", "3.png", "4.jpg"]
    torch.manual_seed(0)
    encoder, transform = ImageEncoder("test_resnet"), transform_for("test_resnet", 64)
    folder = ImageFolder(images, transform.shorter_side)
    for key in store:
        expected = encoder(transform(folder.open(key))[None])[0]
        torch.testing.assert_close(torch.from_numpy(store[key].copy()), expected, rtol=1e-4, atol=1e-5)
    assert store.missing(["0", "broken.jpg", "7"]) == ["7"]
    assert store.meta["weights"] == "random"
    assert store.meta["transform"]["size"] == 64
    told = capsys.readouterr().err
    assert "5 images done" in told
    assert "1 of 6 images could not be read (not an image 1): broken.jpg" in told


def test_regions_are_the_detectors_own(images, tmp_path):
    store = features(images, tmp_path / "store", **REGIONS, dtype="float32")
    assert (store.kind, store.width, store.meta["encoder"]) == ("regions", 1024, "random")
    (expected,) = RandomDetector(top_k=4).detect([ImageFolder(images).open("3")])
    assert np.array_equal(store["3"], expected.features.numpy())
    assert np.array_equal(store.boxes("3"), expected.boxes.numpy())
    assert store.names("3") == expected.names


def test_class_names_become_a_text_source(images, tmp_path):
    out = tmp_path / "new" / "names.jsonl"
    store = features(images, tmp_path / "store", **REGIONS, names_out=out)
    texts = read_context(out)
    assert set(texts) == set("01234")
    for key, text in texts.items():
        assert text == ", ".join(dict.fromkeys(store.names(key)))
    bar = float(np.median([store.scores(key).max() for key in store]))
    features(images, tmp_path / "store", **REGIONS, names_out=out, names_min_score=bar)
    assert 0 < len(read_context(out)) < 5  # images without a name that sure get no line
    with pytest.raises(ValueError, match="only detected regions have names"):
        features(images, tmp_path / "store", **GRID, names_out=out)


def test_workers_and_batch_size_change_nothing(images, tmp_path):
    one = features(images, tmp_path / "one", **GRID, batch_size=1)
    other = features(images, tmp_path / "other", **{**GRID, "num_workers": 1}, batch_size=4)
    assert list(one) == list(other)
    for key in one:
        np.testing.assert_allclose(one[key].astype(float), other[key].astype(float), rtol=2e-3, atol=1e-3)


def test_it_goes_on_where_it_stopped(images, tmp_path, monkeypatch, capsys):
    whole = features(images, tmp_path / "whole", **REGIONS)
    seen = []
    detect = RandomDetector.detect

    def stops(self, opened):
        seen.append(len(opened))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return detect(self, opened)

    monkeypatch.setattr(RandomDetector, "detect", stops)
    with pytest.raises(KeyboardInterrupt):
        features(images, tmp_path / "store", **REGIONS, batch_size=2)
    with pytest.raises(DataFormatError, match="was stopped"):
        FeatureStore(tmp_path / "store")
    store = features(images, tmp_path / "store", **REGIONS, batch_size=2)
    assert seen == [2, 2, 2, 1]
    assert "3 images done, 2 were done before" in capsys.readouterr().err
    assert list(store) == list(whole)
    assert all(np.array_equal(store[key], whole[key]) for key in whole)


def test_killed_in_the_midst(images, tmp_path):
    """A kill leaves no time to tidy up."""
    code = """
import os, signal, sys
from pathlib import Path
from mner.encoders.detectors import RandomDetector
from mner.preprocessing.features import features
detect, calls = RandomDetector.detect, []
def killed(self, opened):
    calls.append(1)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return detect(self, opened)
RandomDetector.detect = killed
features(Path(sys.argv[1]), Path(sys.argv[2]), regions="random", top_k=4, device="cpu", num_workers=0, batch_size=1)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(images), str(tmp_path / "store")]
    assert subprocess.run(command, env=environment, check=False, capture_output=True).returncode == -signal.SIGKILL
    store = features(images, tmp_path / "store", **REGIONS)
    whole = features(images, tmp_path / "whole", **REGIONS)
    assert list(store) == list(whole)
    assert all(np.array_equal(store[key], whole[key]) for key in whole)


def test_a_second_folder_is_added(images, tmp_path):
    more = tmp_path / "more"
    more.mkdir()
    picture(9).save(more / "9.png")
    features(images, tmp_path / "store", **REGIONS)
    store = features(more, tmp_path / "store", **REGIONS)
    assert sorted(store) == ["0.jpg", "1.png", "2.jpg", "3.png", "4.jpg", "9.png"]
    assert store.broken == {"broken.jpg": "not an image"}


def test_other_weights_are_not_mixed_in(images, tmp_path):
    features(images, tmp_path / "store", **GRID)
    with pytest.raises(DataFormatError, match="weights_hash"):
        features(images, tmp_path / "store", **GRID, seed=1)
    torch.save(ImageEncoder("test_resnet").backbone.state_dict(), tmp_path / "mine.pth")
    with pytest.raises(DataFormatError, match=r"weights 'random', now 'mine\.pth'"):
        features(images, tmp_path / "store", **{**GRID, "weights": str(tmp_path / "mine.pth")})


def test_a_store_has_one_precision(images, tmp_path, monkeypatch, capsys):
    full = features(images, tmp_path / "full", **GRID)
    assert "precision" not in full.meta  # as stores of before
    monkeypatch.setattr(mner.preprocessing.features, "automatic_precision", lambda *given: "bf16-mixed")
    lower = features(images, tmp_path / "lower", **GRID, precision="auto")
    assert "precision auto: bf16-mixed\n" in capsys.readouterr().err
    assert lower.meta["precision"] == "bf16-mixed"
    near = [abs(full[key].astype(float) - lower[key]).max() / abs(full[key]).max() for key in full]
    assert 0 < max(near) < 0.05
    with pytest.raises(DataFormatError, match="precision None, now 'bf16-mixed'"):
        features(images, tmp_path / "full", **GRID, precision="bf16-mixed")
    with pytest.raises(DataFormatError, match="precision 'bf16-mixed', now None"):
        features(images, tmp_path / "lower", **GRID)
    features(images, tmp_path / "full", **GRID, precision="auto")  # goes on as it was begun
    assert "precision auto: 32-true\n" in capsys.readouterr().err


@pytest.mark.parametrize(("slow", "found"), [(False, "bf16-mixed"), (True, "32-true")])
def test_the_encoder_itself_is_measured(images, tmp_path, monkeypatch, slow, found):
    """An encoder that takes a second more, by the clock, in one of the precisions."""
    for name in [name for name in os.environ if name.startswith("MNER_PRECISION")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("mner.runtime.slow_bfloat16", lambda device: False)
    late, real = [0.0], ImageEncoder.forward

    def forward(self, *given):
        late[0] += torch.is_autocast_enabled("cpu") == slow
        return real(self, *given)

    monkeypatch.setattr(ImageEncoder, "forward", forward)
    monkeypatch.setattr(mner.preprocessing.features.time, "perf_counter", lambda: late[0])
    store = features(images, tmp_path / "store", **GRID, precision="auto")
    for name in [name for name in os.environ if name.startswith("MNER_PRECISION")]:
        os.environ.pop(name)  # what was found here is not for other tests
    assert store.meta.get("precision", "32-true") == found


def test_detectors_compute_in_float32(images, tmp_path):
    with pytest.raises(ValueError, match="Expected `precision` to be 32-true with `regions` or crops"):
        features(images, tmp_path / "store", **REGIONS, precision="bf16-mixed")
    assert "precision" not in features(images, tmp_path / "store", **REGIONS, precision="auto").meta


def test_random_weights_leave_the_generator_alone(images, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    features(images, tmp_path / "store", **GRID)
    assert torch.equal(torch.rand(1), expected)


def test_bad_input(images, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFoundError, match="No images in"):
        features(tmp_path / "empty", tmp_path / "store", **GRID)
    with pytest.raises(DataNotFoundError, match="nowhere"):
        features(tmp_path / "nowhere", tmp_path / "store", **GRID)
    with pytest.raises(ValueError, match="`batch_size` to be at least 1"):
        features(images, tmp_path / "store", **GRID, batch_size=0)
    with pytest.raises(ValueError, match="file or 'random' for detectron2"):
        features(images, tmp_path / "store", regions="detectron2")


def test_pretrained_means_torchvisions_own_for_its_detector(images, tmp_path, monkeypatch):
    asked = []

    def build(*arguments):
        asked.append(arguments)
        return RandomDetector(top_k=2, width=8)

    monkeypatch.setattr(mner.preprocessing.features, "build_detector", build)
    features(images, tmp_path / "a", regions="torchvision", device="cpu", num_workers=0)
    features(images, tmp_path / "b", regions="torchvision", weights="mine.pth", device="cpu", num_workers=0)
    features(images, tmp_path / "c", regions="torchvision", weights="random", device="cpu", num_workers=0)
    assert asked == [("torchvision", "COCO", 10), ("torchvision", "mine.pth", 10), ("torchvision", None, 10)]
    assert FeatureStore(tmp_path / "b").meta["weights"] == "mine.pth"


def test_as_a_command(images, tmp_path):
    from jsonargparse import auto_cli

    options = [f"--images={images}", f"--out={tmp_path / 'store'}", "--regions=random", "--num_workers=0"]
    auto_cli(features, args=[*options, f"--names_out={tmp_path / 'names.jsonl'}"], as_positional=False)
    assert len(FeatureStore(tmp_path / "store")) == 5
    assert (tmp_path / "names.jsonl").exists()


def test_pick_device():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps", "xpu")


CROPS = {**GRID, "regions": "random", "crops": 2}


def test_crops_are_the_whole_image_and_the_best_boxes(images, tmp_path):
    store = features(images, tmp_path / "crops", **CROPS, names_out=tmp_path / "names.jsonl")
    assert store["0"].shape == (3, 96)
    assert store.groups("0").tolist() == [0, 1, 2]
    assert store.size("1") == (80, 60)
    assert store.places("0")[0].tolist() == [0, 0, 1, 1]
    assert store.meta["groups"] is store.meta["sizes"] is True
    assert store.meta["transform"]["encoder"] == "test_resnet"
    assert store.meta["transform"]["detector"]["top_k"] == 2
    assert "2 crops by random" in store.meta["encoder"]
    names = read_context(tmp_path / "names.jsonl")
    assert names["0"] == ", ".join(dict.fromkeys(name for name in store.names("0") if name))


def test_a_pyramid_is_said_in_the_description(images, tmp_path):
    store = features(images, tmp_path / "pyramid", **CROPS, pyramid=True)
    assert store["0"].shape == (3, 4 * 368)
    assert store.meta["transform"]["pyramid"] == {"layers": 4, "side": 2}
    whole = features(images, tmp_path / "whole", **GRID, pyramid=True)
    np.testing.assert_allclose(whole["0"][0], store["0"][0], rtol=1e-2, atol=1e-2)
    assert whole.meta["transform"]["detector"] is None
    with pytest.raises(DataFormatError, match="features made otherwise"):
        features(images, tmp_path / "whole", **CROPS, pyramid=True)


def test_the_tagger_makes_crops_again(images, tmp_path):
    store = features(images, tmp_path / "crops", **CROPS, pyramid=True, dtype="float32")
    (found,) = make_encoder(store.meta).detect([ImageFolder(images).open("1")])
    np.testing.assert_allclose(found.features, store["1"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.boxes, store.boxes("1"))
    assert found.names == store.names("1")


def test_regions_have_the_sizes_of_their_images(images, tmp_path):
    store = features(images, tmp_path / "store", **REGIONS)
    assert store.size("2") == (100, 60)
    np.testing.assert_allclose(store.places("2") * [100, 60, 100, 60], store.boxes("2"), rtol=1e-5)
    assert "groups" not in store.meta


def test_crops_cannot_be_fewer_than_none(images, tmp_path):
    with pytest.raises(ValueError, match="`crops` to be 0 or more, but got -1"):
        features(images, tmp_path / "store", **GRID, crops=-1)


def test_strange_names_are_told_and_the_rest_is_done(images, tmp_path, capsys):
    for name in (b"caf\xe9.jpg", b"a\tb.jpg", b"a\nb.jpg", b".jpg"):
        (images / os.fsdecode(name)).write_bytes((images / "0.jpg").read_bytes())
    (images / "d").write_bytes((images / "1.png").read_bytes())
    for _ in range(2):
        store = features(images, tmp_path / "store", **REGIONS)
        assert sorted(store) == ["0.jpg", "1.png", "2.jpg", "3.png", "4.jpg", "d"]
        told = capsys.readouterr().err
        assert "5 of 11 images could not be read (unusable name 4, not an image 1)" in told
        assert all(name in told for name in (".jpg", r"caf\udce9.jpg", r"a\tb.jpg", r"a\nb.jpg"))
    assert np.array_equal(store["d"], store["1"])


def test_names_of_two_stems(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    picture(1).save(folder / "1.jpg")
    picture(2).save(folder / "1.png")
    store = features(folder, tmp_path / "store", **REGIONS, names_out=tmp_path / "names.jsonl")
    assert not np.array_equal(store["1.jpg"], store["1.png"])
    notes = tmp_path / "notes.jsonl"
    notes.write_text("mine")
    with pytest.raises(DataFormatError, match="Move it away"):
        features(folder, tmp_path / "store", **REGIONS, names_out=notes)
    assert notes.read_text() == "mine"
