"""`benchmarks/gpu.py` where there is no GPU, and its code on the processor."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def run(*options: str) -> subprocess.CompletedProcess[str]:
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *options], env=os.environ | hidden, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_without_a_gpu_it_says_so_in_one_line():
    done = run()
    assert done.returncode == 2
    assert re.fullmatch(r"no GPU here .*\n", done.stdout)
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="two processes need torch.distributed")
def test_every_part_runs_on_the_processor(bert_folder):
    small = ("--rounds", "2", "--batch", "4", "--count", "8")
    done = run("--device", "cpu", "--no_compile", "--encoder", str(bert_folder), *small)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")][2:]  # without the head
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[0].split(",")[0] for row in rows] == [
        "CRF", "CRF", "CRF", "CRF", "training step", "training step", "label scores", "label scores",
        "bulk tagging", "bulk tagging", "training step",
    ]  # fmt: skip
    assert rows[-1][1] == "two processes"
    assert all(float(row[2]) > 0 for row in rows)
