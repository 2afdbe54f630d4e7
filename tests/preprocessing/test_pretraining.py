"""An encoder that reads on: it learns, is an encoder, and a stopped run ends as one that nobody stopped."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from mner.encoders.text import TextEncoder
from mner.errors import CheckpointError, MNERError
from mner.preprocessing.pretraining import MaskedLanguageModel, pretrain
from tests.conftest import save_bert, write_posts
from tests.tiny_sets import posts_of


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretraining")
    write_posts(folder / "posts.txt", posts_of("train", 6))
    return str(folder / "posts.txt"), str(save_bert(folder / "bert"))


def run(places, out, **options):
    given = {"epochs": 2, "batch_size": 2, "mask": 0.4, "accelerator": "cpu", "learning_rate": 1e-2, **options}
    pretrain([places[0]], places[1], str(out), **given)
    return TextEncoder(str(out)).model.state_dict()


def test_it_learns_to_find_what_is_masked(places, tmp_path, monkeypatch):
    losses, plain = [], MaskedLanguageModel.training_step

    def watched(self, batch, batch_idx):
        assert ((batch["labels"] == -100) | (batch["labels"] > 0)).all()
        loss = plain(self, batch, batch_idx)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(MaskedLanguageModel, "training_step", watched)
    before, after = TextEncoder(places[1]).model.state_dict(), run(places, tmp_path / "out", epochs=12)
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])
    assert before.keys() == after.keys()
    assert not torch.equal(before["embeddings.word_embeddings.weight"], after["embeddings.word_embeddings.weight"])


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "mpnet", "electra", "deberta-v2"])
def test_the_loss_is_that_of_transformers(kind):
    """Which names pieces at all places; here it is at the masked ones alone, whatever the encoder is."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "embedding_size": 16, "vocab_size": 50}
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(kind, **sizes)).eval()
    ids = torch.randint(5, 50, (3, 12))
    labels = torch.where(torch.rand(3, 12) < 0.3, ids, -100)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    module = MaskedLanguageModel(model, 1e-3, {})
    module.model.eval()
    module.log = lambda *_, **__: None
    torch.testing.assert_close(module.training_step(batch, 0), model(**batch).loss)
    assert model(**batch).logits.shape[:2] == ids.shape, "the encoder is left as it was"
    batch["labels"] = torch.full_like(labels, -100)
    assert module.training_step(batch, 0) is None


def test_epochs_have_orders_and_masks_of_their_own(places, tmp_path, monkeypatch):
    seen, plain = {}, MaskedLanguageModel.training_step

    def watched(self, batch, batch_idx):
        seen.setdefault(self.current_epoch, []).append(batch["input_ids"].tolist())
        return plain(self, batch, batch_idx)

    monkeypatch.setattr(MaskedLanguageModel, "training_step", watched)
    run(places, tmp_path / "out", epochs=3)
    assert len(seen) == 3
    assert seen[0] != seen[1] != seen[2]


def test_a_stopped_run_ends_as_one_that_nobody_stopped(places, tmp_path, monkeypatch):
    whole = run(places, tmp_path / "whole", epochs=3)
    plain = MaskedLanguageModel.training_step

    def broken(self, batch, batch_idx):
        if self.current_epoch == 2:
            raise RuntimeError("stopped")
        return plain(self, batch, batch_idx)

    monkeypatch.setattr(MaskedLanguageModel, "training_step", broken)
    with pytest.raises(RuntimeError, match="stopped"):
        run(places, tmp_path / "out", epochs=3)
    monkeypatch.undo()
    assert not (tmp_path / "out" / "config.json").exists()
    with pytest.raises(CheckpointError, match="options differ"):
        run(places, tmp_path / "out", epochs=3, mask=0.2)
    seen = []

    def watched(self, batch, batch_idx):
        seen.append(self.current_epoch)
        return plain(self, batch, batch_idx)

    monkeypatch.setattr(MaskedLanguageModel, "training_step", watched)
    again = run(places, tmp_path / "out", epochs=3)
    assert set(seen) == {2}
    for name, value in whole.items():
        torch.testing.assert_close(again[name], value)


def test_wrong_options(places, tmp_path):
    with pytest.raises(MNERError, match="`mask` between"):
        run(places, tmp_path / "out", mask=0.0)
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(MNERError):
        pretrain([str(tmp_path / "none.jsonl")], places[1], str(tmp_path / "out"))
