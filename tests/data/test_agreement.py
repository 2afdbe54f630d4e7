"""Model and data agree on tokeniser, labels and images, whoever made them; or one line says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from mner.data import Twitter2017DataModule
from mner.data.tokenizer import PostTokenizer
from mner.errors import MNERError
from mner.fusion import FusionModule, TextOnly, VisualAttention
from mner.training import Trainer
from tests.tiny_sets import WIDTH, save_small_bert, write_twitter

POSTS = 11
QUIET = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "enable_checkpointing": False, "max_epochs": 1,
}  # fmt: skip


def reordered(folder: Path) -> str:
    """The same encoder with a tokeniser that numbers its letters backwards: all ids fit, none is right."""
    file = save_small_bert(folder) / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    letters = [piece for piece, number in vocabulary.items() if 5 <= number < 83]  # behind the special ones
    numbers = [vocabulary[piece] for piece in letters]
    content["model"]["vocab"] = {
        **vocabulary,
        **dict(zip(letters, reversed(numbers), strict=True)),
    }
    file.write_text(json.dumps(content), encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("agreement")
    return (
        str(write_twitter(root / "data", count=POSTS)), str(save_small_bert(root / "bert")), reordered(root / "other"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(places, tmp_path_factory):
    """A checkpoint, and the scores that its own data module gives."""
    data = Twitter2017DataModule(places[0], batch_size=4, text_encoder=places[2], replace_urls="url")
    pl.seed_everything(0, verbose=False)
    model = TextOnly(data.labels, text_encoder=places[2], learning_rate=1e-2)
    trainer = pl.Trainer(**{**QUIET, "max_epochs": 5})
    trainer.fit(model, data)
    path = tmp_path_factory.mktemp("kept") / "kept.ckpt"
    trainer.save_checkpoint(path)
    return path, trainer.validate(model, data, verbose=False)[0]


@pytest.mark.parametrize("trainer", [Trainer, pl.Trainer])
def test_a_checkpoint_brings_its_tokeniser(places, trained, trainer):
    path, scores = trained
    model, data = FusionModule.load_from_checkpoint(path), Twitter2017DataModule(places[0], batch_size=4)
    assert trainer(**QUIET).validate(model, datamodule=data, verbose=False)[0] == pytest.approx(scores)
    assert data.replace_urls == "url"
    assert data.describe()["tokenizer"] == model.restored["data"]["tokenizer"]
    right = PostTokenizer(places[2], replace_urls="url")
    assert data.post_tokenizer.fingerprint == right.fingerprint != PostTokenizer(places[1]).fingerprint
    post = data.datasets["valid"].examples[1]
    assert data.datasets["valid"][1]["token_ids"].tolist() == right.encode(post.words).ids.tolist()


def test_a_new_model_brings_its_tokeniser(places):
    data = Twitter2017DataModule(places[0], batch_size=4)
    assert data.post_tokenizer.fingerprint == PostTokenizer("tiny").fingerprint, "there is no model yet"
    for encoder in places[1:]:  # one data module serves both, one after the other
        model = TextOnly(data.labels, text_encoder=encoder)
        pl.Trainer(**QUIET).fit(model, data)
        right = PostTokenizer(encoder).encode(data.datasets["train"].examples[0].words).ids
        assert data.datasets["train"][0]["token_ids"].tolist() == right.tolist()


def test_another_one_that_was_asked_for_is_an_error(places, trained):
    model = FusionModule.load_from_checkpoint(trained[0])
    for asked in ({"text_encoder": places[1]}, {"tokenizer": places[1]}):
        data = Twitter2017DataModule(places[0], batch_size=4, **asked)
        with pytest.raises(MNERError, match="tokeniser that the model was trained with"):
            pl.Trainer(**QUIET).validate(model, data)
    fresh = TextOnly(model.labels, text_encoder=places[2])
    with pytest.raises(MNERError, match="tokeniser that the model was trained with"):
        pl.Trainer(**QUIET).fit(fresh, Twitter2017DataModule(places[0], text_encoder=places[1]))
    same = Twitter2017DataModule(places[0], batch_size=4, tokenizer=places[2])
    pl.Trainer(**QUIET).validate(model, same, verbose=False)


def test_the_checkpoint_that_a_trainer_is_given(places, trained):
    """A new model, whose weights come from `ckpt_path`."""
    model = TextOnly(Twitter2017DataModule(places[0]).labels, text_encoder=places[1])
    with pytest.raises(MNERError, match="tokenised with another tokeniser"):
        pl.Trainer(**QUIET).validate(model, Twitter2017DataModule(places[0]), ckpt_path=trained[0], weights_only=True)


def test_loaders_by_hand(places, trained):
    path, scores = trained
    model = FusionModule.load_from_checkpoint(path)
    good = Twitter2017DataModule(places[0], batch_size=4, text_encoder=places[2], replace_urls="url")
    assert pl.Trainer(**QUIET).validate(model, good.val_dataloader(), verbose=False)[0] == pytest.approx(scores)
    for wrong in (Twitter2017DataModule(places[0]), Twitter2017DataModule(places[0], text_encoder=places[1])):
        for run in ("validate", "predict"):
            with pytest.raises(MNERError, match="made with another one"):
                getattr(pl.Trainer(**QUIET), run)(model, wrong.val_dataloader())
        with pytest.raises(MNERError, match="made with another one"):
            pl.Trainer(**QUIET).fit(TextOnly(wrong.labels, text_encoder=places[2]), wrong.train_dataloader())


def test_other_labels_by_hand(places, tmp_path):
    data = Twitter2017DataModule(places[0], text_encoder=places[1])
    swapped = ["O", *data.labels[3:], *data.labels[1:3]]
    with pytest.raises(MNERError, match="entity types"):
        pl.Trainer(**QUIET).fit(TextOnly(swapped, text_encoder=places[1]), data.train_dataloader())


def test_images_by_hand(places):
    data = Twitter2017DataModule(places[0], batch_size=4, text_encoder=places[1])
    model = VisualAttention(data.labels, text_encoder=places[1], region_width=WIDTH)
    before = model.head.weight.detach().clone()
    with pytest.raises(MNERError, match="would run on text alone"):
        pl.Trainer(**QUIET).fit(model, data.train_dataloader())
    assert torch.equal(model.head.weight, before), "refused in the first step"
    model.text_alone = True
    pl.Trainer(**QUIET).fit(model, data.train_dataloader())
    assert not torch.equal(model.head.weight, before)
