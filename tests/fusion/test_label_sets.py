"""One encoder, several label sets: who learns from what, who is scored on what, and what a checkpoint keeps."""

from __future__ import annotations

import copy
import logging

import pytest
import torch

from mner import Tagger
from mner.data import JointDataModule, Twitter2015DataModule, Twitter2017DataModule
from mner.errors import CheckpointError, MNERError
from mner.fusion import FusionModule, TextOnly, UnifiedMultimodalTransformer
from mner.labels import bio_labels
from mner.training import Trainer
from tests.data.datamodules.test_joint import trainer
from tests.tiny_sets import save_small_bert, write_twitter

A, B = bio_labels(["PER", "LOC", "ORG", "OTHER"]), bio_labels(["PER", "LOC", "ORG", "MISC"])
SETS = {"a": A, "b": [*B, "B-DATE", "I-DATE"]}  # of other sizes too


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(save_small_bert(tmp_path_factory.mktemp("bert"), dropout=0.0))


class Dated(Twitter2017DataModule):
    types = ("PER", "LOC", "ORG", "MISC", "DATE")
    labels = SETS["b"]


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    write_twitter(folder / "a", other="OTHER", count=14)
    write_twitter(folder / "b", count=9)
    return folder


def joint(roots, encoder):
    options = {"batch_size": 4, "text_encoder": encoder, "seed": 0}
    parts = {"a": Twitter2015DataModule(str(roots / "a"), **options), "b": Dated(str(roots / "b"), **options)}
    return JointDataModule(parts)


def model_of(encoder, labels=SETS, **options):
    return TextOnly(labels, **{"text_encoder": encoder, "dropout": 0.0, "learning_rate": 1e-3, **options})


@pytest.fixture(scope="module")
def trained(roots, encoder, tmp_path_factory):
    """Model, data, checkpoint, and what was logged in validation."""
    torch.manual_seed(0)
    data, model = joint(roots, encoder), model_of(encoder, learning_rate=3e-3, head_learning_rate=3e-2)
    run = trainer(max_epochs=25, num_sanity_val_steps=0, gradient_clip_val=1.0)
    run.fit(model, datamodule=data)
    path = tmp_path_factory.mktemp("kept") / "joint.ckpt"
    run.save_checkpoint(path)
    return model, data, path, {name: float(value) for name, value in run.callback_metrics.items()}


def test_a_set_learns_from_its_own_batches_only(roots, encoder):
    data, model = joint(roots, encoder), model_of(encoder)
    seen = set()
    for batch in data.train_dataloader():
        mine = batch["label_set"]
        seen.add(mine)
        model.zero_grad()
        sum(model.losses(batch).values()).backward()
        for name in SETS:
            parameters = [*model.heads[name].parameters(), *model.crfs[name].parameters()]
            assert all((parameter.grad is not None) is (name == mine) for parameter in parameters)
        assert model.text_encoder.model.embeddings.word_embeddings.weight.grad.abs().sum() > 0
    assert seen == set(SETS)


def test_losses_are_those_of_a_model_of_the_set_alone(roots, encoder):
    data, model = joint(roots, encoder), model_of(encoder)
    for name, labels in SETS.items():
        alone = model_of(encoder, labels)
        alone.text_encoder.load_state_dict(model.text_encoder.state_dict())
        alone.head.load_state_dict(model.heads[name].state_dict())
        alone.crf.load_state_dict(model.crfs[name].state_dict())
        for batch in data.parts[name].train_dataloader():
            expected = alone.losses(batch)["tagging"]
            batch["label_set"] = name
            assert torch.equal(model.losses(batch)["tagging"], expected)
            assert model(batch) == alone(batch)


def test_one_list_of_labels_makes_the_model_of_before(encoder):
    model = model_of(encoder, A)
    assert model.label_sets == {}
    own = {name.split(".")[0] for name in model.state_dict()}
    assert own == {"text_encoder", "head", "crf"}
    several = set(model_of(encoder).state_dict())
    assert {name.split(".")[0] for name in several} == {"text_encoder", "heads", "crfs"}, "nothing is there twice"


def test_both_sets_are_learned_and_scored_as_alone(trained):
    model, data, _, logged = trained
    assert logged["val/a/f1"] > 0.8
    assert logged["val/b/f1"] > 0.8
    for name in ("precision", "recall", "f1", "strict/f1"):
        assert logged[f"val/{name}"] == pytest.approx((logged[f"val/a/{name}"] + logged[f"val/b/{name}"]) / 2)
    assert "val/a/OTHER/f1" in logged
    assert "val/b/OTHER/f1" not in logged
    for name, labels in SETS.items():
        alone = model_of(model.hparams["text_encoder"], labels)
        alone.text_encoder.load_state_dict(model.text_encoder.state_dict())
        alone.head.load_state_dict(model.heads[name].state_dict())
        alone.crf.load_state_dict(model.crfs[name].state_dict())
        (scores,) = trainer().validate(alone, datamodule=data.parts[name], verbose=False)
        for metric, value in scores.items():
            if metric != "val/loss":
                assert logged[metric.replace("val/", f"val/{name}/")] == value


def test_a_chosen_set_is_scored_on_its_data_set_alone(trained):
    model, data, _, logged = trained
    model.use("b")
    (scores,) = trainer().validate(model, datamodule=data.parts["b"], verbose=False)
    model.use("a")
    assert scores["val/b/f1"] == scores["val/f1"] == logged["val/b/f1"]
    assert not [name for name in scores if name.startswith("val/a/")]


def test_our_trainer_reports_each_set_beside_seqeval(trained, capsys):
    model, data, _, _ = trained
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    Trainer(**quiet).test(model, datamodule=data)
    said = capsys.readouterr().out
    assert said.count("SpanF1 and seqeval agree.") == 2
    assert "seqeval on the same 14 posts" in said
    assert "seqeval on the same 9 posts" in said
    assert model.label_set == "a"


def test_a_checkpoint_gives_the_same_model(trained):
    model, data, path, _ = trained
    loaded = FusionModule.load_from_checkpoint(path)
    assert loaded.label_sets == SETS
    assert loaded.label_set == "a"
    for batch in data.test_dataloader():
        assert torch.equal(loaded.emissions(batch), model.eval().emissions(batch))
        assert loaded(batch) == model(batch)
    run = trainer(max_epochs=26, num_sanity_val_steps=0, limit_train_batches=1)
    run.fit(model_of(model.hparams["text_encoder"]), datamodule=data, ckpt_path=path)  # goes on
    with pytest.raises(CheckpointError, match="entity types"):
        run.fit(model_of(model.hparams["text_encoder"], A), datamodule=data.parts["a"], ckpt_path=path)


def test_tagging_with_either_set(trained, caplog, tmp_path):
    _, _, path, _ = trained
    text = "The Oscars are on tonight in L.A. with Jo Doe"
    with caplog.at_level(logging.WARNING, "mner.tagger"):
        first = Tagger.from_checkpoint(path)
    assert [record.message for record in caplog.records] == [
        "The model has label sets ['a', 'b']; tagging with 'a', as label_set= chooses no other"
    ]
    caplog.clear()
    second = Tagger(first.model, label_set="b", tokenizer=first.tokenizer)  # one model, two taggers
    assert not caplog.records
    for _ in range(2):
        assert {entity.type for entity in first(text)} == {"OTHER", "LOC", "PER"}
        assert {entity.type for entity in second(text)} == {"MISC", "LOC", "PER"}
    assert second.labels == SETS["b"]
    assert second.data["name"] == "Dated"
    folder = Tagger.from_checkpoint(path, label_set="b").save_pretrained(tmp_path / "shared")
    assert Tagger.from_pretrained(folder, label_set="b")(text) == second(text)
    with pytest.raises(MNERError, match=r"label sets, \['a', 'b'\], but got 'c'"):
        Tagger.from_checkpoint(path, label_set="c")


def test_a_copy_uses_its_own_parts(encoder):
    model = model_of(encoder)
    twin = copy.deepcopy(model)
    assert twin.head is twin.heads["a"]
    assert twin.head is not model.head


def test_what_does_not_fit_is_refused(roots, encoder, tmp_path):
    model = model_of(encoder)
    batch = next(iter(joint(roots, encoder).train_dataloader()))
    batch["label_set"] = "c"
    with pytest.raises(MNERError, match=r"label sets, \['a', 'b'\], but got 'c'"):
        model.losses(batch)
    with pytest.raises(MNERError, match="no label set, but got 'b'"):
        model_of(encoder, A).use("b")
    with pytest.raises(MNERError, match="no label set"):
        Tagger(model_of(encoder, A), label_set="b")
    for name in ("", "a.b", "a/b", "strict", "keys"):
        with pytest.raises(ValueError, match=r"label sets|types that scores"):
            model_of(encoder, {name: A})
    with pytest.raises(ValueError, match="one label set at least"):
        model_of(encoder, {})
    with pytest.raises(ValueError, match="one list of `labels`"):
        UnifiedMultimodalTransformer(SETS, text_encoder=encoder, region_width=8)

    class OwnHead(TextOnly):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.head = torch.nn.Linear(self.fused_width, len(self.labels))

    with pytest.raises(MNERError, match="OwnHead has its own `head`"):
        OwnHead(SETS, text_encoder=encoder).losses(batch | {"label_set": "a"})
