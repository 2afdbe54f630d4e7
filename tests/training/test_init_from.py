"""From a trained model to new types: encoders and fusion are kept, the head is new, and both are told."""

from __future__ import annotations

import pytest
import torch

from mner.cli import main
from mner.data.examples import Example
from mner.data.formats.posts import write_posts
from mner.training.checkpoint import read_checkpoint

QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
ONE = [*QUIET, "--trainer.max_epochs=1", "--trainer.logger=false"]


@pytest.fixture
def trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, type_ in (("old", "PER"), ("new", "FOOD")):
        for split in ("train", "valid"):
            posts = [Example(f"{split}{n}", None, ("Ana", split, str(n)), (f"B-{type_}", "O", "O")) for n in range(4)]
            write_posts(tmp_path / folder / f"{split}.jsonl", posts, "json_lines")
    data = ["--data=PostsDataModule", "--data.root=old"]
    main(["fit", "--model=TextOnly", "--model.hidden_size=12", *data, *ONE, "--checkpoint.dirpath=first"])
    return "first/best.ckpt"


def test_encoder_is_kept_and_head_is_new(trained, caplog):
    data = ["--data=PostsDataModule", "--data.root=new"]
    slow = ["--model.learning_rate=0", "--model.head_learning_rate=1e-9", "--checkpoint.dirpath=second"]
    main(["fit", f"--model.init_from={trained}", *data, *ONE, *slow])
    assert "kept text_encoder (" in caplog.text
    assert "begun anew: head, crf" in caplog.text
    old, new = read_checkpoint(trained), read_checkpoint("second/best.ckpt")
    assert new["hyper_parameters"]["hidden_size"] == 12, "options are those of the checkpoint"
    assert new["hyper_parameters"]["labels"] == ["O", "B-FOOD", "I-FOOD"]
    for name, tensor in old["state_dict"].items():
        same = torch.allclose(tensor, new["state_dict"][name], atol=1e-6)
        if name.startswith(("text_encoder.", "word_projection.")) and tensor.is_floating_point():
            assert same, name
        assert name != "head.weight" or not same
    main(["validate", "--ckpt_path=second/best.ckpt", *data, *QUIET])  # needs nothing of the first one


def test_another_encoder_is_refused(trained, capsys):
    save = read_checkpoint(trained)
    save["state_dict"].pop(next(name for name in save["state_dict"] if name.startswith("text_encoder.")))
    torch.save(save, "broken.ckpt")
    data = ["--data=PostsDataModule", "--data.root=new"]
    assert main(["fit", "--model.init_from=broken.ckpt", *data, *ONE]) == 2
    assert "The text encoder of broken.ckpt is another than the model's" in capsys.readouterr().err
    assert main(["fit", "--model.init_from=gone.ckpt", *data, *ONE]) == 2
    assert "No checkpoint at 'gone.ckpt'" in capsys.readouterr().err
