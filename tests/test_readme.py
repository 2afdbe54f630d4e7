"""What the README states of a number, held by training as it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mner.cli import main

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_readmes_fusion_reaches_the_range_that_it_states(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(from torch import nn.*?)```", README, re.DOTALL)
    command = re.search(r"```bash\n(mner fit --model my_fusion.*?)```", README, re.DOTALL)[1]
    low, high = map(float, re.search(r"it reaches a valid F1 between (\d+) and (\d+)", README).groups())
    (tmp_path / "my_fusion.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = shlex.split(command.replace("\\\n", " "))[1:]
    main([*words, "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"])
    found = float(re.search(r"Best valid F1: ([\d.]+)", capsys.readouterr().out)[1])
    assert low <= found <= high
