"""Published scores: the paper's numbers are those of its Table 1, ours those of the pages that measured them."""

import re
from pathlib import Path

import pytest

from mner.benchmark.paper import TABLE_1

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "leaderboard.md").read_text(encoding="utf-8")
UNKNOWN = "\u2013"
VERIFIED = ["Large text encoders", "Base text encoders", "Word vectors", "The whole Twitter-2017"]
PAPER = {
    "Exp 1.1": "exp1.1", "Exp 1.2": "exp1.2", "Exp 2.1": "exp2.1", "Exp 2.2": "exp2.2", "Exp 2.3": "exp2.3",
    "Exp 3.1": "exp3.1", "Exp 4.1": "exp4.1", "Exp 4.2": "exp4.2", "Yu et al. (2020), as": "yu2020",
}  # fmt: skip


def rows(heading):
    """The rows of the first table below a heading, as lists of cells."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]
    table = re.search(r"(?:^\|.*\|\n)+", section, re.MULTILINE)[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]


def test_the_papers_numbers_are_those_of_its_table():
    found = rows(r"Chen et al\. \(2021\), the study[^\n]*")
    assert len(found) == len(PAPER)
    for name, first, second in found:
        (key,) = (key for start, key in PAPER.items() if name.startswith(start))
        assert first.startswith(f"{TABLE_1['Twitter2015'][key].f1:.2f}")
        assert second.endswith(f"{TABLE_1['Twitter2017'][key].f1:.2f}")


@pytest.mark.parametrize("row", rows("Ours"), ids=lambda row: f"{row[0]}, {row[1]}")
def test_our_numbers_stand_on_the_pages_that_measured_them(row):
    name, data, score = row
    mean, sd = score.split(" ± ")
    source = re.search(r"`(\w+)`", name)
    label = source[1] if source else "chatgpt" if "notes" in name else "text only"
    heading = {
        "T15-Y, **test**": r"benchmarks.md#### Twitter-2015, test",
        "T15-Y, valid": r"benchmarks.md#### Twitter-2015, valid",
        "T17, valid": r"study.md### Do captions help\?",
    }[data]
    file, _, start = heading.partition("#")
    text = (DOCS / file).read_text(encoding="utf-8")
    section = re.search(rf"^{start}.*?(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)[0]
    measured = re.search(rf"^\| [^|]*{label}.*$", section, re.MULTILINE)[0]
    assert f"**{mean}**" in measured
    assert sd in measured


@pytest.mark.parametrize("heading", VERIFIED)
def test_every_verified_row_names_its_source(heading):
    found = rows(heading)
    assert len(found) > 4
    assert [row[0] for row in found if row[-1] in ("", UNKNOWN)] == []


def test_rows_are_sorted_and_no_unverified_number_stands_among_the_verified():
    verified = [*rows("Large text encoders"), *rows("Base text encoders")]
    for table in (rows("Large text encoders"), rows("Base text encoders")):
        scores = [float(re.match(r"[\d.]+", row[2])[0]) for row in table if row[2] != UNKNOWN]
        assert scores == sorted(scores, reverse=True)
    numbers = {number for row in verified for cell in row[2:4] for number in re.findall(r"\d\d\.\d\d", cell)}
    apart = {number for row in rows("Not verified") for cell in row[2:] for number in re.findall(r"\d\d\.\d\d", cell)}
    assert apart
    assert not numbers & apart
