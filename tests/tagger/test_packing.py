"""Models stored in fewer bytes give nearly the same label scores."""

import pytest
import torch

from mner.errors import CheckpointError
from mner.fusion import TextOnly
from mner.tagger.packing import packed, unpacked
from mner.tagger.tagger import Tagger
from tests.tagging import save_checkpoint


def test_each_weight_is_within_half_a_step():
    weights = {"matrix": torch.randn(40, 50) * torch.logspace(-3, 3, 40)[:, None], "bias": torch.randn(40)}
    weights["zeros"], weights["count"] = torch.zeros(40, 50), torch.tensor(3)
    stored = packed(weights, "int8")
    assert stored["matrix"].dtype == torch.int8
    found = unpacked(stored)
    assert found.keys() == weights.keys()
    step = weights["matrix"].abs().amax(1, keepdim=True) / 127
    assert ((found["matrix"] - weights["matrix"]).abs() <= step / 2 * 1.001).all()
    assert all(torch.equal(found[name], weights[name]) for name in ("bias", "zeros", "count"))


def test_what_cannot_be_stored_or_read():
    with pytest.raises(ValueError, match="float32, float16, int8, but got 'int4'"):
        packed({}, "int4")
    with pytest.raises(CheckpointError, match="big has weights beyond 65504"):
        packed({"big": torch.tensor([1e6])}, "float16")
    stored = packed({"matrix": torch.randn(40, 50)}, "int8")
    (scale,) = [name for name in stored if name != "matrix"]
    with pytest.raises(CheckpointError, match="without weights"):
        unpacked({scale: stored[scale]})
    with pytest.raises(CheckpointError, match="do not belong"):
        unpacked({**stored, scale: stored[scale][:3]})


@pytest.mark.parametrize(("dtype", "size", "off"), [("float32", 1, 0), ("float16", 0.55, 1e-3), ("int8", 0.45, 0.05)])
def test_a_shared_model(tmp_path, posts_folder, bert_folder, dtype, size, off):
    tagger = Tagger.from_checkpoint(save_checkpoint(tmp_path / "a.ckpt", TextOnly, posts_folder, bert_folder))
    folder = tagger.save_pretrained(tmp_path / "out", dtype=dtype)
    loaded = Tagger.from_pretrained(folder)
    weights = {name: value.float() for name, value in tagger.model.state_dict().items()}
    bytes_of = sum(4 * value.numel() for value in weights.values())
    assert (folder / "model.safetensors").stat().st_size <= size * bytes_of + 8_000  # its header
    for name, value in loaded.model.state_dict().items():
        assert (value - weights[name]).abs().max() <= off * max(1, weights[name].abs().max())
    post = "Anna visits Old Town"
    assert len(loaded(post).tags) == len(tagger(post).tags)
    assert {value.dtype for value in loaded.model.parameters()} == {torch.float32}
