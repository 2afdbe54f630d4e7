"""Which part of a model learns at which rate."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch

from mner.data import Twitter2017DataModule
from mner.fusion import CoAttention, TextOnly, UnifiedMultimodalTransformer
from mner.labels import bio_labels
from tests.tiny_sets import WIDTH, write_twitter

LABELS = bio_labels(["PER", "LOC", "ORG", "MISC"])
QUIET = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip


@pytest.fixture
def fit(tmp_path, bert_folder):
    """A function that trains a strategy for two epochs or more: (module, trainer)."""
    root = write_twitter(tmp_path / "data")

    def fit(cls, ckpt_path=None, max_epochs=2, **options):
        pl.seed_everything(0, verbose=False)
        data = Twitter2017DataModule(str(root), batch_size=2, features="regions" if cls.uses_image else None)
        width = {"region_width": WIDTH} if cls.uses_image else {}
        module = cls(data.labels, text_encoder=bert_folder, **width, **options)
        trainer = pl.Trainer(max_epochs=max_epochs, default_root_dir=tmp_path, enable_checkpointing=False, **QUIET)
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
        return module, trainer

    return fit


def rates(module, trainer):
    """Peak rate by name of parameter."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {
        names[id(parameter)]: group["initial_lr"]
        for group in trainer.optimizers[0].param_groups
        for parameter in group["params"]
    }


def test_encoders_head_and_fusion_have_a_rate_each(fit):
    module, trainer = fit(CoAttention, learning_rate=1e-4, head_learning_rate=1e-2, fusion_learning_rate=3e-4)
    found = rates(module, trainer)
    assert set(found) == {name for name, value in module.named_parameters() if value.requires_grad}
    for name, rate in found.items():
        own = {"text_encoder": 1e-4, "head": 1e-2, "crf": 1e-2}.get(name.partition(".")[0], 3e-4)
        assert rate == own, name
    assert found["no_image"] == 3e-4
    decayed = {id(p): group["weight_decay"] for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert decayed[id(module.fusion.fusion_gate.weight)] == 0.01
    assert decayed[id(module.fusion.fusion_gate.bias)] == 0


def test_without_one_the_fusion_learns_at_the_mean_of_both(fit):
    found = rates(*fit(CoAttention, learning_rate=1e-4, head_learning_rate=1e-2))
    assert found["fusion.fusion_gate.weight"] == pytest.approx(1e-3)
    assert found["crf.transitions"] == 1e-2


def test_with_one_rate_there_are_two_groups(fit):
    _, trainer = fit(CoAttention, learning_rate=3e-4)
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == [0.0] * 4, "the schedule's end"
    assert {group["initial_lr"] for group in trainer.optimizers[0].param_groups} == {3e-4}


def test_text_alone_has_no_fusion(fit):
    options = {"learning_rate": 1e-3, "head_learning_rate": 1e-2, "hidden_size": 8}
    module, trainer = fit(TextOnly, **options)
    assert set(rates(module, trainer).values()) == {1e-3, 1e-2}
    assert rates(module, trainer)["word_projection.weight"] == 1e-2
    other = fit(TextOnly, **options, fusion_learning_rate=1.0)[0].state_dict()
    assert all(torch.equal(value, other[name]) for name, value in module.state_dict().items())


def test_span_detection_is_read_off_at_the_heads_rate(bert_folder):
    module = UnifiedMultimodalTransformer(LABELS, text_encoder=bert_folder, region_width=WIDTH)
    assert {module.head, module.crf, module.span_head, module.span_crf} <= set(module.output_layers)


def test_every_label_set_has_its_output_layers(bert_folder):
    module = TextOnly({"one": LABELS, "two": bio_labels(["X"])}, text_encoder=bert_folder)
    known = {id(parameter) for part in module.output_layers for parameter in part.parameters()}
    inside = {id(parameter) for parameter in module.text_encoder.parameters()}
    assert {id(parameter) for parameter in module.parameters()} == known | inside


def test_a_run_from_before_there_was_such_a_rate_goes_on_as_it_began(fit, tmp_path):
    options = {"learning_rate": 1e-4, "head_learning_rate": 1e-2}
    _, trainer = fit(CoAttention, **options, fusion_learning_rate=1e-2)
    trainer.save_checkpoint(tmp_path / "new.ckpt")
    old = torch.load(tmp_path / "new.ckpt", weights_only=True)
    del old["hyper_parameters"]["fusion_learning_rate"]
    assert len(old["optimizer_states"][0]["param_groups"]) == 4
    torch.save(old, tmp_path / "old.ckpt")
    found = rates(*fit(CoAttention, ckpt_path=tmp_path / "old.ckpt", max_epochs=3, **options))
    assert found["fusion.fusion_gate.weight"] == 1e-2
