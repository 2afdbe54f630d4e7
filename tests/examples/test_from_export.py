"""The page docs/from_export.md: its script, on a part of the sample as Label Studio exports it."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mner.data.formats.posts import read_posts, write_posts
from mner.data.sample.texts import write_sample

SCRIPT = Path(__file__).parents[2] / "examples" / "from_export.sh"
SMALL = {
    "model.text_encoder": "tiny",
    "model.image_encoder": "test_resnet",
    "model.image_weights": "null",
    "model.learning_rate": "2e-3",
    "model.head_learning_rate": "2e-3",
    "data.image_size": "64",
    "trainer.max_epochs": "2",
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "trainer.enable_model_summary": "false",
}


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("bash") and shutil.which("curl")), reason="a script of bash, with curl")
def test_from_an_export_to_a_service(tmp_path):
    write_sample(tmp_path / "sample")
    posts = read_posts(tmp_path / "sample" / "train.txt")[:100]
    (tmp_path / "my_data").mkdir()
    write_posts(tmp_path / "my_data" / "export.json", posts, "label_studio")
    shutil.copytree(tmp_path / "sample" / "images", tmp_path / "my_data" / "images")
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "mner").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mner "$@"\n', encoding="utf-8")
    (commands / "mner").chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", "PORT": str(port)}
    environment["PYTHONPATH"] = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    options = [word for name, value in SMALL.items() for word in (f"--{name}", value)]
    command = ["bash", str(SCRIPT), "my_data", "so proud of Quillon today", *options]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (answer,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert answer["words"] == ["so", "proud", "of", "Quillon", "today"]
    corrected = read_posts(tmp_path / "corrected" / "export.json")
    assert sum(one.tags != other.tags for one, other in zip(posts, corrected, strict=True)) == 1
    for what in ("mner init my_data", "mner fit --config", "mner data doubts", "mner data apply"):
        assert f" s: {what}" in done.stderr
