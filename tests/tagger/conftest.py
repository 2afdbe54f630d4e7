"""Checkpoints to tag with, of text alone and with images."""

import pytest

from mner.fusion import CoAttention, TextOnly
from tests.tagging import save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, posts_folder, bert_folder):
    return str(save_checkpoint(tmp_path_factory.mktemp("tag") / "text.ckpt", TextOnly, posts_folder, bert_folder))


@pytest.fixture(scope="module")
def image_checkpoint(tmp_path_factory, posts_folder, bert_folder):
    path = tmp_path_factory.mktemp("tag") / "image.ckpt"
    options = {"image_encoder": "test_resnet", "image_weights": None, "images": "images"}
    return str(save_checkpoint(path, CoAttention, posts_folder, bert_folder, **options))
