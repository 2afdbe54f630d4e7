"""A tiny text model and a tiny image model, each served within the test's process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from mner.fusion import CoAttention, TextOnly
from mner.serving.server import load_model
from mner.serving.service import Service
from tests.tagging import save_checkpoint


@pytest.fixture(scope="package")
def text_checkpoint(tmp_path_factory: pytest.TempPathFactory, posts_folder: Path, bert_folder: str) -> Path:
    """A model of text and captions."""
    path = tmp_path_factory.mktemp("served") / "text.ckpt"
    context = [str(posts_folder / "captions.jsonl")]
    return save_checkpoint(path, TextOnly, posts_folder, bert_folder, context=context)


@pytest.fixture(scope="package")
def image_checkpoint(tmp_path_factory: pytest.TempPathFactory, posts_folder: Path, bert_folder: str) -> Path:
    """A model of text and images."""
    path = tmp_path_factory.mktemp("served") / "image.ckpt"
    options: dict[str, Any] = {"image_encoder": "test_resnet", "image_weights": None, "images": "images"}
    return save_checkpoint(path, CoAttention, posts_folder, bert_folder, **options)


Serve = Callable[..., TestClient]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves a checkpoint with options; the client's `.service` is the service."""
    clients: list[TestClient] = []

    def start(checkpoint: Path, **options: Any) -> TestClient:
        options = {"workers": 1} | options  # as many as the machine has cores would be other tests on each
        service = Service(lambda: load_model(str(checkpoint), device="cpu"), **options)
        client = TestClient(service.app)
        client.__enter__()
        client.service = service  # type: ignore[attr-defined]
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)
