import json

import pytest
import torch

from mner.data.formats.context import read_context
from mner.data.inputs import join_names, split_names
from mner.encoders.classifier import ImageClassifier
from mner.encoders.detectors import RandomDetector
from mner.errors import DataFormatError, DataNotFoundError
from mner.preprocessing.features import features
from mner.preprocessing.objects import ObjectNames, objects
from tests.preprocessing.test_captions import picture

QUICK = {"weights": "random", "device": "cpu", "num_workers": 0}


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(4):
        picture(seed).save(folder / f"{seed}.png")
    (folder / "broken.jpg").write_text("no image")
    return folder


def test_names_of_a_detector_are_those_of_its_stored_regions(images, tmp_path):
    objects(images, tmp_path / "tags.jsonl", "random", top_k=4, min_score=0.4, **QUICK)
    features(images, tmp_path / "store", regions="random", top_k=4, names_out=tmp_path / "names.jsonl",
             names_min_score=0.4, device="cpu", num_workers=0)  # fmt: skip
    found, stored = read_context(tmp_path / "tags.jsonl"), read_context(tmp_path / "names.jsonl")
    assert {key: text for key, text in found.items() if text} == dict(stored)
    assert len(set(stored.values())) > 1
    regions = RandomDetector(4).detect([picture(2)])[0]
    assert found["2"] == join_names(regions.names, regions.scores.tolist(), 0.4)


def test_names_of_a_classifier_are_its_best_classes(images, tmp_path, capsys):
    out = tmp_path / "new" / "tags.jsonl"
    objects(images, out, "test_resnet", top_k=3, min_score=0, **QUICK)
    assert "1 of 5 images could not be read (not an image 1): broken.jpg" in capsys.readouterr().err
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = ImageClassifier("test_resnet")
    texts = read_context(out)
    for seed in range(4):
        assert split_names(texts[str(seed)]) == [name for name, _ in classifier([picture(seed)], 3)[0]]
    assert json.loads(out.read_text().splitlines()[0])["model"] == "test_resnet"


def test_nothing_sure_enough_is_an_empty_line(images, tmp_path, capsys):
    objects(images, tmp_path / "tags.jsonl", "test_resnet", min_score=0.9, **QUICK)
    assert set(read_context(tmp_path / "tags.jsonl").values()) == {""}
    assert "4 of them have no text; their lines are empty" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["random", "test_resnet"])
def test_stopped_anywhere_it_goes_on(images, tmp_path, model):
    out = tmp_path / "tags.jsonl"
    objects(images, out, model, min_score=0, batch_size=2, **QUICK)
    whole = out.read_bytes()
    for kept in (4, whole.index(b"\n") + 1, len(whole) - 3):
        out.write_bytes(whole[:kept])
        objects(images, out, model, min_score=0, **QUICK)
        assert out.read_bytes() == whole
    with pytest.raises(DataFormatError, match="top_k 5, now 6"):
        objects(images, out, model, min_score=0, top_k=6, **QUICK)


def test_what_does_not_fit_is_refused(tmp_path, images):
    (tmp_path / "none").mkdir()
    with pytest.raises(DataNotFoundError, match="No images in"):
        objects(tmp_path / "none", tmp_path / "out.jsonl", "random", **QUICK)
    with pytest.raises(ValueError, match="`top_k` to be at least 1"):
        ObjectNames("random", top_k=0)
    with pytest.raises(ValueError, match="Expected the name of a timm model, but got 'resnett50'"):
        objects(images, tmp_path / "out.jsonl", "resnett50", **QUICK)
    with pytest.raises(ValueError, match="file or 'random' for detectron2"):
        ObjectNames("detectron2")
    assert ObjectNames("random", device="cpu")([]) == []
