"""The tables of docs/photographs.md, from what `train.py` left.

    python benchmarks/photographs/table.py PHOTOS OUT [--split valid] [--sample] [--page docs/photographs.md]
        [--map docs/strategies/index.md]

`--page` puts the table between the page's marks `<!-- table … -->` and `<!-- end -->` that have its name; `--map` puts
each strategy's F1 into the column of a table that is called `F1 on photographs`. With `--keep`, rows of the page whose
strategies have fewer runs in OUT, or none, stay as they are: for a store that was begun anew.

Verdicts are those of `mner compare`: each strategy against its text-only twin, with posts and seeds both taken as drawn
by chance, p corrected for the number of strategies that share a twin (Holm).
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from train import CONFIGURATIONS, MENDED, reads_images, results, strategies

from mner.analysis import by_ambiguity, compare, score
from mner.analysis.systems import load_systems
from mner.data.examples import Example
from mner.data.formats.posts import read_posts
from mner.data.formats.predictions import Predictions

TWINS = {
    "CharacterWordImage": "CharacterWord",
    "CharacterWordImage (16 epochs)": "CharacterWord (16 epochs)",
    "CrossModalEncoder (LXMERT)": "TextOnly (random BERT)",
}
"""What a strategy is without its image, where that is another one than `TextOnly`."""
LEVEL = 0.05
SCORE = "F1 on photographs"


def twin_of(name: str) -> str:
    """The text-only strategy that it is held against."""
    return TWINS.get(name, "TextOnly")


def f1(runs: list[Predictions]) -> list[float]:
    """F1 (%) of each run."""
    return [100 * float(score(run, resamples=0).loc[("lenient", "all"), "f1"]) for run in runs]


def pointed(runs: list[Predictions], train: list[Example], column: str) -> list[float]:
    """F1 or recall (%) of each run on entities whose words have two types or more in train."""
    return [
        100 * float(by_ambiguity(run, train, "surface", resamples=0).loc["ambiguous", column]) for run in runs
    ]


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def verdicts(systems: dict[str, list[Predictions]]) -> dict[str, Any]:
    """By strategy, the row of `compare` against its twin."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in systems:
        if reads_images(name) and twin_of(name) in systems:
            groups[twin_of(name)].append(name)
    found: dict[str, Any] = {}
    for twin, names in groups.items():
        tests = compare({name: systems[name] for name in (twin, *names)}, twin, resamples=100).tests
        found |= {name: tests.loc[(twin, name)] for name in names}
    return found


def table(given: argparse.Namespace) -> str:
    """One row a strategy, by falling F1."""
    done = list(dict.fromkeys(line["strategy"] for line in results(given.out)))
    place = given.out / "runs"
    systems, others = {}, {}
    for name in done:
        systems[name] = load_systems([f"x={place / name / given.split / 'right'}"])["x"]
        if reads_images(name):
            others[name] = {
                kind: load_systems([f"x={place / name / given.split / kind}"])["x"] for kind in ("shuffled", "none")
            }
    judged = verdicts(systems)
    train = None if given.sample else read_posts(given.posts / "train.jsonl")
    seconds = defaultdict(list)
    for line in results(given.out):
        seconds[line["strategy"]].append(line["train_cpu_seconds"])
    columns = ["runs", "F1", "images shuffled", "no image"]
    if train is not None:
        columns += ["F1, pointed at", "types, pointed at (%)"]
    heads = [*columns, "above its twin", "p", "training, s"]
    lines = [
        " | ".join(["strategy", *heads]),
        " | ".join(["---", *["---:"] * len(heads)]),
    ]
    for name in sorted(systems, key=lambda name: -np.mean(f1(systems[name]))):
        cells = [f"`{name}`", str(len(systems[name])), spread(f1(systems[name]))]
        cells += [spread(f1(others[name][kind])) if name in others else "" for kind in ("shuffled", "none")]
        if train is not None:
            cells += [spread(pointed(systems[name], train, column)) for column in ("f1", "recall")]
        row = judged.get(name)
        if row is None:
            cells += ["", ""]
        else:
            low, high = 100 * row["low"], 100 * row["high"]
            p = row["p_holm"]
            shown = "below .0001" if p < 1e-4 else f"{p:.4f}".lstrip("0")
            mark = "" if p < LEVEL and low > 0 else " (not shown)"
            cells += [f"{100 * row['difference']:.1f} ({low:.1f} to {high:.1f}){mark}", shown]
        lines.append(" | ".join([*cells, f"{np.mean(seconds[name]):.0f}"]))
    rows = [f"| {line} |" for line in lines]
    if given.keep:
        rows = merged(rows, between_marks(given.page, name_of(given))[1].splitlines())
    wanted = [*strategies(), *(MENDED if given.sample else CONFIGURATIONS)]
    there = {row.split("`")[1] for row in rows[2:]}
    missing = [f"`{name}`" for name in wanted if name not in there]
    return "\n".join(rows) + (f"\n\nNot trained yet: {', '.join(missing)}." if missing else "")


def merged(rows: list[str], before: list[str]) -> list[str]:
    """Rows of each strategy with the more runs, by falling F1; the new ones where both have as many."""
    best: dict[str, tuple[int, float, str]] = {}
    for row in [*before, *rows]:
        cells = [cell.strip() for cell in row.split("|")]
        if len(cells) > 3 and cells[2].isdigit():
            runs, f1_of = int(cells[2]), float(cells[3].split()[0])
            if cells[1] not in best or runs >= best[cells[1]][0]:
                best[cells[1]] = runs, f1_of, row
    return [*rows[:2], *(row for _, _, row in sorted(best.values(), key=lambda one: -one[1]))]


def sweep(out: Path) -> str:
    """F1 on valid of trials by strategy and rates."""
    lines = ["| strategy | epochs | frozen layers | encoder | fusion | head | seed | F1 on valid |",
             "|---|---:|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    for line in sorted(results(out), key=lambda line: (line["strategy"], str(line["recipe"]))):
        recipe = line["recipe"]
        fusion = recipe["fusion_learning_rate"]
        rates = [recipe["learning_rate"], "default" if fusion is None else fusion, recipe["head_learning_rate"]]
        cells = [f"`{line['strategy']}`", recipe["epochs"], recipe.get("frozen_layers", 0), *rates, line["seed"]]
        lines.append("| " + " | ".join([*map(str, cells), f"{line['f1']['valid/right']:.1f}"]) + " |")
    return "\n".join(lines)


def name_of(given: argparse.Namespace) -> str:
    """What the page's marks call a table."""
    return "sweep" if given.sweep else "sample" if given.sample else str(given.split)


def between_marks(page: Path, name: str) -> tuple[str, str, str]:
    """A page up to a table, the table, and the rest; marks go with what is around."""
    mark, end = f"<!-- table {name} -->\n", "<!-- end -->"
    before, found, rest = page.read_text(encoding="utf-8").partition(mark)
    made, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"Expected the marks <!-- table {name} --> and {end} in {page}, but found none")
    return before + mark, made, end + after


def put(page: Path, name: str, made: str) -> None:
    """Replace what is between a page's marks."""
    before, _, after = between_marks(page, name)
    page.write_text(f"{before}\n{made}\n\n{after}", encoding="utf-8")


def fill_map(page: Path, made: str) -> None:
    """Put F1 and the number of runs of each strategy into the map's column."""
    scores = {}
    for line in made.splitlines():
        name, runs, f1, *_ = [*(cell.strip() for cell in line.strip("| ").split("|")), "", ""]
        scores[name.strip("`")] = f"{f1} ({runs})"
    lines = page.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if SCORE in line)
    column = [cell.strip() for cell in lines[start].split("|")].index(SCORE)
    for number in range(start + 2, len(lines)):
        cells = lines[number].split("|")
        if len(cells) <= column:
            break
        name = cells[1].split("`")[1]
        cells[column] = f" {scores.get(name, '')} "
        lines[number] = "|".join(cells)
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--page", type=Path, help="where the table goes, too")
    parser.add_argument("--keep", action="store_true", help="rows of the page with more runs stay")
    parser.add_argument("--map", type=Path, help="the map of strategies, whose scores are put in")
    parser.add_argument("--sample", action="store_true", help="the runs are those of sample.py")
    parser.add_argument("--sweep", action="store_true", help="list each run's rates and F1 on valid instead")
    given = parser.parse_args()
    made = sweep(given.out) if given.sweep else table(given)
    print(made)
    if given.page is not None:
        put(given.page, name_of(given), made)
    if given.map is not None:
        fill_map(given.map, made)
    probe = given.out / "probe.json"
    if not given.sample and not given.sweep and probe.exists():
        found = json.loads(probe.read_text(encoding="utf-8"))
        part = found[given.split]
        print(f"\nlinear probe: {100 * part['right'] / part['entities']:.1f} % of {part['entities']} entities that are "
              f"only pointed at, of {part['all']}; " + ", ".join(
                  f"{name} {100 * found[name][given.split]['right'] / found[name][given.split]['entities']:.1f} %"
                  for name in ("crop", "disease or pest")))  # fmt: skip


if __name__ == "__main__":
    main()
