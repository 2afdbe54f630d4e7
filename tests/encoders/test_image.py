import copy

import pytest
import torch
from torch import nn

from mner.encoders.image import ImageEncoder
from mner.encoders.weights import read_weights, weights_hash
from mner.errors import CheckpointError

# name, size, regions, width: a plain and a channels-last map, patches with and without class token, a pooled head
MODELS = [
    ("test_resnet", 64, 4, 96),
    ("test_vit", 160, 100, 64),
    ("test_efficientnet", 64, 4, 256),
    ("test_convnext", 64, 4, 64),
    ("swin_tiny_patch4_window7_224", 224, 49, 768),
    ("levit_128s", 224, 16, 384),
]


@pytest.mark.parametrize(("name", "size", "regions", "width"), MODELS)
def test_shapes(name, size, regions, width):
    encoder = ImageEncoder(name)
    found = encoder(torch.randn(2, 3, size, size))
    assert found.shape == (2, regions, width)
    assert encoder.width == width
    rows, columns = encoder.grid(size)
    assert rows * columns == regions


@pytest.mark.parametrize(
    ("name", "regions", "width"),
    [("resnet152", 49, 2048), ("vit_base_patch32_clip_224", 49, 768), ("vit_base_patch16_siglip_224", 196, 768)],
)
def test_widths_of_well_known_models(name, regions, width):
    with torch.device("meta"):  # shapes only
        encoder = ImageEncoder(name)
        found = encoder(torch.zeros(1, 3, 224, 224))
    assert found.shape == (1, regions, width)
    assert (encoder.width, encoder.size) == (width, 224)


def test_maps_are_row_major():
    encoder = ImageEncoder("test_resnet")
    image = torch.randn(1, 3, 160, 160)
    rows, columns = encoder.grid(160)
    assert (rows, columns) == (5, 5)
    again = encoder(image).view(1, rows, columns, encoder.width).permute(0, 3, 1, 2)
    assert torch.equal(again, encoder.backbone.forward_features(image))


def test_channels_last_maps_are_row_major():
    encoder = ImageEncoder("swin_tiny_patch4_window7_224")
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = encoder.backbone.forward_features(image)  # (1, 7, 7, 768)
    assert torch.equal(encoder(image).view(1, 7, 7, 768), expected)


def test_prefix_tokens_are_dropped():
    encoder = ImageEncoder("vit_tiny_patch16_224")
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        tokens = encoder.backbone.forward_features(image)
    assert tokens.shape[1] == 197
    assert torch.equal(encoder(image), tokens[:, 1:])


class Model(nn.Module):
    def __init__(self, frozen):
        super().__init__()
        self.encoder = ImageEncoder("test_resnet", frozen=frozen)
        self.head = nn.Linear(self.encoder.width, 1)

    def step(self):
        self.train()
        self.head(self.encoder(torch.randn(4, 3, 64, 64) + 3)).sum().backward()
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad


def test_frozen_stays_as_it_was_batchnorm_included():
    model = Model(frozen=True)
    assert any("running_mean" in name for name in model.encoder.state_dict())
    before, head = copy.deepcopy(model.encoder.state_dict()), model.head.weight.clone()
    model.step()
    after = model.encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(head, model.head.weight)
    assert not any(module.training for module in model.encoder.modules())
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    assert not model.encoder(torch.randn(1, 3, 64, 64)).requires_grad


def test_not_frozen_trains():
    model = Model(frozen=False)
    before = copy.deepcopy(model.encoder.state_dict())
    model.step()
    after = model.encoder.state_dict()
    assert model.encoder.training
    assert not torch.equal(before["backbone.bn1.running_mean"], after["backbone.bn1.running_mean"])
    assert not torch.equal(before["backbone.conv1.0.weight"], after["backbone.conv1.0.weight"])


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "vit_base_patch16_siglip_224"])
def test_each_trained_parameter_gets_gradient(name):
    encoder = ImageEncoder(name, frozen=False)
    size = encoder.size
    encoder(torch.randn(1, 3, size, size)).square().sum().backward()
    without = [
        name for name, parameter in encoder.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert without == []
    trained = sum(parameter.requires_grad for parameter in encoder.parameters())
    assert trained > len(list(encoder.parameters())) / 2
    if "siglip" in name:  # its attention pool belongs to the head
        assert trained < len(list(encoder.parameters()))


def test_batch_of_one_equals_batch_of_many():
    encoder, images = ImageEncoder("test_resnet"), torch.randn(3, 3, 64, 64)
    one_by_one = torch.cat([encoder(image[None]) for image in images])
    torch.testing.assert_close(encoder(images), one_by_one, rtol=1e-4, atol=1e-5)


def test_bf16_autocast():
    encoder = ImageEncoder("test_resnet")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(encoder(torch.randn(1, 3, 64, 64))).all()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_by_name(tmp_path, suffix):
    source = ImageEncoder("test_resnet")
    state = {**source.backbone.state_dict(), "fc.weight": torch.zeros(3, 96), "fc.bias": torch.zeros(3)}
    path = tmp_path / f"weights{suffix}"
    save(state, path)
    loaded = ImageEncoder("test_resnet", weights=str(path))
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded(image), source(image))
    assert weights_hash(loaded) == weights_hash(source) != weights_hash(ImageEncoder("test_resnet"))


def save(state, path):
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        torch.save(state, path)


def test_weights_in_order_equal_torchvision(tmp_path):
    from torchvision.models import mobilenet_v2

    torch.manual_seed(0)
    reference = mobilenet_v2().eval()
    for name, value in reference.named_buffers():  # the defaults would not notice swapped statistics
        if "running" in name:
            value.copy_(torch.rand_like(value) + 0.5)
    torch.save(reference.state_dict(), tmp_path / "mobilenet_v2.pth")
    encoder = ImageEncoder("mobilenetv2_100", weights=str(tmp_path / "mobilenet_v2.pth"))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = reference.features(image).flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder(image), expected, rtol=1e-4, atol=1e-5)


def test_wrapped_state_dict(tmp_path):
    source = ImageEncoder("test_resnet")
    state = {f"module.{name}": value for name, value in source.backbone.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "wrapped.pth")
    assert weights_hash(ImageEncoder("test_resnet", weights=str(tmp_path / "wrapped.pth"))) == weights_hash(source)


def spoil(state, how):
    names = list(state)
    if how == "missing":
        del state[names[0]]
    elif how == "left over":
        state["layer9.weight"] = torch.zeros(1)
    elif how == "of another shape":
        state[names[0]] = torch.zeros(2, 2)
    elif how == "neither by name nor in order":
        state = {
            f"x{position}.{name.rpartition('.')[2]}": value for position, (name, value) in enumerate(state.items())
        }
        state["x0.weight"] = torch.zeros(1)
    elif how == "but the file has 3":
        state = {f"x.{name}": value for name, value in list(state.items())[:3]}
    return state


@pytest.mark.parametrize(
    "how", ["missing", "left over", "of another shape", "neither by name nor in order", "but the file has 3"]
)
def test_weights_that_do_not_fit_are_refused(tmp_path, how):
    state = spoil(dict(ImageEncoder("test_resnet").backbone.state_dict()), how)
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=how):
        ImageEncoder("test_resnet", weights=str(tmp_path / "bad.pth"))


def test_a_deeper_model_is_not_cut_silently(tmp_path):
    """All weights of ResNet-18 are in ResNet-34, by name and shape."""
    torch.save(ImageEncoder("resnet34").backbone.state_dict(), tmp_path / "deeper.pth")
    with pytest.raises(CheckpointError, match="left over"):
        ImageEncoder("resnet18", weights=str(tmp_path / "deeper.pth"))


def test_files_that_are_no_weights(tmp_path):
    import pickle

    (tmp_path / "text.pth").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"a": "b"}, tmp_path / "strings.pth")
    (tmp_path / "code.pkl").write_bytes(pickle.dumps({"model": print}))
    for name in ("text.pth", "list.pth", "strings.pth", "code.pkl", "nowhere.pth"):
        with pytest.raises(CheckpointError, match=name):
            read_weights(tmp_path / name)


def test_unknown_and_unsuitable_names():
    with pytest.raises(ValueError, match="got 'resnet15'; did you mean 'resnet1"):
        ImageEncoder("resnet15")
    with pytest.raises(ValueError, match="one feature map or one sequence of patches, but 'crossvit_9_240'"):
        ImageEncoder("crossvit_9_240")


def test_pretrained_without_network_says_what_to_do(monkeypatch):
    import timm

    def fail(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(CheckpointError, match="give `weights` a local file"):
        ImageEncoder("test_resnet", weights="pretrained")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "test_vit"])
def test_a_size_that_the_model_cannot_take_is_named(name):
    encoder = ImageEncoder(name)
    own = f"{encoder.size} x {encoder.size}"
    with pytest.raises(ValueError, match=f"'{name}' takes images of {own} pixels, but got 63 x 63"):
        encoder(torch.zeros(1, 3, 63, 63))
    assert encoder(torch.zeros(1, 3, encoder.size, encoder.size)).shape[-1] == encoder.width


def test_a_new_size_may_come_in_evaluation():
    encoder = ImageEncoder("test_resnet")
    with torch.inference_mode():
        assert encoder(torch.zeros(1, 3, 32, 32)).shape == (1, 1, 96)


def test_a_model_without_regions_is_refused():
    with pytest.raises(ValueError, match="'pit_ti_224' has class tokens only"):
        ImageEncoder("pit_ti_224")
