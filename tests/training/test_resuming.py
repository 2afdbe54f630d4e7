"""A run that was interrupted and resumed equals the one that nobody stopped: order, losses, weights."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from mner.cli import main
from mner.data import Twitter2017DataModule
from mner.fusion import TextOnly
from tests.tiny_sets import save_small_bert, write_twitter

POSTS, EPOCHS, STEPS = 23, 3, 6  # 4 posts a batch
QUIET = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip


class Watch(pl.Callback):
    """What was trained on, and with which loss."""

    def __init__(self):
        self.posts, self.losses = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.posts.append(tuple(batch["id"]))
        self.losses.append(float(outputs["loss"]))


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("resuming")
    return write_twitter(root / "data", count=POSTS), str(save_small_bert(root / "bert"))


@pytest.fixture
def run(places, tmp_path):
    """A function that trains, seeing what it trains on; checkpoints of every validation are kept."""

    def run(name, ckpt_path=None, workers=0, keep=None, **options):
        pl.seed_everything(7 if ckpt_path is None else 8, verbose=False)
        data = Twitter2017DataModule(str(places[0]), batch_size=4, text_encoder=places[1], num_workers=workers, seed=1)
        module = TextOnly(data.labels, text_encoder=places[1], learning_rate=2e-3)
        watch = Watch()
        keep = keep or ModelCheckpoint(tmp_path / name, save_top_k=-1, filename="{step}", save_on_train_epoch_end=False)
        options = {"max_epochs": EPOCHS, "val_check_interval": 2, **QUIET, **options}
        trainer = pl.Trainer(callbacks=[watch, keep], num_sanity_val_steps=0, **options)
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
        return watch, module, tmp_path / name

    return run


def check_equal(whole, resumed, begin):
    watch, module, _ = whole
    again, other, _ = resumed
    assert again.posts == watch.posts[begin:]
    assert again.losses == watch.losses[begin:]
    weights = other.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("workers", [0, 2])
def test_in_the_middle_of_an_epoch(run, workers):
    whole = run("whole", workers=workers)
    for epoch in range(EPOCHS):
        seen = Counter(post for batch in whole[0].posts[epoch * STEPS :][:STEPS] for post in batch)
        assert set(seen.values()) == {1}
        assert len(seen) == POSTS
    assert len(set(whole[0].losses)) == EPOCHS * STEPS
    for step in (2, 10) if workers else (2, 6, 8, 10, 12, 16):
        resumed = run("resumed", whole[2] / f"step={step}.ckpt", workers=workers)
        check_equal(whole, resumed, step)


def test_after_any_step(run, tmp_path):
    """Checkpoints between two validations, as `every_n_train_steps` makes them."""
    keep = ModelCheckpoint(tmp_path / "kept", save_top_k=-1, filename="{step}", every_n_train_steps=1)
    whole = run("whole", keep=keep, val_check_interval=1.0)
    # After the last step of an epoch Lightning skips the validation that was to come, and with it a random number.
    late = run("resumed", tmp_path / "kept" / f"step={STEPS}.ckpt", val_check_interval=1.0)[0]
    assert late.posts == whole[0].posts[STEPS:]
    for step in (1, 5, 7, 11):
        resumed = run("resumed", tmp_path / "kept" / f"step={step}.ckpt", val_check_interval=1.0)
        check_equal(whole, resumed, step)


def test_with_fewer_batches_an_epoch(run):
    whole = run("whole", limit_train_batches=4)
    assert len(whole[0].losses) == 4 * EPOCHS
    for step in (2, 4, 6, 8):
        check_equal(whole, run("resumed", whole[2] / f"step={step}.ckpt", limit_train_batches=4), step)


def test_after_a_whole_epoch(run, tmp_path):
    keep = ModelCheckpoint(tmp_path / "kept", save_top_k=-1, filename="{step}", save_on_train_epoch_end=True)
    whole = run("whole", keep=keep, val_check_interval=1.0)
    check_equal(whole, run("resumed", tmp_path / "kept" / f"step={STEPS}.ckpt", val_check_interval=1.0), STEPS)


def test_what_is_named_exists(places, tmp_path, monkeypatch, capsys):
    """The folder of the first run is gone, and the resumed run is no better than its best."""
    monkeypatch.chdir(tmp_path)
    args = [
        "fit", "--model=TextOnly", f"--model.text_encoder={places[1]}", "--data=Twitter2017DataModule",
        f"--data.root={places[0]}", "--data.batch_size=4", "--trainer.accelerator=cpu", "--trainer.logger=false",
        "--trainer.enable_progress_bar=false", "--trainer.default_root_dir=runs", "--model.learning_rate=0.0",
    ]  # fmt: skip
    main([*args, "--trainer.max_epochs=1"])
    shown = re.search(r"Checkpoint: (.+)", capsys.readouterr().out)[1]
    assert Path(shown).is_file()
    shutil.copy(Path(shown).parent / "last.ckpt", tmp_path / "kept.ckpt")
    shutil.rmtree(tmp_path / "runs")
    main([*args, "--trainer.max_epochs=2", "--ckpt_path=kept.ckpt"])
    said = capsys.readouterr().out
    assert "not there any more" in said
    for path in re.findall(r"(?:Checkpoint|The last one): (.+)", said):
        assert Path(path).is_file()
    assert "Next:" not in said
