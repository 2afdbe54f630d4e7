"""Configs and checkpoints as version 0.1 wrote them, when the modules lay elsewhere."""

from __future__ import annotations

import importlib
import logging

import pytest
import torch
import yaml

from mner.cli import main
from mner.data import SampleDataModule
from mner.fusion import TextOnly
from mner.training import old_names
from mner.training.checkpoint import load_module

CONFIG = """\
# pytorch_lightning==2.6.6
seed_everything: 0
trainer:
  accelerator: cpu
  devices: auto
  logger: null
  callbacks:
  - class_path: mner.learning_rate.FindLearningRate
    init_args:
      min_lr: 1.0e-07
      max_lr: 0.01
      num_training_steps: 100
      early_stop_threshold: 4.0
  fast_dev_run: true
  max_epochs: 1
  gradient_clip_val: 1.0
model:
  class_path: mner.fusion.text_only.TextOnly
  init_args:
    text_encoder: tiny
    image_encoder: null
    image_weights: pretrained
    freeze_image_encoder: true
    hidden_size: null
    dropout: 0.1
    learning_rate: 5.0e-05
    head_learning_rate: null
    weight_decay: 0.01
    warmup_ratio: 0.0
    crf_reduction: token_mean
    constrain: true
data:
  class_path: mner.data.sample_module.SampleDataModule
  init_args:
    root: null
    train: 600
    sample_seed: 0
    batch_size: 32
    eval_batch_size: null
    num_workers: 0
    tokenizer: null
    max_length: null
    replace_urls: null
    images: null
    image_size: null
    features: null
    context: null
    context_dropout: 0.0
    train_fraction: 1.0
    repair_iob: none
    seed: null
checkpoint:
  monitor: val/f1
  mode: max
  filename: best
  save_last: true
  dirpath: null
  verbose: false
  save_top_k: 1
  save_on_exception: false
  save_weights_only: false
  auto_insert_metric_name: true
  every_n_train_steps: null
  train_time_interval: null
  every_n_epochs: null
  save_on_train_epoch_end: null
  enable_version_counter: true
optimizer: null
lr_scheduler: null
ckpt_path: null
weights_only: null
"""
OLD = [
    "mner.data.datamodule.MNERDataModule",
    "mner.data.huggingface.DatasetsDataModule",
    "mner.data.sample_module.SampleDataModule",
    "mner.data.snapchat.SnapchatDataModule",
    "mner.data.twitter.Twitter2015DataModule",
    "mner.data.twitter.Twitter2017DataModule",
    "mner.learning_rate.FindLearningRate",
    "mner.lightning_cli.BestByF1",
    "mner.lora.LoRA",
    "mner.running.Trainer",
    "mner.fusion.base.FusionModule",
    "mner.fusion.text_only.TextOnly",
    "mner.fusion.concatenation.Concatenation",
    "mner.fusion.concatenation.ConcatenationWithoutCharacters",
    "mner.fusion.co_attention.CoAttention",
    "mner.fusion.visual_attention.VisualAttention",
    "mner.fusion.transformer_attention.TransformerAttention",
    "mner.fusion.unified_multimodal_transformer.UnifiedMultimodalTransformer",
]
"""Classes of version 0.1 that a config or a checkpoint can name."""


@pytest.fixture(autouse=True)
def unsaid():
    old_names._new.cache_clear()


@pytest.mark.parametrize("path", OLD)
def test_every_class_that_a_config_could_name_is_there(path):
    module, _, name = old_names.renamed(path).rpartition(".")
    assert getattr(importlib.import_module(module), name).__name__ == name


def test_only_whole_names_are_replaced():
    for text in ("my_mner.lora.LoRA", "runs/mner.lora.LoRA", "mner.lora.LoRAs.x", "mner.lora.lora", "mner.lora.LoRA/x"):
        assert old_names.renamed(text) == text
    assert old_names.renamed("[mner.lora.LoRA, 'mner.lora.LoRA']").count("mner.training.callbacks.LoRA") == 2


@pytest.mark.parametrize("form", ["config", "parts", "arguments"])
def test_an_old_config_is_read_and_a_word_is_said(form, tmp_path, monkeypatch, caplog):
    """Also in parts, which are looked for beside the config."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    config = yaml.safe_load(CONFIG)
    args = ["--config", "run/config.yaml"]
    if form == "parts":
        (folder / "data.yaml").write_text(yaml.safe_dump(config["data"]), encoding="utf-8")
        config["data"] = "data.yaml"
    elif form == "arguments":
        args += ["--data", config.pop("data")["class_path"]]
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with caplog.at_level(logging.WARNING, logger="mner"):
        cli = main(["fit", *args])
    assert type(cli.datamodule) is SampleDataModule
    assert type(cli.model) is TextOnly
    assert "mner.data.sample_module.SampleDataModule is now called mner.data.SampleDataModule" in caplog.text
    assert caplog.text.count("is now called") == 2, "once for each name"


def test_the_config_of_a_run_has_public_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, data = ("--model=TextOnly", "--model.text_encoder=tiny"), "--data=SampleDataModule"
    quick = ("--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--trainer.max_epochs=1")
    cli = main(["fit", *model, data, *quick, "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"])
    saved = yaml.safe_load((tmp_path / cli.trainer.log_dir / "config.yaml").read_text(encoding="utf-8"))
    assert saved["model"]["class_path"] == "mner.fusion.TextOnly"
    assert saved["data"]["class_path"] == "mner.data.SampleDataModule"


def test_an_old_checkpoint(tmp_path, monkeypatch):
    """Its class by module, its data in a config of then, its callbacks by class."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG, encoding="utf-8")
    module = TextOnly(SampleDataModule.labels, text_encoder="tiny")
    content = {"state_dict": module.state_dict(), "epoch": 0, "global_step": 1, "pytorch-lightning_version": "2.6.6"}
    module.on_save_checkpoint(content)
    old = "mner.fusion.text_only.TextOnly"
    extras = ("class", "version", "seed", "text_config", "data")
    content["mner"] = {**{key: content["mner"][key] for key in extras}, "class": old, "version": "0.1.0"}
    names = yaml.safe_load(CONFIG)["model"]["init_args"]
    content["hyper_parameters"] = {**names, "labels": module.labels, "region_width": None, "_class_path": old}
    state = {"monitor": "val/f1", "best_model_score": torch.tensor(0.5), "dirpath": "elsewhere"}
    content["callbacks"] = {"BestByF1{'monitor': 'val/f1', 'mode': 'max'}": state}
    torch.save(content, "old.ckpt")
    loaded = load_module("old.ckpt", TextOnly)
    torch.testing.assert_close(loaded.state_dict(), module.state_dict())
    short = ["--trainer.limit_test_batches=1", "--trainer.fast_dev_run=false", "--trainer.enable_progress_bar=false"]
    cli = main(["test", "--config", "config.yaml", "--ckpt_path", "old.ckpt", *short])
    assert cli != 2
    cli = main(["test", "--data", "mner.data.sample_module.SampleDataModule", "--ckpt_path", "old.ckpt", *short])
    assert type(cli.model) is TextOnly
