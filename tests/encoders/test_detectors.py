import importlib.util
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from mner.encoders.detectors import RandomDetector, TorchvisionDetector, best_boxes
from mner.encoders.image_inputs import build_detector
from mner.encoders.weights import weights_hash
from mner.errors import CheckpointError, MissingDependencyError

HAS_DETECTRON2 = importlib.util.find_spec("detectron2") is not None
needs_detectron2 = pytest.mark.skipif(
    not HAS_DETECTRON2, reason="detectron2 is optional and built from source; see docs/detectron2.md"
)


def picture(width=90, height=60, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height))


def make(kind, **options):
    torch.manual_seed(0)
    if kind == "random":
        return RandomDetector(top_k=5, width=16)
    options = {"top_k": 5, "min_size": 64, "proposals": 20, **options}
    if kind == "torchvision":
        return TorchvisionDetector(**options)
    from mner.encoders.detectron2_detector import Detectron2Detector

    return Detectron2Detector(**options)


@pytest.fixture(scope="module", params=["random", "torchvision", pytest.param("detectron2", marks=needs_detectron2)])
def detector(request):
    return make(request.param)


def test_regions_have_their_shapes_even_with_random_weights(detector):
    images = [picture(), picture(50, 120, seed=1), picture(4000, 8, seed=2)]
    found = detector.detect(images)
    assert len(found) == 3
    for image, regions in zip(images, found, strict=True):
        assert regions.features.shape == (5, detector.width)
        assert regions.boxes.shape == (5, 4)
        assert regions.scores.shape == (5,)
        assert {tensor.dtype for tensor in (regions.features, regions.boxes, regions.scores)} == {torch.float32}
        assert len(regions.names) == 5
        assert set(regions.names) <= set(detector.classes)
        assert torch.isfinite(regions.features).all()
        assert (regions.scores[:-1] >= regions.scores[1:]).all()
        left, top, right, bottom = regions.boxes.T
        assert (left >= 0).all()
        assert (top >= 0).all()
        assert (left < right).all()
        assert (top < bottom).all()
        assert (right <= image.width + 1e-3).all()
        assert (bottom <= image.height + 1e-3).all()
    assert len(np.unique(found[0].features.numpy(), axis=0)) > 1


def test_encode_gives_the_features_of_detect(detector):
    image = picture()
    (found,) = detector.detect([image])
    (again,) = detector.encode([image], [found.boxes])
    # Scaling to pixels and back rounds; features of RoIAlign follow continuously.
    torch.testing.assert_close(again, found.features, rtol=1e-2, atol=1e-3)
    (shuffled,) = detector.encode([image], [found.boxes.flip(0)])
    torch.testing.assert_close(shuffled.flip(0), again, rtol=1e-4, atol=1e-5)
    assert detector.encode([image], [torch.zeros(0, 4)])[0].shape == (0, detector.width)
    with pytest.raises(ValueError, match=r"shape \(r, 4\), but got \(4,\)"):
        detector.encode([image], [torch.zeros(4)])


def test_an_image_does_not_depend_on_its_neighbours(detector):
    one, other = picture(), picture(50, 120, seed=1)
    alone, beside = detector.detect([one])[0], detector.detect([other, one])[1]
    assert torch.equal(alone.features, beside.features)
    assert torch.equal(alone.boxes, beside.boxes)
    assert alone.names == beside.names
    assert not torch.equal(alone.features, detector.detect([other])[0].features)


def test_detectors_are_frozen(detector):
    detector.train()
    assert not any(module.training for module in detector.modules())
    assert not any(parameter.requires_grad for parameter in detector.parameters())
    (found,) = detector.detect([picture()])
    assert not found.features.is_inference()
    assert not found.features.requires_grad


def test_detector_is_described_by_plain_data(detector):
    assert detector.name
    assert detector.describe()["top_k"] == 5


def test_best_boxes_keeps_one_class_a_proposal_and_suppresses_within_a_class():
    box, near, far = [0.0, 0, 10, 10], [0.0, 0, 10, 9], [20.0, 20, 30, 30]
    boxes = torch.tensor([box, near, near, far])[:, None].expand(4, 2, 4)
    probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.1], [0.1, 0.7], [0.6, 0.5]])
    kept, scores, labels = best_boxes(boxes, probabilities, (40, 40), 3, 0.5)
    assert kept.tolist() == [box, near, far]  # the second is suppressed by the first, the third is another class
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.7, 0.6]))
    assert labels.tolist() == [0, 1, 0]


def test_best_boxes_fills_up_with_suppressed_ones():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 9], [20.0, 20, 30, 30]])[:, None]
    kept, scores, _ = best_boxes(boxes, torch.tensor([[0.9], [0.8], [0.1]]), (40, 40), 3, 0.5)
    assert len(kept) == 3
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.8, 0.1]))


def test_best_boxes_clips_and_what_is_no_box_comes_last():
    boxes = torch.tensor([[7.0, 7, 7, 9], [float("nan")] * 4, [-5.0, -5, 90, 20]])[:, None]
    probabilities = torch.tensor([[0.9], [0.8], [0.7]])
    kept, scores, _ = best_boxes(boxes, probabilities, (40, 60), 3, 1.0)
    assert kept.tolist() == [[0, 0, 60, 20], [0, 0, 60, 40], [0, 0, 60, 40]]
    torch.testing.assert_close(scores, torch.tensor([0.7, 0.0, 0.0]))
    kept, _, _ = best_boxes(boxes, probabilities, (40, 60), 1, 1.0)
    assert kept.tolist() == [[0, 0, 60, 20]]


@pytest.fixture(scope="module")
def torchvision_detector():
    return make("torchvision")


def test_torchvision_agrees_with_its_own_forward_pass(torchvision_detector):
    """With the last layers made confident, torchvision's own detections are the ones that we rank first."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_V2_Weights

    detector = torchvision_detector
    model = detector.model
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.weight.mul_(30)
        model.roi_heads.box_predictor.bbox_pred.weight.mul_(5)
    image = picture()
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
    with torch.no_grad():
        reference = model([pixels])[0]
    (found,) = detector.detect([image])
    model.load_state_dict(saved)
    categories = FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1.meta["categories"]
    sure = found.scores > 0.5  # then it is the only class of its proposal
    assert sure.any()
    for box, score, name in zip(found.boxes[sure], found.scores[sure], found.names, strict=False):
        same = reference["labels"] == categories.index(name)
        distance = (reference["boxes"] - box).abs().amax(-1) + (reference["scores"] - score).abs()
        assert distance[same].min() < 1e-3


def test_torchvision_weights_from_a_file(tmp_path, torchvision_detector):
    torch.save(torchvision_detector.model.state_dict(), tmp_path / "fasterrcnn.pth")
    torch.manual_seed(9)
    again = TorchvisionDetector(str(tmp_path / "fasterrcnn.pth"), min_size=64, proposals=20)
    assert weights_hash(again) == weights_hash(torchvision_detector)
    state = torchvision_detector.model.state_dict()
    del state["roi_heads.box_head.5.weight"]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match=r"1 missing: roi_heads.box_head.5.weight"):
        TorchvisionDetector(str(tmp_path / "cut.pth"), min_size=64)


def test_random_detector_knows_images_by_their_pixels():
    detector, image = RandomDetector(width=4), picture()
    assert torch.equal(detector.detect([image])[0].features, RandomDetector(width=4).detect([image.copy()])[0].features)
    changed = image.copy()
    changed.putpixel((0, 0), (1, 2, 3))
    assert not torch.equal(detector.detect([image])[0].features, detector.detect([changed])[0].features)


def test_build_detector():
    assert isinstance(build_detector("random", top_k=3), RandomDetector)
    with pytest.raises(ValueError, match="one of \\('torchvision', 'detectron2', 'random'\\), but got 'yolo'"):
        build_detector("yolo")
    with pytest.raises(ValueError, match="`top_k` to be at least 1"):
        build_detector("random", top_k=0)


@pytest.mark.skipif(HAS_DETECTRON2, reason="detectron2 is installed, so nothing is missing")
def test_detectron2_missing_says_how_to_build_it():
    with pytest.raises(MissingDependencyError, match=r"docs/detectron2\.md"):
        build_detector("detectron2")


@needs_detectron2
def test_detectron2_weights_as_in_its_model_zoo(tmp_path):
    """A zoo file is a pickled dictionary of numpy arrays, written under protocol 2."""
    detector = make("detectron2")
    arrays = {name: value.numpy() for name, value in detector.model.state_dict().items()}
    old = {"pixel_mean": (3, 1, 1), "proposal_generator.anchor_generator.cell_anchors.0": (3, 4)}
    arrays |= {name: np.zeros(shape) for name, shape in old.items()}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}, protocol=2))
    torch.manual_seed(9)
    again = build_detector("detectron2", str(path))
    assert weights_hash(again) == weights_hash(detector)


@needs_detectron2
def test_detectron2_agrees_with_its_own_predictor():
    from detectron2.data.transforms import ResizeShortestEdge

    detector, image = make("detectron2"), picture()
    with torch.no_grad():
        detector.model.roi_heads.box_predictor.cls_score.weight.mul_(300)
        detector.model.roi_heads.box_predictor.bbox_pred.weight.mul_(5)
    bgr = np.asarray(image)[:, :, ::-1]
    resized = ResizeShortestEdge([64, 64], 106).get_transform(bgr).apply_image(bgr)
    pixels = torch.from_numpy(resized.copy()).permute(2, 0, 1).float()
    with torch.no_grad():
        reference = detector.model([{"image": pixels, "height": image.height, "width": image.width}])[0]["instances"]
    (found,) = detector.detect([image])
    sure = found.scores > 0.5
    assert sure.any()
    for box, score, name in zip(found.boxes[sure], found.scores[sure], found.names, strict=False):
        same = reference.pred_classes == detector.classes.index(name)
        distance = (reference.pred_boxes.tensor - box).abs().amax(-1) + (reference.scores - score).abs()
        assert distance[same].min() < 1e-3
