"""Checkpoints: from the command line to Python and back, weights only, with the right class, needing nothing else."""

from __future__ import annotations

import os
import re
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

import mner.fusion
from mner.cli import main
from mner.data import Twitter2017DataModule
from mner.errors import CheckpointError
from mner.fusion import FusionModule, TextOnly, VisualAttention
from mner.training import Trainer
from mner.training.checkpoint import class_path, import_class, read_checkpoint
from tests.tiny_sets import WIDTH, save_small_bert, save_visual_bert, write_twitter

QUIET = ("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")
DATA = ("--data=Twitter2017DataModule", "--data.root=data", "--data.batch_size=3")
SILENT = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip
STRATEGIES = {
    "TextOnly": ["--model.text_encoder=bert"],
    "VisualAttention": [
        "--model.text_encoder=bert", "--model.image_encoder=test_resnet", "--model.image_weights=null",
        "--data.images=images", "--data.image_size=32",
    ],
    "Concatenation": ["--model.text_encoder=bert", "--data.features=regions", "--model.character_width=12"],
    "TransformerAttention": [
        "--model.text_encoder=visualbert", "--data.tokenizer=bert", "--data.features=regions",
    ],
    "UnifiedMultimodalTransformer": ["--model.text_encoder=bert", "--data.features=regions"],
}  # fmt: skip
OWN = """
from torch import nn
from mner.fusion import FusionModule

class Own(FusionModule):
    uses_image = False

    def __init__(self, *args, factor: int = 2, **kwargs):
        super().__init__(*args, **kwargs)
        self.extra = nn.Linear(self.width, factor * self.width)

    @property
    def fused_width(self):
        return self.hparams["factor"] * self.width

    def fuse(self, words, word_mask, regions, region_mask):
        return self.extra(words)
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory, bert_folder):
    folder = tmp_path_factory.mktemp("user")
    write_twitter(folder / "data")
    save_small_bert(folder / "bert")
    save_visual_bert(folder / "visualbert", bert_folder)
    (folder / "own_fusion.py").write_text(OWN, encoding="utf-8")
    return folder


@pytest.fixture
def here(work, monkeypatch):
    monkeypatch.chdir(work)
    return work


def fit(folder, *model):
    """A CLI run of one epoch: the checkpoint, and the model as it was then."""
    cli = main(["fit", *model, *DATA, *QUIET, "--trainer.max_epochs=1", f"--trainer.default_root_dir={folder}"])
    assert cli != 2
    return Path(cli.trainer.checkpoint_callback.last_model_path), cli


def same_emissions(one, other, data):
    one.eval()
    other.eval()
    for batch in data.val_dataloader():
        torch.testing.assert_close(one.emissions(batch), other.emissions(batch))
        assert one(batch) == other(batch)


def last_line(capsys):
    captured = capsys.readouterr().err
    assert "Traceback" not in captured
    return captured.strip().splitlines()[-1]


@pytest.mark.parametrize("name", STRATEGIES)
def test_from_the_command_line_to_python(here, tmp_path, name):
    path, cli = fit(tmp_path, f"--model={name}", *STRATEGIES[name])
    content = torch.load(path, weights_only=True)
    assert content["mner"]["class"] == f"mner.fusion.{name}"
    assert content["mner"]["version"] == mner.__version__
    assert content["mner"]["seed"] == 0
    assert content["mner"]["data"]["fingerprints"] == cli.datamodule.fingerprints
    loaded = FusionModule.load_from_checkpoint(path)
    assert type(loaded) is getattr(mner.fusion, name)
    assert not loaded.training
    assert loaded.labels == cli.model.labels
    same_emissions(loaded, cli.model, cli.datamodule)
    again = type(loaded).load_from_checkpoint(path, learning_rate=0.5)
    assert again.hparams["learning_rate"] == 0.5


@pytest.mark.parametrize("name", STRATEGIES)
def test_from_python_to_the_command_line(here, tmp_path, name):
    options = {"text_encoder": "visualbert" if name == "TransformerAttention" else "bert"}
    given = {"features": "regions"} if name != "TextOnly" else {}
    data = Twitter2017DataModule("data", batch_size=3, text_encoder="bert", **given)
    if given:
        options["region_width"] = data.region_width
    module = getattr(mner.fusion, name)(data.labels, head_learning_rate=0.05, **options)
    trainer = Trainer(max_epochs=2, enable_checkpointing=False, **SILENT)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "python.ckpt")
    torch.load(tmp_path / "python.ckpt", weights_only=True)
    (expected,) = trainer.test(module, datamodule=data)
    sources = [*DATA, *(f"--data.{key}={value}" for key, value in given.items())]
    tokenizer = ["--data.tokenizer=bert"] if name == "TransformerAttention" else []
    for model in ([f"--model={name}", f"--model.text_encoder={options['text_encoder']}"], []):
        cli = main(["test", f"--ckpt_path={tmp_path / 'python.ckpt'}", *model, *sources, *tokenizer, *QUIET])
        assert type(cli.model) is type(module)
        found = {key: float(value) for key, value in cli.trainer.callback_metrics.items()}
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.fixture(scope="module")
def text_checkpoint(work, tmp_path_factory):
    before = Path.cwd()
    os.chdir(work)
    try:
        return fit(tmp_path_factory.mktemp("text"), "--model=TextOnly", "--model.text_encoder=bert")
    finally:
        os.chdir(before)


def test_the_encoder_may_be_gone(work, tmp_path, monkeypatch, text_checkpoint):
    """Configuration and tokeniser are in the checkpoint: it is tested and loaded where its encoder's folder is not."""
    path, trained = text_checkpoint
    shutil.copytree(work / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    loaded = FusionModule.load_from_checkpoint(path)
    same_emissions(loaded, trained.model, trained.datamodule)
    assert loaded.hparams["text_encoder"] == "bert", "a later checkpoint names the encoder again"
    for model in ([], ["--model=TextOnly", "--model.text_encoder=bert"]):
        cli = main(["test", f"--ckpt_path={path}", *model, *DATA, *QUIET])
        assert cli != 2
        same_emissions(cli.model, trained.model, trained.datamodule)


def test_a_loaded_model_keeps_what_the_checkpoint_said(here, tmp_path, text_checkpoint):
    path, trained = text_checkpoint
    loaded = FusionModule.load_from_checkpoint(path)
    trainer = pl.Trainer(**SILENT, max_epochs=1)
    trainer.strategy.connect(loaded)
    trainer.save_checkpoint(tmp_path / "again.ckpt")
    again = FusionModule.load_from_checkpoint(tmp_path / "again.ckpt")
    same_emissions(again, trained.model, trained.datamodule)
    assert again.restored["data"] == loaded.restored["data"]
    assert again.hparams == loaded.hparams


def test_a_loaded_model_trains_on_with_dropout(here, text_checkpoint):
    loaded = FusionModule.load_from_checkpoint(text_checkpoint[0])
    modes = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            modes.append(all(module.training for module in pl_module.modules()))

    trainer = pl.Trainer(**SILENT, max_steps=1, enable_checkpointing=False, callbacks=[Watch()])
    trainer.fit(loaded, datamodule=Twitter2017DataModule("data", text_encoder="bert"))
    assert modes == [True]


def test_a_class_of_ones_own(here, tmp_path, capsys):
    path, cli = fit(tmp_path, "--model=own_fusion.Own", "--model.text_encoder=bert", "--model.factor=3")
    loaded = FusionModule.load_from_checkpoint(path)
    assert type(loaded).__name__ == "Own"
    assert class_path(loaded) == "own_fusion.Own"
    assert loaded.hparams["factor"] == 3
    same_emissions(loaded, cli.model, cli.datamodule)
    tested = main(["test", f"--ckpt_path={path}", *DATA, *QUIET])
    assert type(tested.model) is type(loaded)
    with pytest.raises(CheckpointError, match="Expected a checkpoint of a TextOnly, but it was written by own_fusion"):
        TextOnly.load_from_checkpoint(path)


def test_a_class_that_cannot_be_imported(here, tmp_path, monkeypatch, capsys):
    path, _ = fit(tmp_path, "--model=own_fusion.Own", "--model.text_encoder=bert")
    own = sys.modules.pop("own_fusion").Own
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(here))])
    with pytest.raises(CheckpointError, match=r"written by class own_fusion.Own, which cannot be imported"):
        FusionModule.load_from_checkpoint(path)
    assert type(own.load_from_checkpoint(path)) is own, "whoever has the class needs no import"
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["test", f"--ckpt_path={path}", *DATA[:1], f"--data.root={here / 'data'}", *QUIET]) == 2
    assert "own_fusion" in last_line(capsys)


def test_the_class_of_a_script(here, tmp_path):
    """A class defined in a script is `__main__.X` in its checkpoint, and something else everywhere else."""
    path, _ = fit(tmp_path, "--model=own_fusion.Own", "--model.text_encoder=bert")
    own = sys.modules["own_fusion"].Own
    content = torch.load(path, weights_only=True)
    content["mner"]["class"] = "__main__.Own"
    torch.save(content, tmp_path / "script.ckpt")
    assert type(own.load_from_checkpoint(tmp_path / "script.ckpt")) is own
    with pytest.raises(CheckpointError, match="cannot be imported"):
        FusionModule.load_from_checkpoint(tmp_path / "script.ckpt")


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("where", ["whole", "weights", "arguments"])
def test_a_malicious_pickle_runs_nothing(here, tmp_path, capsys, text_checkpoint, where):
    trap = tmp_path / "harm"
    content = torch.load(text_checkpoint[0], weights_only=True)
    if where == "weights":
        content["state_dict"]["head.bias"] = Malicious(trap)
    if where == "arguments":
        content["hyper_parameters"]["dropout"] = Malicious(trap)
    path = tmp_path / "evil.ckpt"
    torch.save(Malicious(trap) if where == "whole" else content, path)
    with pytest.raises(CheckpointError, match="can be read safely"):
        FusionModule.load_from_checkpoint(path)
    model = ("--model=TextOnly", "--model.text_encoder=bert")
    for command in ("test", "fit", "predict", "validate"):
        for arguments in ((), model):
            assert main([command, f"--ckpt_path={path}", *arguments, *DATA, *QUIET]) == 2
            assert "can be read safely" in last_line(capsys)
    module = TextOnly(text_checkpoint[1].model.labels, text_encoder="bert")
    data = Twitter2017DataModule("data", text_encoder="bert")
    with pytest.raises(Exception, match="Weights only"):
        Trainer(**SILENT).test(module, datamodule=data, ckpt_path=path)
    assert not trap.exists()
    torch.load(path, weights_only=False)
    assert trap.exists(), "the trap itself works"


class Foreign(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_foreign_checkpoint(here, tmp_path, capsys, text_checkpoint):
    trainer = pl.Trainer(max_steps=1, **SILENT, enable_checkpointing=False)
    trainer.fit(Foreign(), torch.utils.data.DataLoader(torch.zeros(2, 2)))
    path = tmp_path / "foreign.ckpt"
    trainer.save_checkpoint(path)
    message = "it was written by other code"
    with pytest.raises(CheckpointError, match=message):
        FusionModule.load_from_checkpoint(path)
    assert main(["test", f"--ckpt_path={path}", *DATA, *QUIET]) == 2
    assert message in last_line(capsys)
    module = TextOnly(text_checkpoint[1].model.labels, text_encoder="bert")
    with pytest.raises(CheckpointError, match=message):
        Trainer(**SILENT).test(module, datamodule=Twitter2017DataModule("data", text_encoder="bert"), ckpt_path=path)


def test_a_file_that_is_no_checkpoint(tmp_path, text_checkpoint):
    path = tmp_path / "some.ckpt"
    whole = text_checkpoint[0].read_bytes()
    for content in (b"", b"no checkpoint", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            read_checkpoint(path)
    with pytest.raises(CheckpointError, match="No checkpoint at"):
        read_checkpoint(tmp_path / "none.ckpt")


@pytest.mark.parametrize("member", ["]q", "X\x07\x00\x00\x00mner", "K\x01q", "\x80\x02R.", "\x80\x02N)\x81."])
def test_a_pickle_that_nobody_wrote(tmp_path, text_checkpoint, member):
    path = tmp_path / "some.ckpt"
    with zipfile.ZipFile(text_checkpoint[0]) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, member.encode("latin-1") if name.endswith("data.pkl") else old.read(name))
    with pytest.raises(CheckpointError, match=re.escape(str(path))):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("mner", "class"), None, "it has None as mner/class, where mner writes str"),
        (("mner", "class"), "../x", "cannot be imported"),
        (("mner", "text_config"), [], r"it has \[\] as mner/text_config"),
        (("mner", "text_config", "chunk_size_feed_forward"), {}, r"`chunk_size_feed_forward` .* but got \{\}"),
        (("mner", "data"), "x", "it has 'x' as data"),
        (("mner", "data", "tokenizer"), {"vocab.txt": 3}, "it has 3 as data/tokenizer"),
        (("mner", "data", "context"), "x", "it has 'x' as data/context"),
        (("mner", "data", "max_length"), 0, "it has 0 as data/max_length"),
        (("mner", "data", "words"), "x", "it has 'x' as data/words"),
        (("hyper_parameters",), 1.5, "it has 1.5 as hyper_parameters"),
        (("hyper_parameters", "labels"), 7, "do not make a model"),
        (("hyper_parameters", "dropout"), float("nan"), "Expected `dropout` to be a probability"),
        (("hyper_parameters", "strange"), 7, "do not make a model"),
        (("state_dict",), [], r"it has \[\] as state_dict"),
        (("state_dict", "head.bias"), torch.zeros(2), "do not make a model"),
    ],
)
def test_a_checkpoint_that_somebody_changed_is_refused_in_one_line(tmp_path, text_checkpoint, place, value, said):
    content = torch.load(text_checkpoint[0], weights_only=True)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    torch.save(content, tmp_path / "some.ckpt")
    with pytest.raises(CheckpointError, match=said):
        FusionModule.load_from_checkpoint(tmp_path / "some.ckpt")


def test_restoring_into_another_model_is_refused(here, text_checkpoint):
    path, _ = text_checkpoint
    data = Twitter2017DataModule("data", text_encoder="bert", features="regions")
    other = VisualAttention(data.labels, text_encoder="bert", region_width=WIDTH)
    with pytest.raises(CheckpointError, match=r"written by mner\.fusion\.TextOnly"):
        Trainer(**SILENT).test(other, datamodule=data, ckpt_path=path)
    data.labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-MISC", "I-MISC", "B-ORG", "I-ORG"]
    renamed = TextOnly(data.labels, text_encoder="bert")
    with pytest.raises(CheckpointError, match="trained with entity types"):
        Trainer(**SILENT).test(renamed, datamodule=data, ckpt_path=path)


def test_a_class_path_runs_no_function():
    for path in ("os.system", "builtins.print", "nothing", "", "mner.nn.crf.CRF"):
        with pytest.raises(CheckpointError):
            import_class(path, FusionModule)
