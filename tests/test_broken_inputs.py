"""Short runs of the program that docs/robustness.md reports on: broken inputs for all that reads."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "fuzz"))
from targets import SHARES, TARGETS, fuzz

ALL_READ = ("mner tag, lines", "mner tag, folder", "split_words", "as_written", "windows", "encode_windows", "Tagger")
"""There each line, file or text has an outcome."""


def test_all_have_a_share():
    assert SHARES.keys() == TARGETS.keys()


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_broken_is_read_or_refused(name):
    found = fuzz(name, 40 if name.startswith("Tagger.") else 150, seed=1)
    assert found.wrong == []
    assert set(found.outcomes) <= {"read", "refused"}
    assert found.outcomes["read"] > 5
    assert found.outcomes["refused"] > 5 or name in ALL_READ
