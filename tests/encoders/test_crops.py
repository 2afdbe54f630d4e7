"""Whole images and crops as vectors, against torch's own pooling of a network's own layers."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import adaptive_avg_pool2d

from mner.data.transforms import transform_for
from mner.encoders.crops import CropEncoder, PooledImage
from mner.encoders.detectors import RandomDetector
from mner.encoders.image import ImageEncoder


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return ImageEncoder("test_resnet")


@pytest.fixture
def image():
    return Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 50).convert("RGB")


def layers(backbone, image):
    """What the four stages of a ResNet give, seen by hooks."""
    seen = []
    hooks = [
        getattr(backbone, f"layer{number}").register_forward_hook(lambda module, inputs, output: seen.append(output))
        for number in (1, 2, 3, 4)
    ]
    with torch.no_grad():
        backbone.forward_features(image)
    for hook in hooks:
        hook.remove()
    return seen


def test_the_mean_of_the_cells(encoder):
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(PooledImage(encoder)(image), encoder(image).mean(1))


def test_the_pyramid_is_position_major(encoder):
    image = torch.randn(2, 3, 64, 64)
    found = PooledImage(encoder, layers=4)(image)
    maps = [adaptive_avg_pool2d(one, 2) for one in layers(encoder.backbone, image)]
    expected = [torch.cat([one[:, :, row, column] for one in maps], 1) for row in (0, 1) for column in (0, 1)]
    torch.testing.assert_close(found, torch.cat(expected, 1))


def test_a_resnet_50_gives_four_places_of_3840_numbers():
    assert PooledImage(ImageEncoder("resnet50"), layers=4).width == 4 * 3840


def test_a_pyramid_needs_layers(encoder):
    with pytest.raises(ValueError, match="no 9 layers for a pyramid"):
        PooledImage(encoder, layers=9)


def test_whole_and_crops(encoder, image):
    detector, transform = RandomDetector(top_k=2), transform_for("test_resnet", 64)
    crops = CropEncoder(PooledImage(encoder), transform, detector)
    (found,) = crops.detect([image])
    (boxes,) = [one.boxes for one in detector.detect([image])]
    assert found.boxes.tolist() == [[0, 0, 90, 60], *boxes.tolist()]
    assert found.names == ["", *detector.detect([image])[0].names]
    assert found.scores[0] == 1
    assert found.groups.tolist() == [0, 1, 2]
    assert crops.classes == ("", *detector.classes)
    left, top, right, bottom = boxes[1].tolist()
    part = image.crop((int(left), int(top), round(right), round(bottom))).resize((64, 64), Image.Resampling.BILINEAR)
    assert (crops.transform.mode, crops.transform.crop) == ("squash", 1.0)  # nothing of a box is cut off
    pixels = (torch.from_numpy(np.array(part)).permute(2, 0, 1).float() / 255 - 0.5) / 0.5
    torch.testing.assert_close(found.features[2], encoder(pixels[None])[0].mean(0), rtol=1e-4, atol=1e-4)


def test_a_box_without_area_is_one_pixel(encoder, image):
    crops = CropEncoder(PooledImage(encoder), transform_for("test_resnet", 64))
    boxes = torch.tensor([[90.0, 60.0, 90.0, 60.0], [10.2, 10.2, 10.3, 10.3], [-5.0, -5.0, 200.0, 100.0]])
    (features,) = crops.encode([image], [boxes])
    assert features.shape == (3, encoder.width)
    torch.testing.assert_close(features[2], crops.detect([image])[0].features[0])
    assert crops.encode([image], [boxes[:0]])[0].shape == (0, encoder.width)


def test_without_a_detector_there_is_the_whole_image(encoder, image):
    crops = CropEncoder(PooledImage(encoder, layers=4), transform_for("test_resnet", 64))
    (found,) = crops.detect([image])
    assert found.features.shape == (1, crops.width)
    assert found.names == [""]
    assert crops.describe()["detector"] is None
    assert crops.describe()["pyramid"] == {"layers": 4, "side": 2}
    assert not any(parameter.requires_grad for parameter in crops.parameters())
