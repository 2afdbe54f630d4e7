"""Which precision is chosen by itself: by the device's instructions and by what was measured, once a process."""

from __future__ import annotations

import os

import pytest
import torch

from mner.cli import main
from mner.fusion import TextOnly
from mner.runtime import automatic_precision, layer_seconds
from mner.tagger.tagger import Tagger
from mner.training import Trainer
from tests.tagging import save_checkpoint
from tests.tiny_sets import save_small_bert, write_twitter

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Nothing was found before, nor stays."""
    for name in [name for name in os.environ if name.startswith("MNER_PRECISION")]:
        monkeypatch.delenv(name)
    before = set(os.environ)
    yield
    for name in set(os.environ) - before:
        if name.startswith("MNER_PRECISION"):
            del os.environ[name]


def measured(full, lower):
    return lambda device, width, training: (full, lower)


@pytest.fixture
def has_bfloat16(monkeypatch):
    monkeypatch.setattr("mner.runtime.slow_bfloat16", lambda device: False)


@pytest.mark.usefixtures("has_bfloat16")
@pytest.mark.parametrize(
    ("full", "lower", "found"),
    [(2.0, 1.0, "bf16-mixed"), (1.0, 2.0, "32-true"), (1.0, 1.0, "32-true"), (1.0, 0.95, "32-true")],
)
def test_bfloat16_only_where_it_is_faster(full, lower, found, caplog):
    caplog.set_level("INFO", "mner")
    assert automatic_precision(CPU, 8, measure=measured(full, lower)) == found
    (said,) = [record.getMessage() for record in caplog.records if "precision auto" in record.getMessage()]
    assert found in said
    assert "\n" not in said


@pytest.mark.usefixtures("has_bfloat16")
def test_it_is_measured_once_for_each_use():
    assert automatic_precision(CPU, 8, measure=measured(2, 1)) == "bf16-mixed"
    assert automatic_precision(CPU, 8, measure=measured(1, 2)) == "bf16-mixed"
    assert automatic_precision(CPU, 8, training=False, measure=measured(1, 2)) == "32-true"
    assert automatic_precision(CPU, 16, measure=measured(1, 2)) == "32-true"


def test_a_processor_without_instructions_is_not_measured(monkeypatch):
    monkeypatch.setattr("mner.runtime.slow_bfloat16", lambda device: True)

    def never(*args):
        raise AssertionError("measured")

    assert automatic_precision(CPU, 8, measure=never) == "32-true"


@pytest.mark.parametrize(("supported", "found"), [(True, "bf16-mixed"), (False, "16-mixed")])
def test_gpus(monkeypatch, supported, found):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: supported)
    assert automatic_precision(torch.device("cuda"), 8) == found
    assert automatic_precision(torch.device("meta"), 8) == "32-true"


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_random_numbers_and_gradients_alone(training):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert all(0 < seconds < 60 for seconds in layer_seconds(CPU, 8, training))
    assert torch.equal(torch.rand(2), expected)
    assert torch.is_grad_enabled()


def test_a_fit_with_auto(tmp_path, monkeypatch):
    """The saved config keeps the word, so that another machine decides for itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mner.cli.lightning.automatic_precision", lambda device, width, training: "bf16-mixed")
    data, bert = write_twitter(tmp_path / "data"), save_small_bert(tmp_path / "bert")
    cli = main([
        "fit", "--model=TextOnly", f"--model.text_encoder={bert}", "--data=Twitter2017DataModule",
        f"--data.root={data}", "--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--trainer.precision=auto",
        "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
    ])  # fmt: skip
    assert cli.trainer.precision == "bf16-mixed"
    (config,) = tmp_path.rglob("config.yaml")
    assert "precision: auto" in config.read_text()


def test_a_trainer_in_python(monkeypatch):
    monkeypatch.setattr("mner.training.trainer.automatic_precision", lambda device: "bf16-mixed")
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    assert Trainer(precision="auto", **options).precision == "bf16-mixed"
    assert Trainer(**options).precision == "32-true"
    with pytest.raises(ValueError, match="Precision '3-true' is invalid"):
        Trainer(precision="3-true", **options)


def test_a_tagger(tmp_path, posts_folder, bert_folder, monkeypatch):
    path = save_checkpoint(tmp_path / "a.ckpt", TextOnly, posts_folder, bert_folder)
    monkeypatch.setattr("mner.tagger.decoder.automatic_precision", lambda device, width, training: "bf16-mixed")
    full, lower = (Tagger.from_checkpoint(path, device="cpu", precision=name) for name in ("32-true", "auto"))
    assert (full.precision, lower.precision) == ("32-true", "bf16-mixed")
    seen = []
    for tagger in (full, lower):
        tagger.model.head.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
        assert len(tagger("Anna visits Old Town").words) == 4
    assert seen == [torch.float32, torch.bfloat16]
    with pytest.raises(ValueError, match=r"precision.*but got .half."):
        Tagger.from_checkpoint(path, device="cpu", precision="half")
