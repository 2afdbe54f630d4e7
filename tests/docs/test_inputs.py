"""The page of inputs beyond regions is true."""

import importlib
import re
from pathlib import Path

import pytest

from mner.cli import main
from mner.data.formats.json_lines import read_jsonl
from mner.data.formats.relations import read_relations
from mner.data.inputs import NEEDS
from mner.testing import CHECKS, check_fusion

PAGE = (Path(__file__).parents[2] / "docs" / "inputs.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def own(tmp_path, monkeypatch):
    (code,) = (code for kind, code in BLOCKS if kind == "python")
    (tmp_path / "placed_regions.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("placed_regions").PlacedRegions


def test_the_listing_holds_and_is_trained_by_its_command(own, tmp_path, monkeypatch):
    monkeypatch.delitem(CHECKS, "compile")
    check_fusion(own, hidden_size=16)
    command = next(code for _, code in BLOCKS if "PlacedRegions --data" in code)
    arguments = command.replace("my_fusion", "placed_regions").split()[1:]
    few = ["--data.root", str(tmp_path / "sample"), "--data.train", "24", "--trainer.max_steps", "1",
           "--trainer.limit_val_batches", "1", "--trainer.logger", "false"]  # fmt: skip
    assert main([*arguments, *few]) not in (1, 2)


def test_every_need_is_in_the_table():
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == NEEDS


def test_the_files_are_read(tmp_path):
    tabs, line = next(code for _, code in BLOCKS if code.startswith("17_06")).splitlines()
    for number, text in enumerate((tabs, line)):
        (tmp_path / f"{number}").write_text(text + "\n", encoding="utf-8")
        assert read_relations(tmp_path / f"{number}") == {"17_06_4705": 0.8}
    (tmp_path / "a.jsonl").write_text(next(code for _, code in BLOCKS if '"image_ids"' in code), encoding="utf-8")
    assert read_jsonl(tmp_path / "a.jsonl")[0].image_ids == ("7a", "7b")
