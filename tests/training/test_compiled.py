"""Parts that `torch.compile` wrapped: their checkpoints load everywhere, and they load those of others."""

from __future__ import annotations

import importlib.util

import pytest
import pytorch_lightning as pl
import torch

from mner import Tagger
from mner.data import Twitter2017DataModule
from mner.fusion import FusionModule, TextOnly
from mner.tagger.hub import save_model
from mner.training import AveragedWeights, LoRA
from tests.tiny_sets import save_small_bert, write_twitter


def wrap_encoder(module):
    module.text_encoder = torch.compile(module.text_encoder, backend="eager")


def wrap_transformer(module):
    module.text_encoder.model = torch.compile(module.text_encoder.model, backend="eager")


def in_place(module):
    module.text_encoder.compile(backend="eager")


def whole(module):
    module.compile(backend="eager")


WAYS = [wrap_encoder, wrap_transformer, in_place, whole]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("compiled")
    return str(write_twitter(root / "data")), str(save_small_bert(root / "bert"))


@pytest.fixture
def build(places):
    """A function that makes module, data and trainer; `way` compiles."""

    def build(way=None, *callbacks):
        data = Twitter2017DataModule(places[0], batch_size=3, text_encoder=places[1])
        module = TextOnly(data.labels, text_encoder=places[1], learning_rate=1e-3)
        if way is not None:
            way(module)
        trainer = pl.Trainer(
            max_epochs=1, limit_val_batches=0, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, callbacks=list(callbacks),
        )  # fmt: skip
        return module, data, trainer

    return build


def same(one, other):
    """Weights, and what is computed with them."""
    weights = other.state_dict()
    assert list(one.state_dict()) == list(weights)
    assert all(torch.equal(value, weights[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("way", WAYS)
def test_a_checkpoint_of_a_compiled_model(build, tmp_path, way):
    module, data, trainer = build(way)
    trainer.fit(module, data)
    path = tmp_path / "compiled.ckpt"
    trainer.save_checkpoint(path)
    stored = torch.load(path, weights_only=True)["state_dict"]
    assert not [name for name in stored if "_orig_mod" in name]
    loaded = FusionModule.load_from_checkpoint(path)
    same(loaded, module)
    module.eval()
    batch = next(iter(data.train_dataloader()))
    torch.testing.assert_close(loaded.emissions(batch), module.emissions(batch))
    save_model(module, tmp_path / "model")
    same(Tagger.from_pretrained(tmp_path / "model").model, loaded)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first", ["plain", "compiled"])
def test_going_on_with_and_without(build, tmp_path, way, first):
    """Each kind goes on from the other's checkpoint."""
    module, data, trainer = build(way if first == "compiled" else None)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "first.ckpt")
    other, data, trainer = build(None if first == "compiled" else way)
    with torch.no_grad():
        other.head.bias.add_(1.0)
    trainer.fit(other, data, ckpt_path=tmp_path / "first.ckpt", weights_only=True)  # its one epoch is over
    same(other, module)


def test_names_that_were_stored_with_the_wrapper(build, tmp_path):
    """As checkpoints of earlier versions have them."""
    module, data, trainer = build(wrap_encoder)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "new.ckpt")
    content = torch.load(tmp_path / "new.ckpt", weights_only=True)
    inner = "text_encoder."
    content["state_dict"] = {
        name.replace(inner, f"{inner}_orig_mod.", 1): value for name, value in content["state_dict"].items()
    }
    torch.save(content, tmp_path / "old.ckpt")
    same(FusionModule.load_from_checkpoint(tmp_path / "old.ckpt"), module)


def test_a_weight_that_is_missing_is_still_named(build):
    module, _, _ = build(wrap_encoder)
    state = module.state_dict()
    state.pop("head.bias")
    with pytest.raises(RuntimeError, match=r"Missing key.*head\.bias"):
        module.load_state_dict(state)


def test_averaged_weights_of_a_compiled_model(build, tmp_path):
    module, data, trainer = build(wrap_encoder, AveragedWeights(decay=0.5))
    keep = Keep(tmp_path / "average.ckpt")
    trainer.callbacks.append(keep)
    trainer.fit(module, data)
    same(FusionModule.load_from_checkpoint(tmp_path / "average.ckpt"), module)
    stored = torch.load(tmp_path / "average.ckpt", weights_only=True)
    assert stored["current_model_state"].keys() == stored["state_dict"].keys() == module.state_dict().keys()
    for way in (None, wrap_encoder):
        other, data, trainer = build(way, AveragedWeights(decay=0.5))
        trainer.fit(other, data, ckpt_path=tmp_path / "average.ckpt", weights_only=True)
        assert trainer.global_step >= stored["global_step"]


class Keep(pl.Callback):
    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.path)


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="needs peft")
def test_adapters_of_a_compiled_model(build, tmp_path):
    module, data, trainer = build(wrap_encoder, LoRA(rank=2))
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "lora.ckpt")
    same(FusionModule.load_from_checkpoint(tmp_path / "lora.ckpt"), module)
    save_model(module, tmp_path / "merged")
    merged = Tagger.from_pretrained(tmp_path / "merged").model
    assert merged.text_encoder.adapters is None
    module.eval()
    batch = next(iter(data.train_dataloader()))
    torch.testing.assert_close(merged.emissions(batch), module.emissions(batch), atol=1e-5, rtol=1e-4)
