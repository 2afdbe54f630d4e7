"""`freeze_layers` in training: with kept states the losses are those without, whatever else is on."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl

from mner.data import Twitter2017DataModule
from mner.fusion import Concatenation, TextOnly, TwoStream, VisualPrefix
from mner.training import AdversarialTraining, AveragedWeights, WordDropout
from tests.tiny_sets import WIDTH, write_twitter

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


class Losses(pl.Callback):
    def __init__(self):
        self.found = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.found.append(float(outputs["loss"]))


@pytest.mark.parametrize(
    ("cls", "technique", "data"),
    [
        (TextOnly, lambda: WordDropout(0.3), {}),
        (TextOnly, lambda: WordDropout(0.0), {"max_length": 6}),  # windows
        (TextOnly, AdversarialTraining, {}),
        (TextOnly, AveragedWeights, {"context": ["captions.jsonl"], "context_dropout": 0.5}),
        (Concatenation, lambda: WordDropout(0.0), {}),
        (VisualPrefix, lambda: WordDropout(0.0), {}),
        (TwoStream, lambda: WordDropout(0.0), {}),
    ],
)
def test_losses_are_the_same(cls, technique, data, tmp_path, bert_folder):
    root = write_twitter(tmp_path / "data")
    found = []
    for limit in (2**20, 0):
        pl.seed_everything(1, verbose=False)
        losses = Losses()
        posts = Twitter2017DataModule(
            str(root), batch_size=2, features="regions" if cls.uses_image else None, text_encoder=bert_folder, **data
        )
        width = {"region_width": WIDTH} if cls.uses_image else {}
        module = cls(
            posts.labels, text_encoder=bert_folder, freeze_layers=1, freeze_cache=limit, learning_rate=1e-2, **width
        )
        trainer = pl.Trainer(max_epochs=4, enable_checkpointing=False, callbacks=[losses, technique()], **QUIET)
        trainer.fit(module, posts)
        found.append(losses.found)
        kept = module.text_encoder.frozen.bytes
        keeps = technique is not AdversarialTraining and cls not in (VisualPrefix, TwoStream)
        assert bool(kept) == (bool(limit) and keeps)
    assert len(found[0]) > 4
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_a_checkpoint_says_which_layers_are_frozen(tmp_path, bert_folder):
    root = write_twitter(tmp_path / "data")
    posts = Twitter2017DataModule(str(root), batch_size=2, text_encoder=bert_folder)
    module = TextOnly(posts.labels, text_encoder=bert_folder, freeze_layers=1)
    trainer = pl.Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET)
    trainer.fit(module, posts)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = TextOnly.load_from_checkpoint(tmp_path / "a.ckpt")
    assert again.text_encoder.frozen.count == 1
    assert not any(p.requires_grad for p in again.text_encoder.model.encoder.layer[0].parameters())
