"""The examples: notebooks are in step with their scripts, and every script runs."""

import json
import runpy
import sys
from pathlib import Path

import nbformat
import pytest

from tests.preprocessing.test_captions import vit_gpt2

EXAMPLES = Path(__file__).parents[2] / "examples"
LESSONS = ("train", "compare", "own_fusion", "tag_folder", "caption_and_retrain")


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return runpy.run_path(str(EXAMPLES / "make_notebooks.py"))


def test_every_lesson_is_known(tools):
    """Scripts with cells are lessons, and nothing else is."""
    found = [
        path.stem for path in EXAMPLES.glob("*.py") if path.read_text(encoding="utf-8").startswith("# %% [markdown]")
    ]
    assert sorted(found) == sorted(LESSONS) == sorted(tools["LESSONS"])


@pytest.mark.parametrize("name", LESSONS)
def test_notebook_is_in_step_with_its_script(tools, name):
    path = EXAMPLES / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    made = [(cell.cell_type, cell.source) for cell in tools["from_script"](name).cells]
    kept = [(cell.cell_type, cell.source) for cell in notebook.cells]
    assert kept == made, "run `python examples/make_notebooks.py`"
    assert path.stat().st_size < 300_000
    assert len(made) > 8
    printed = [output.get("name") for cell in notebook.cells for output in cell.get("outputs", [])]
    assert "stdout" in printed
    assert "stderr" not in printed


def test_outputs_of_cells_that_did_not_change_are_kept(tools):
    before = nbformat.read(EXAMPLES / "train.ipynb", as_version=4)
    changed = tools["from_script"]("train")
    places = [place for place, cell in enumerate(before.cells) if cell.get("outputs")]
    changed.cells[places[0]].source += "\n1"
    tools["keep_outputs"](changed, before)
    assert changed.cells[places[0]].outputs == []
    assert changed.cells[places[1]].outputs == before.cells[places[1]].outputs


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def small(tmp_path, monkeypatch, cache):
    """An empty folder to run a script in, and constants that make it quick."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name, value in {"MNER_CACHE": str(cache), "POSTS": "60", "EPOCHS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, "small_captioner", raising=False)
    return tmp_path


@pytest.mark.slow
def test_train(small, capsys):
    runpy.run_path(str(EXAMPLES / "train.py"), run_name="__main__")
    assert "SpanF1 and seqeval agree." in capsys.readouterr().out
    assert (small / "runs/train/best.ckpt").is_file()
    assert (small / "runs/train/training.png").is_file()


@pytest.mark.slow
def test_compare(small, capsys):
    runpy.run_path(str(EXAMPLES / "compare.py"), run_name="__main__")
    report = (small / "runs/compare/report/index.html").read_text(encoding="utf-8")
    assert "Text alone and text with image" in report
    assert len(list((small / "runs/compare").glob("*.jsonl"))) == 6
    assert "Verdict on F1" in capsys.readouterr().out


@pytest.mark.slow
def test_own_fusion(small, capsys):
    runpy.run_path(str(EXAMPLES / "own_fusion.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "the same alone and in a batch" in printed
    assert "without gradient: []" in printed


@pytest.mark.slow
def test_tag_folder(small):
    runpy.run_path(str(EXAMPLES / "tag_folder.py"), run_name="__main__")
    out = small / "runs/tag_folder"
    records = [json.loads(line) for line in (out / "tagged.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["id"] for record in records] == [f"{number:02}" for number in range(1, 31)]
    assert [record["id"] for record in records if record.get("image_problem")] == ["06"]
    assert not records[4]["has_image"]
    assert "data:image" in (out / "entities.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_caption_and_retrain(small, capsys, monkeypatch):
    vit_gpt2(small / "captioner")
    monkeypatch.setenv("CAPTIONER", str(small / "captioner"))
    runpy.run_path(str(EXAMPLES / "caption_and_retrain.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "F1 difference" in printed
    assert "caption: " in printed


@pytest.mark.slow
def test_small_captioner(small):
    from PIL import Image

    from mner.preprocessing.captions import Captioner

    train = runpy.run_path(str(EXAMPLES / "small_captioner.py"))["train_captioner"]
    folder = train(small / "captioner", posts=60, epochs=1)
    (caption,) = Captioner(str(folder), device="cpu")([Image.new("RGB", (64, 64), "red")])
    assert caption
