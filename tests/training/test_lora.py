"""LoRA: what learns, what stays, and that checkpoints load wherever others do."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml

from mner.cli import main
from mner.data import Twitter2017DataModule
from mner.data.batching import Collate
from mner.data.dataset import MNERDataset
from mner.data.tokenizer import PostTokenizer
from mner.encoders.lora import Adapters
from mner.encoders.text import TextEncoder
from mner.errors import CheckpointError, MissingDependencyError
from mner.fusion import FusionModule, TextOnly, TransformerAttention
from mner.tagger.hub import merge_checkpoint
from mner.tagger.tagger import Tagger
from mner.training import LoRA
from tests.fusion.test_strategies import LABELS, WIDTH, batch, dataset, every, make, posts, store  # noqa: F401  # fixtures
from tests.tiny_sets import save_visual_bert

pytest.importorskip("peft", reason="the extra `lora` is not installed")

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


def learns(module):
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


@every
def test_adapters_and_head_learn_and_nothing_else(cls, make, batch):  # noqa: F811
    module = make(cls)
    if not any(parameter.requires_grad for parameter in module.text_encoder.parameters()):
        return  # it reads no words (CharacterImage), so that its encoder has nothing to adapt
    before, known = module.emissions(batch), learns(module)
    module.text_encoder.adapt(Adapters(rank=2))
    assert torch.equal(module.emissions(batch), before), "B is zero at first"
    outside = {name for name in known if not name.startswith("text_encoder.")}
    adapters = learns(module) - outside
    assert outside <= learns(module)
    assert adapters
    assert all(re.search(r"\.lora_[AB]\.", name) for name in adapters)
    # Each linear layer of both layers of BERT: query, key, value, two of attention's and the feed-forward's.
    assert len(adapters) == 2 * 2 * 6
    sum(module.train().losses(batch).values()).backward()
    assert [
        name for name, parameter in module.named_parameters() if name in learns(module) and parameter.grad is None
    ] == []
    assert all(parameter.grad is None for name, parameter in module.named_parameters() if name not in learns(module))
    # Merged, it is a plain model of the same scores.
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    adapted = module.eval().emissions(batch)
    assert not torch.allclose(adapted, before, atol=1e-3)
    module.text_encoder.merge()
    torch.testing.assert_close(module.emissions(batch), adapted, atol=1e-5, rtol=1e-5)
    assert not any("lora" in name for name in module.state_dict())
    assert "mner_adapters" not in module.text_encoder.config


def test_visual_bert_gets_none_where_only_regions_pass(tmp_path, bert_folder, posts, store):  # noqa: F811
    folder = str(save_visual_bert(tmp_path, bert_folder))
    items = MNERDataset(posts, LABELS, PostTokenizer(bert_folder), regions=store)
    shown = Collate(0, region_width=WIDTH)([items[index] for index in range(len(items))])
    for cls, width in ((TextOnly, None), (TransformerAttention, WIDTH)):
        module = cls(LABELS, text_encoder=folder, region_width=width)
        module.text_encoder.adapt(Adapters(rank=2))
        sum(module.losses(shown).values()).backward()
        assert all(parameter.grad is not None for parameter in module.parameters() if parameter.requires_grad)
        assert not any("visual_projection.lora" in name for name, _ in module.named_parameters())


def test_layers_by_name(bert_folder):
    encoder = TextEncoder(bert_folder)
    with pytest.raises(ValueError, match=r"among those of BertModel \(dense, key, query, value\), but got \['qkv'\]"):
        encoder.adapt(Adapters(layers=("query", "qkv")))
    encoder.adapt(Adapters(rank=4, layers=("query", "value")))
    assert {name.split(".")[-4] for name in learns(encoder)} == {"query", "value"}
    assert encoder.config["mner_adapters"] == {"rank": 4, "alpha": 16.0, "dropout": 0.0, "layers": ["query", "value"]}
    again = TextEncoder(encoder.config)
    again.load_state_dict(encoder.state_dict())
    assert learns(again) == learns(encoder)
    with pytest.raises(ValueError, match="without adapters, but it has some"):
        again.adapt(Adapters())
    for wrong in ({"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}):
        with pytest.raises(ValueError, match="Expected `rank` of at least 1"):
            LoRA(**wrong)


def test_the_missing_package_is_named(bert_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'mner\[lora\]'"):
        TextEncoder(bert_folder).adapt(Adapters())


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, posts_folder, bert_folder):
    """The listing of the page, trained from the command line: its folder."""
    folder = tmp_path_factory.mktemp("run")
    (listing,) = (
        text for text in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE) if "LoRA" in text
    )
    base = {
        "model": {"class_path": "TextOnly", "init_args": {"text_encoder": bert_folder}},
        "data": {"class_path": "Twitter2017DataModule", "init_args": {"root": str(posts_folder), "batch_size": 3}},
        "trainer": QUIET | {"max_epochs": 2, "default_root_dir": str(folder)},
        "checkpoint": {"dirpath": str(folder)},
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    (folder / "lora.yaml").write_text(listing, encoding="utf-8")
    cli = main(["fit", "--config", str(folder / "base.yaml"), "--config", str(folder / "lora.yaml")])
    assert cli != 2
    return folder


def test_checkpoints_load_everywhere(fitted, posts_folder, bert_folder, tmp_path, monkeypatch):
    module = FusionModule.load_from_checkpoint(fitted / "last.ckpt")
    plain = TextEncoder(bert_folder)
    state = module.text_encoder.state_dict()
    for name, value in plain.state_dict().items():
        stem, _, leaf = name.rpartition(".")
        kept = state.get(name, state.get(f"{stem}.base_layer.{leaf}"))
        assert torch.equal(kept, value), f"{name} is frozen"
    assert any(value.abs().max() > 0 for name, value in state.items() if "lora_B" in name), "the adapters learnt"
    assert module.text_encoder.adapters == Adapters(8, 16, 0.05)
    # The same entities from the command line without configuration, from Tagger, from what is merged and shared.
    given = ["--data=Twitter2017DataModule", f"--data.root={posts_folder}", f"--output={tmp_path / 'out.jsonl'}"]
    cli = main(["predict", f"--ckpt_path={fitted / 'last.ckpt'}", *given, "--trainer.accelerator=cpu"])
    assert cli != 2
    data = Twitter2017DataModule(str(posts_folder), text_encoder=bert_folder)
    data.setup("test")
    (shown,) = data.test_dataloader()
    expected = module.emissions(shown)
    merge_checkpoint(fitted / "last.ckpt", tmp_path / "merged.ckpt")
    Tagger.from_checkpoint(fitted / "last.ckpt", device="cpu").save_pretrained(tmp_path / "shared")
    adapted = Tagger(FusionModule.load_from_checkpoint(fitted / "last.ckpt"), device="cpu")
    adapted.save_pretrained(tmp_path / "shared_too")
    assert adapted.model.text_encoder.adapters is not None, "sharing leaves the model as it is"
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependencyError):
        FusionModule.load_from_checkpoint(fitted / "last.ckpt")
    merged = FusionModule.load_from_checkpoint(tmp_path / "merged.ckpt")
    taggers = [Tagger.load(tmp_path / name, device="cpu") for name in ("merged.ckpt", "shared", "shared_too")]
    for model in (merged, *(tagger.model for tagger in taggers)):
        torch.testing.assert_close(model.emissions(shown), expected, atol=1e-5, rtol=1e-5)
        assert not any("lora" in name for name in model.state_dict())
    cli = main(["predict", f"--ckpt_path={tmp_path / 'merged.ckpt'}", *given, "--trainer.accelerator=cpu"])
    assert cli != 2
    with pytest.raises(CheckpointError, match=r"with LoRA adapters at .*, but it has none"):
        merge_checkpoint(tmp_path / "merged.ckpt", tmp_path / "again.ckpt")


def test_a_run_goes_on_with_the_same_callback(fitted, capsys):
    last = [
        "--ckpt_path",
        str(fitted / "last.ckpt"),
        "--trainer.max_epochs=3",
        "--checkpoint.dirpath",
        str(fitted / "on"),
    ]
    base = ["fit", "--config", str(fitted / "base.yaml")]
    cli = main([*base, "--config", str(fitted / "lora.yaml"), *last])
    assert cli.trainer.global_step == 6
    assert main([*base, *last]) == 2
    said = capsys.readouterr().err
    assert "written with LoRA adapters of {'rank': 8" in said
    assert "but the model has no LoRA adapters" in said


def test_callback_and_model_must_agree(bert_folder, posts_folder):
    data = Twitter2017DataModule(str(posts_folder), text_encoder=bert_folder)
    model = TextOnly(data.labels, text_encoder=bert_folder)
    model.text_encoder.adapt(Adapters(rank=2))
    with pytest.raises(CheckpointError, match=r"'rank': 4.*as the LoRA callback says, but the model has .*'rank': 2"):
        pl.Trainer(callbacks=[LoRA(rank=4)], max_epochs=1, **QUIET).fit(model, datamodule=data)
    trainer = pl.Trainer(callbacks=[LoRA(rank=2)], max_epochs=1, **QUIET, enable_checkpointing=False)
    trainer.fit(model, datamodule=data)
    groups = {id(parameter) for group in trainer.optimizers[0].param_groups for parameter in group["params"]}
    assert groups == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    with pytest.raises(TypeError, match=r"Expected a mner\.fusion\.FusionModule"):
        LoRA().setup(trainer, pl.LightningModule(), "fit")
