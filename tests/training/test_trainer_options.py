"""Every option of Lightning's Trainer, through the command line: it works, or is refused in one line."""

from __future__ import annotations

import inspect
import types
import typing
from pathlib import Path

import jsonargparse
import pytest
import pytorch_lightning as pl
import torch

from mner.cli import main
from mner.training import Trainer
from tests.tiny_sets import save_small_bert, write_twitter

BASE = {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": "false", "enable_model_summary": "false"}
WORKS = {
    "overfit": {"overfit_batches": 1, "enable_autolog_hparams": "false", "model_registry": "null"},
    "limits": {
        "limit_train_batches": 1, "limit_val_batches": 1, "limit_test_batches": 1, "limit_predict_batches": 1,
        "accumulate_grad_batches": 2, "deterministic": "true", "benchmark": "false",
    },
    "whole": {
        "detect_anomaly": "true", "inference_mode": "false", "use_distributed_sampler": "false", "plugins": "null",
        "sync_batchnorm": "true", "reload_dataloaders_every_n_epochs": 1, "devices": 1, "num_nodes": 1,
        "strategy": "auto", "callbacks": "null",
    },
    "steps": {"max_epochs": "-1", "min_epochs": 1, "min_steps": 1, "max_steps": 2, "num_sanity_val_steps": 0},
    "intervals": {
        "val_check_interval": 0.5, "log_every_n_steps": 1, "profiler": "simple", "gradient_clip_val": 0.5,
        "gradient_clip_algorithm": "value", "num_sanity_val_steps": -1,
    },
    "shown": {"enable_progress_bar": "true", "enable_model_summary": "true", "logger": "false", "precision": "64-true"},
    "mixed": {"precision": "bf16-mixed", "limit_val_batches": 0},
    "automatic": {"precision": "auto", "limit_val_batches": 0},
    "time": {"max_epochs": -1, "max_time": "00:00:00:01"},
}  # fmt: skip
"""Options that go together. `default_root_dir`: all of them."""
NO_CHECKPOINT = {
    "fast_dev_run": {"fast_dev_run": 1},
    "enable_checkpointing": {"enable_checkpointing": "false"},
    "barebones": {"barebones": "true", "enable_progress_bar": "null", "enable_model_summary": "null"},
}
REFUSED = {
    "accumulate_grad_batches": 0, "accelerator": "abacus", "strategy": "luck", "precision": "3-true", "profiler": "no",
    "gradient_clip_algorithm": "bad", "limit_train_batches": -1, "val_check_interval": 99, "plugins": "no",
    "max_time": "soon", "overfit_batches": 1.5, "devices": 0, "max_epochs": -2, "callbacks": "Nobody",
}  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("options")
    return write_twitter(root / "data"), save_small_bert(root / "bert")


@pytest.fixture
def fit(places, tmp_path):
    def fit(**options):
        given = {**BASE, "default_root_dir": tmp_path, **options}
        return main([
            "fit", "--model=TextOnly", f"--model.text_encoder={places[1]}", "--data=Twitter2017DataModule",
            f"--data.root={places[0]}", "--data.batch_size=3",
            *(f"--trainer.{name}={value}" for name, value in given.items()),
        ])  # fmt: skip

    return fit


def test_each_option_is_tried():
    """A new option of Lightning is to be tried too."""
    tried = {name for group in (*WORKS.values(), *NO_CHECKPOINT.values(), BASE) for name in group}
    rest = {"self", "default_root_dir", "check_val_every_n_epoch"}  # in the fits below
    assert set(inspect.signature(pl.Trainer.__init__).parameters) == tried | rest


@pytest.mark.parametrize("name", WORKS)
def test_it_works(fit, tmp_path, capsys, name):
    cli = fit(**WORKS[name])
    assert cli != 2, capsys.readouterr().err
    assert cli.trainer.global_step > 0
    assert len(list(tmp_path.rglob("last.ckpt"))) == 1
    printed = capsys.readouterr()
    assert ("stays as it is" in printed.err) is (name == "time")
    if name == "time":
        assert cli.trainer.optimizers[0].param_groups[0]["lr"] == cli.model.hparams["learning_rate"]


@pytest.mark.parametrize("name", NO_CHECKPOINT)
def test_without_checkpoints(fit, tmp_path, capsys, name):
    cli = fit(**NO_CHECKPOINT[name])
    assert cli != 2, capsys.readouterr().err
    assert cli.trainer.global_step > 0
    assert not list(tmp_path.rglob("*.ckpt"))
    assert ("No checkpoint was kept" in capsys.readouterr().out) is (name != "fast_dev_run")


def test_validation_less_often_than_the_run_is_long(fit, capsys):
    cli = fit(check_val_every_n_epoch=5)
    said = capsys.readouterr().out
    assert "was not scored" in said
    last = Path(cli.trainer.checkpoint_callback.last_model_path)
    assert last.is_file()
    assert f"The last one: {last}" in said


def test_the_last_checkpoint_is_that_of_the_last_step(fit):
    """The run ends between two validations."""
    cli = fit(max_epochs=5, max_steps=3)
    last = torch.load(cli.trainer.checkpoint_callback.last_model_path, weights_only=True)
    assert last["global_step"] == cli.trainer.global_step == 3


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(fit, capsys, name):
    try:
        code = fit(**{name: REFUSED[name]})
    except SystemExit as end:
        code = end.code
    assert code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert said.strip().splitlines()[-1].startswith("mner fit:")


@pytest.mark.parametrize(
    "name",
    ["limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches"],
)
def test_one_batch_is_no_share(name):
    """`typing` keeps one object for unions that are equal, in the order of whoever wrote it first; `|` does not."""
    hint = typing.get_type_hints(Trainer.__init__)[name]
    assert isinstance(hint, types.UnionType)
    parser = jsonargparse.ArgumentParser()
    parser.add_class_arguments(Trainer, "trainer")
    for given, expected in (("1", int), ("1.0", float)):
        assert type(parser.parse_args([f"--trainer.{name}", given]).trainer[name]) is expected
