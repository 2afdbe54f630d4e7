"""A checkpoint is there whole, or the one before it is."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import TorchCheckpointIO

from mner.data import Twitter2017DataModule
from mner.fusion import TextOnly
from tests.tiny_sets import QUIET, save_small_bert, write_twitter


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    write_twitter(root / "data")
    save_small_bert(root / "bert")
    return root


def trained(here, **options):
    module = TextOnly(Twitter2017DataModule.labels, text_encoder=str(here / "bert"))
    trainer = pl.Trainer(max_steps=1, **QUIET, **options)
    trainer.fit(module, Twitter2017DataModule(str(here / "data"), batch_size=4))
    return trainer


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def save_half(content, file, **options):
    file.write(b"half of it")
    raise full()


def another_disk(source, target, **options):
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def copy_half(source, target, **options):
    content = Path(source).read_bytes()
    Path(target).write_bytes(content[: len(content) // 2])
    raise full()


@pytest.mark.parametrize("fails", ["writing", "moving from another disk"])
def test_a_full_disk_leaves_the_checkpoint_before(here, tmp_path, monkeypatch, fails):
    trainer, path = trained(here), tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        if fails == "writing":
            patched.setattr(torch, "save", save_half)
        else:
            patched.setattr(os, "rename", another_disk)
            patched.setattr(shutil, "copyfile", copy_half)
        with contextlib.suppress(OSError):  # nothing is moved any more
            trainer.save_checkpoint(path)
    assert len(path.read_bytes()) >= len(before)
    assert torch.load(path, weights_only=True)["global_step"] == 1
    assert [place.name for place in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_plugin_of_somebody_stays(here):
    class Own(TorchCheckpointIO):
        pass

    own = Own()
    assert trained(here, plugins=[own]).strategy.checkpoint_io is own
