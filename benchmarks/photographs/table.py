"""The tables of docs/photographs.md, from what `train.py` left.

    python benchmarks/photographs/table.py PHOTOS OUT [--split valid] [--sample] [--page docs/photographs.md]

`--page` puts the table between the page's marks `<!-- table … -->` and `<!-- end -->` that have its name.

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
from train import CONFIGURATIONS, reads_images, results, strategies

from mner.analysis import by_ambiguity, compare, score
from mner.analysis.systems import load_systems
from mner.data.examples import Example
from mner.data.formats.posts import read_posts
from mner.data.formats.predictions import Predictions

TWINS = {
    "CharacterWordImage": "CharacterWord",
    "CrossModalEncoder (LXMERT)": "TextOnly (LXMERT)",
}
"""What a strategy is without its image, where that is another one than `TextOnly`."""
LEVEL = 0.05


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
    made = "\n".join(f"| {line} |" for line in lines)
    wanted = list(strategies()) if given.sample else [*strategies(), *CONFIGURATIONS]
    missing = [f"`{name}`" for name in wanted if name not in systems]
    return made + (f"\n\nNot trained yet: {', '.join(missing)}." if missing else "")


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


def put(page: Path, name: str, made: str) -> None:
    """Replace what is between a page's marks."""
    before, mark, rest = page.read_text(encoding="utf-8").partition(f"<!-- table {name} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not mark or not end:
        raise SystemExit(f"Expected the marks <!-- table {name} --> and <!-- end --> in {page}, but found none")
    page.write_text(f"{before}{mark}\n{made}\n\n{end}{after}", encoding="utf-8")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--page", type=Path, help="where the table goes, too")
    parser.add_argument("--sample", action="store_true", help="the runs are those of sample.py")
    parser.add_argument("--sweep", action="store_true", help="list each run's rates and F1 on valid instead")
    given = parser.parse_args()
    made = sweep(given.out) if given.sweep else table(given)
    print(made)
    if given.page is not None:
        put(given.page, "sweep" if given.sweep else "sample" if given.sample else given.split, made)
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
