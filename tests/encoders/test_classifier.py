import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo

from mner.encoders.classifier import ImageClassifier
from mner.errors import CheckpointError


def picture(seed, size=(80, 60)):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return ImageClassifier("test_resnet")


def test_classes_are_those_of_the_model(classifier):
    """timm's own transform, model and descriptions."""
    images = [picture(seed) for seed in range(3)]
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(classifier.model), is_training=False)
    with torch.no_grad():
        expected = classifier.model(torch.stack([transform(image) for image in images])).softmax(-1)
    described = ImageNetInfo()
    for best, row in zip(classifier(images, top_k=4), expected, strict=True):
        assert [score for _, score in best] == pytest.approx(row.sort(descending=True).values[:4].tolist(), rel=0.02)
        first = int(row.argmax())
        assert best[0][0] == described.index_to_description(first).split(",")[0]
    assert len(classifier(images[:1], top_k=5000)[0]) == 1000


def test_names_have_no_commas_and_are_words(classifier):
    assert classifier.classes[207] == "golden retriever"
    assert classifier.classes[281] == "tabby"
    assert not any("," in name or not name for name in classifier.classes)
    assert not classifier.training
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


def test_weights_come_from_a_file_by_name_or_in_order(classifier, tmp_path):
    state = classifier.model.state_dict()
    torch.save(state, tmp_path / "own.pth")
    torch.save({f"net{number}.{name.rpartition('.')[2]}": value for number, (name, value) in enumerate(state.items())},
               tmp_path / "other.pth")  # fmt: skip
    expected = classifier([picture(0)])
    for name in ("own", "other"):
        assert ImageClassifier("test_resnet", str(tmp_path / f"{name}.pth"))([picture(0)]) == expected
    torch.save({name: value for name, value in state.items() if "fc" not in name}, tmp_path / "headless.pth")
    with pytest.raises(CheckpointError, match=r"2 missing: fc.weight"):
        ImageClassifier("test_resnet", str(tmp_path / "headless.pth"))


def test_models_without_names_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="did you mean"):
        ImageClassifier("test_resnett")
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name, num_classes=7))
    with pytest.raises(ValueError, match="no names for the 7 classes of 'test_resnet'"):
        ImageClassifier("test_resnet")
