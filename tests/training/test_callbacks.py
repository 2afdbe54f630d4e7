"""Each listing of docs/training.md is run: loggers, callbacks, and what they leave behind."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import LearningRateFinder

from mner.cli import main
from mner.data import Twitter2017DataModule
from mner.fusion import FusionModule, TextOnly
from mner.training.callbacks import FindLearningRate

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
LISTINGS = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def first_class(listing):
    return re.search(r"class_path: (\w+)", listing)[1]


# Joint training and frozen layers have files of tests of their own.
BY_CLASS = {
    first_class(listing): listing
    for listing in LISTINGS
    if "class_path" in listing and "JointDataModule" not in listing
}
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
NOT_RUN = ("WandbLogger", "MLFlowLogger")  # they need packages and services of their own


@pytest.fixture
def run(tmp_path, monkeypatch, posts_folder, bert_folder):
    """A function that trains with a listing behind a configuration, as the page says."""
    monkeypatch.chdir(tmp_path)
    base = {
        "model": {"class_path": "TextOnly", "init_args": {"text_encoder": bert_folder}},
        "data": {"class_path": "Twitter2017DataModule", "init_args": {"root": str(posts_folder), "batch_size": 1}},
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False},
    }

    def run(name, *more):
        Path("base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
        Path("listing.yaml").write_text(BY_CLASS[name], encoding="utf-8")
        cli = main(["fit", "--config", "base.yaml", "--config", "listing.yaml", *more])
        assert cli != 2
        return cli

    return run


def test_every_listing_is_tried():
    tried = {name.removeprefix("test_").partition("__")[0] for name in globals() if "__" in name}
    assert set(BY_CLASS) - set(NOT_RUN) - {"LoRA"} == {name for name in BY_CLASS if name.lower() in tried}
    assert len(BY_CLASS) == 9
    # The others: tests/cli/test_joint.py, tests/training/test_freeze_layers.py.
    assert len(LISTINGS) - len(BY_CLASS) == 2


def test_csvlogger__writes_a_table(run):
    run("CSVLogger", "--trainer.max_epochs=1")
    folder = Path("runs/twitter2017/version_0")
    names = (folder / "metrics.csv").read_text(encoding="utf-8").partition("\n")[0].split(",")
    assert {"val/f1", "val/strict/f1", "val/PER/f1", "val/loss"} <= set(names)
    assert {path.name for path in folder.iterdir()} == {"metrics.csv", "hparams.yaml", "config.yaml", "checkpoints"}
    assert {path.name for path in (folder / "checkpoints").glob("[!.]*")} == {"best.ckpt", "last.ckpt"}


def test_tensorboardlogger__writes_events(run):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    run("TensorBoardLogger", "--trainer.max_epochs=1")
    folder = Path("runs/twitter2017/version_0")
    (events,) = folder.glob("events.out.tfevents.*")
    assert b"val/f1" in events.read_bytes()
    assert (folder / "config.yaml").is_file()


def test_a_logger_without_a_folder_here(run):
    served = "--trainer.logger=pytorch_lightning.loggers.logger.DummyLogger"
    cli = run("EarlyStopping", served, "--trainer.limit_train_batches=1", "--trainer.max_epochs=1")
    assert cli.trainer.log_dir is None
    assert Path(cli.trainer.checkpoint_callback.best_model_path).is_file()
    assert not list(Path().rglob("config.yaml"))


@pytest.mark.parametrize("name", NOT_RUN)
def test_options_of_other_loggers_are_understood(run, name, capsys):
    with pytest.raises(SystemExit) as end:
        run(name, "--print_config")
    assert end.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["trainer"]["logger"]["class_path"] == f"pytorch_lightning.loggers.{name}"


def test_earlystopping__stops_where_nothing_gets_better(run):
    cli = run("EarlyStopping", "--model.learning_rate=0.0", "--trainer.logger=false", "--trainer.limit_train_batches=1")
    assert cli.trainer.max_epochs == 50
    assert cli.trainer.current_epoch == 6, "the first one, and five that are no better"


def test_modelsummary__and_learning_rates(run, caplog, monkeypatch):
    logger = ("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=.", "--trainer.log_every_n_steps=1")
    lightning = logging.getLogger("pytorch_lightning")
    monkeypatch.setattr(lightning, "handlers", [caplog.handler])  # it may pass nothing on to the handlers of others
    with caplog.at_level("INFO"):
        run("ModelSummary", "--trainer.max_epochs=1", *logger)
    assert "text_encoder.model.embeddings" in caplog.text
    (table,) = Path("lightning_logs").rglob("metrics.csv")
    header, *lines = table.read_text(encoding="utf-8").splitlines()
    column = header.split(",").index("lr-AdamW/pg1")
    rates = [float(cell) for line in lines if (cell := line.split(",")[column])]
    assert rates == sorted(rates, reverse=True)
    assert len(rates) == 6
    assert rates[0] == 5e-5


def test_findlearningrate__is_used(run, capsys):
    options = ("--trainer.max_epochs=4", "--model.head_learning_rate=0.01", "--trainer.logger=false")
    cli = run("FindLearningRate", *options)
    found = cli.model.hparams["learning_rate"]
    assert 1e-7 < found < 1e-2
    assert found != 5e-5
    assert f"Learning rate found: {found:.3g} (instead of 5e-05)" in capsys.readouterr().err
    last = torch.load(cli.trainer.checkpoint_callback.last_model_path, weights_only=True)
    assert last["lr_schedulers"][0]["base_lrs"] == [found, found, 0.01, 0.01]
    assert last["hyper_parameters"]["learning_rate"] == found
    assert last["global_step"] == 24, "the search takes nothing from training"
    assert not list(Path().glob(".lr_find*"))


def test_a_search_that_finds_nothing_changes_nothing(posts_folder, bert_folder, tmp_path, caplog):
    data = Twitter2017DataModule(str(posts_folder), batch_size=1, text_encoder=bert_folder)
    model = TextOnly(data.labels, text_encoder=bert_folder)
    trainer = pl.Trainer(max_epochs=1, callbacks=[FindLearningRate()], default_root_dir=tmp_path, **QUIET)
    with caplog.at_level("INFO"):
        trainer.fit(model, datamodule=data)
    assert "No learning rate was found in 6 steps; 5e-05 is kept" in caplog.text
    assert model.hparams["learning_rate"] == trainer.optimizers[0].param_groups[0]["initial_lr"] == 5e-5
    assert trainer.global_step == 6


def test_lightnings_own_search_is_lost(posts_folder, bert_folder, tmp_path):
    """Why there is another; once Lightning's keeps what it finds, it can go."""
    data = Twitter2017DataModule(str(posts_folder), batch_size=1, text_encoder=bert_folder)
    model = TextOnly(data.labels, text_encoder=bert_folder)
    search = LearningRateFinder(min_lr=1e-7, max_lr=1e-2, num_training_steps=18)
    trainer = pl.Trainer(max_epochs=3, callbacks=[search], default_root_dir=tmp_path, **QUIET)
    trainer.fit(model, datamodule=data)
    assert model.hparams["learning_rate"] != 5e-5
    assert trainer.lr_scheduler_configs[0].scheduler.base_lrs == [5e-5] * 4


def test_emaweightaveraging__is_what_checkpoints_hold(run, capsys):
    options = ("--trainer.max_epochs=2", "--model.learning_rate=0.01", "--trainer.logger=false")
    cli = run("EMAWeightAveraging", *options)
    path = cli.trainer.checkpoint_callback.last_model_path
    content = torch.load(path, weights_only=True)
    averaged, current = content["state_dict"]["head.weight"], content["current_model_state"]["head.weight"]
    assert not torch.allclose(averaged, current, atol=1e-3)
    module = FusionModule.load_from_checkpoint(path)
    assert torch.equal(module.head.weight, averaged)
    capsys.readouterr()
    metrics = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    cli = main(["validate", "--config", "base.yaml", "--ckpt_path", path])
    assert float(cli.trainer.callback_metrics["val/loss"]) == pytest.approx(metrics["val/loss"], abs=1e-5)
