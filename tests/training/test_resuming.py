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
from mner.errors import CheckpointError
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


ARGS = [
    "--model=TextOnly", "--data=Twitter2017DataModule", "--data.batch_size=4", "--trainer.accelerator=cpu",
    "--trainer.logger=false", "--trainer.enable_progress_bar=false",
]  # fmt: skip


def test_the_best_holds_weights_once_and_the_last_goes_on(places, tmp_path, capsys):
    args = ["fit", *ARGS, f"--model.text_encoder={places[1]}", f"--data.root={places[0]}"]
    args += [f"--trainer.default_root_dir={tmp_path}"]
    cli = main([*args, "--trainer.max_epochs=1"])
    folder = Path(cli.trainer.checkpoint_callback.best_model_path).parent
    best, last = (torch.load(folder / name, weights_only=True) for name in ("best.ckpt", "last.ckpt"))
    assert all(torch.equal(value, best["state_dict"][name]) for name, value in last["state_dict"].items())
    assert {"optimizer_states", "lr_schedulers"} <= last.keys()
    assert not {"optimizer_states", "lr_schedulers"} & best.keys()
    weights = sum(value.numel() * value.element_size() for value in best["state_dict"].values())
    assert (folder / "best.ckpt").stat().st_size <= 1.05 * weights + 40_000  # names, tokeniser, random numbers
    assert not [value for value in _tensors({**best, "state_dict": {}}) if value.is_floating_point() and value.dim()]
    capsys.readouterr()
    assert main([*args, "--trainer.max_epochs=2", f"--ckpt_path={folder / 'best.ckpt'}"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"give {folder / 'last.ckpt'} to go on, or --model.init_from {folder / 'best.ckpt'}" in said
    assert main(["validate", *args[1:], f"--ckpt_path={folder / 'best.ckpt'}"]) != 2
    with pytest.raises(CheckpointError, match="no state of the optimiser"):
        pl.Trainer(**QUIET, default_root_dir=tmp_path, max_epochs=2, enable_checkpointing=False).fit(
            cli.model, cli.datamodule, ckpt_path=folder / "best.ckpt", weights_only=True
        )
    again = main([*args, "--trainer.max_epochs=2", f"--ckpt_path={folder / 'last.ckpt'}"])
    assert again.trainer.global_step == 2 * STEPS


@pytest.mark.parametrize(
    "options", [["--checkpoint.save_weights_only=false"], ["--checkpoint.save_last=false"]], ids=lambda given: given[0]
)
def test_a_best_that_was_asked_to_be_whole(places, tmp_path, options):
    args = ["fit", *ARGS, f"--model.text_encoder={places[1]}", f"--data.root={places[0]}", *options]
    args += [f"--trainer.default_root_dir={tmp_path}"]
    best = main([*args, "--trainer.max_epochs=1"]).trainer.checkpoint_callback.best_model_path
    assert main([*args, "--trainer.max_epochs=2", f"--ckpt_path={best}"]).trainer.global_step == 2 * STEPS


def test_the_best_has_the_average(places, tmp_path):
    """Lightning's own `save_weights_only` would keep the weights of the last step."""
    args = ["fit", *ARGS, f"--model.text_encoder={places[1]}", f"--data.root={places[0]}", "--trainer.max_epochs=1"]
    cli = main([*args, f"--trainer.default_root_dir={tmp_path}", "--trainer.callbacks=AveragedWeights"])
    best = Path(cli.trainer.checkpoint_callback.best_model_path)
    kept, whole = (torch.load(path, weights_only=True) for path in (best, best.with_name("last.ckpt")))
    name = "head.weight"
    assert torch.equal(kept["state_dict"][name], whole["state_dict"][name])
    assert not torch.equal(kept["state_dict"][name], whole["current_model_state"][name])
    assert not {"current_model_state", "averaging_state"} & kept.keys()


def _tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [tensor for entry in inner for tensor in _tensors(entry)]
