"""benchmarks/accuracy.py runs on the sample, and goes on; what its contestants share."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mner.labels import spans

ROOT = Path(__file__).parents[2]


@pytest.fixture
def epochs():
    spec = importlib.util.spec_from_file_location("epochs", ROOT / "benchmarks" / "contestants" / "epochs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "tags",
    ["O B-PER I-PER O", "I-PER I-PER B-PER", "B-PER I-LOC I-LOC O B-LOC B-LOC", "O I-LOC I-PER", "O O", "B-PER"],
)
def test_entities_are_those_of_the_library(epochs, tags):
    words = tags.split()
    assert epochs.entities(words) == {(span.start, span.end, span.type) for span in spans(words)}


def test_f1_is_that_of_spans(epochs):
    gold = [["B-PER", "I-PER", "O"], ["B-LOC"]]
    assert epochs.f1(gold, gold) == 1
    assert epochs.f1(gold, [["B-PER", "O", "O"], ["B-LOC"]]) == pytest.approx(2 * 1 / 4)
    assert epochs.f1(gold, [["O"] * 3, ["O"]]) == 0


def test_the_best_epoch_is_kept_not_the_last(epochs, tmp_path):
    posts = [{"words": ["a", "b"], "tags": ["B-PER", "O"]}]
    for name in ("valid", "test"):
        (tmp_path / name).write_text("".join(json.dumps(post) + "\n" for post in posts))
    # Valid, and test where valid was better than before, of three epochs.
    said = iter([["O", "O"], ["O", "O"], ["B-PER", "O"], ["B-LOC", "O"], ["O", "B-PER"]])
    options = argparse.Namespace(
        valid=str(tmp_path / "valid"), tagged=str(tmp_path / "test"), out=str(tmp_path / "out"), epochs=3
    )
    epochs.run(options, lambda: None, lambda given: [next(said)])
    kept = [["B-LOC", "O"]]
    assert json.loads((tmp_path / "out").read_text()) == {"f1": 1.0, "epochs": [0.0, 1.0, 0.0], "tags": kept}


def benchmark(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("accuracy", ROOT / "benchmarks" / "accuracy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["flair", "spacy", "adaseq"])
def test_loops_of_other_environments(name, monkeypatch, capsys, tmp_path):
    """A wrong interpreter is refused before anything is trained, and each loop has its script."""
    module = benchmark(monkeypatch)
    monkeypatch.setattr(sys, "argv", ["accuracy.py", "--tiny", "--out", str(tmp_path / "out"), f"--{name}", "nowhere"])
    with pytest.raises(SystemExit):
        module.main()
    assert f"--{name}: no python at nowhere; give the interpreter of an environment" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert (ROOT / "benchmarks" / "contestants" / f"accuracy_{name}.py").is_file()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--predictions", "ours=nowhere*.jsonl"], "ours=nowhere*.jsonl: no file there; give NAME=FILES"),
        (["--recipes"], "name --recipes to train, or --predictions"),
        (["--precision", "bf16-mixed", "--flair", sys.executable], "flair, spacy, adaseq are trained in 32-true"),
    ],
)
def test_what_cannot_be_compared_is_said_first(given, said, monkeypatch, capsys, tmp_path):
    module = benchmark(monkeypatch)
    monkeypatch.setattr(sys, "argv", ["accuracy.py", "--tiny", "--out", str(tmp_path / "out"), *given])
    with pytest.raises(SystemExit):
        module.main()
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_tiny_benchmark_runs_and_does_nothing_twice(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "accuracy.py"), "--tiny", "--out", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    kept = {}
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        page = (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
        assert "| text | learning_rate" in page
        assert "| transformers | rate" in page
        assert "Verdict on F1" in page
        assert "nothing about accuracy" in page
        made = {
            path: path.stat().st_mtime_ns
            for kind in ("run.json", "valid_seed*.json", "predictions.jsonl")
            for path in (tmp_path / "out").rglob(kind)
        }
        assert len(made) == 2 + 2 + 2 + 1  # records and predictions of the recipe; runs and the trial of the loop
        assert not kept or made == kept
        kept = made
    # What was tagged before stands beside a loop, and nothing is trained for it; posts without a test split do.
    out = tmp_path / "out"
    (out / "sample" / "test.txt").unlink()
    command[-1] = str(tmp_path / "other")
    command[2:3] = [str(out / "sample"), "--recipes", "--predictions", f"before={out}/runs/**/predictions.jsonl"]
    command += ["--trials=1", "--epochs", "1", "1", "--seeds", "0", "1", "--precision=bf16-mixed"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    page = (tmp_path / "other" / "results.md").read_text(encoding="utf-8")
    assert "| before " in page
    assert "bf16-mixed" in page
    assert not list((tmp_path / "other").rglob("predictions.jsonl"))
