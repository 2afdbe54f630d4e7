"""`benchmarks/guard.py` fails where a ratio fell each time that it was measured, and only there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def guard(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import guard

    return guard


def measured(guard, monkeypatch, *ratios):
    """Makes the measurements give these ratios, one after the other; returns the list of what is left."""
    left = list(ratios)
    monkeypatch.setattr(
        guard, "rounds_of", lambda runs, seconds, clock: {"own": [1.0, 1.5], "other": [left[0], 1.5 * left.pop(0)]}
    )
    check = guard.Check("one / other", 2.0, lambda: None, lambda: None)
    monkeypatch.setattr(guard, "CHECKS", {"crf": lambda work: iter([check])})
    monkeypatch.setattr(sys, "argv", ["guard.py", "--only", "crf"])
    return left


def test_the_floor_is_seventy_percent_of_what_was_measured(guard, monkeypatch, capsys):
    measured(guard, monkeypatch, 1.4)
    assert guard.main() == 0
    measured(guard, monkeypatch, 1.39, 1.39, 1.39)
    assert guard.main() == 1
    assert "1 of 1 ratios are under their floor" in capsys.readouterr().err


def test_noise_is_measured_again(guard, monkeypatch, capsys):
    left = measured(guard, monkeypatch, 0.5, 0.5, 1.9, 0.5)
    assert guard.main() == 0
    assert left == [0.5]
    assert capsys.readouterr().out.count("again") == 2


def test_every_check_compares_two_that_run(guard, tmp_path):
    checks = [check for name in ("crf", "metric", "reading") for check in guard.CHECKS[name](tmp_path)]
    assert len(checks) == 4
    for check in checks:
        check.own()
        check.other()
        assert 0 < check.floor < check.measured
