"""Recipes of the library and the loops of others: the same encoder, posts, seeds and budget, and the verdict.

    python benchmarks/accuracy.py data/twitter2017 --encoder models/minilm --out FOLDER [--hours 3] [--seeds 0 1 2 3 4]
    python benchmarks/accuracy.py data/twitter2017 --encoder FOLDER --out FOLDER --recipes --predictions 'ours=o*.jsonl'
    python benchmarks/accuracy.py --tiny --out FOLDER

Every contestant searches its own learning rate and number of epochs on valid with seed 100, for as much processor time
(--hours) and as many trials at most as every other, by the same search (`mner.benchmark.search`, without pruning).
Then it is trained with what it found and each of the seeds, the best epoch on valid is kept, and --split is tagged.
Differences are judged over posts and seeds against the first of the loops of others (`mner.analysis.compare`).

`--predictions NAME=FILES` are systems that tagged the split before, one file of `mner predict` a seed (a pattern,
in quotes): they stand in the verdict, and nothing of theirs is searched.

A run that was stopped goes on; FOLDER/results.md has the tables. `--flair PYTHON`, `--spacy PYTHON` and
`--adaseq PYTHON` name the interpreters of environments that have these. A contestant that cannot run is named with what
it said, and left out.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import yaml
from posts import write_plain

from mner.analysis import compare
from mner.analysis.presentation import markdown
from mner.benchmark.plan import BenchmarkError, plan, read_config
from mner.benchmark.results import finished_runs
from mner.benchmark.run import execute, recorded
from mner.benchmark.search import Attempt, optimise, training
from mner.benchmark.space import SECONDS, Range, with_options
from mner.cli.lightning import run as fit
from mner.data import SampleDataModule
from mner.data.formats.posts import read_posts
from mner.data.formats.predictions import Predictions, read_predictions
from mner.files import locate, output_folder
from mner.files import replace as write

HERE = Path(__file__).parent
SEARCH_SEED = 100  # none of those that are compared
OUTSIDE = ("flair", "spacy", "adaseq")
"""Loops of others that need an environment of their own."""


class Loop:
    """Somebody else's training loop, a script in `contestants/`.

    Args:
        script: Its file.
        python: The interpreter of its environment.
        files: The posts of each split.
        encoder: Folder.
        batch: Posts a step.
        precision: `32-true` or `bf16-mixed`; others than transformers' have the first alone.
    """

    def __init__(
        self, script: str, python: str, files: Mapping[str, Path], encoder: str, batch: int, precision: str = "32-true"
    ) -> None:
        self.script = script
        self.python = python
        self.files = files
        self.encoder = encoder
        self.batch = batch
        self.precision = precision

    def train(self, out: Path, rate: float, epochs: int, seed: int, split: str) -> dict[str, Any]:
        """What a run writes; one that is there is not done again.

        Raises:
            BenchmarkError: If it did not come to its end; with the last line that it wrote.
        """
        if not out.is_file():
            given: dict[str, Any] = {"train": self.files["train"], "valid": self.files["valid"], "out": out}
            given |= {"tagged": self.files[split], "encoder": self.encoder, "batch": self.batch}
            given |= {"rate": rate, "epochs": epochs, "seed": seed, "precision": self.precision}
            command = [self.python, str(HERE / "contestants" / self.script)]
            command += [f"--{name}={value}" for name, value in given.items()]
            out.parent.mkdir(parents=True, exist_ok=True)
            paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BenchmarkError(f"{self.script}: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return found


def searched(
    out: Path, options: argparse.Namespace, names: tuple[str, str], objective: Callable[[Attempt], float], facts: Any
) -> dict[str, Any]:
    """What a contestant's search found, with its score and what it took."""
    low, high = options.epochs
    space = {
        names[0]: Range("log", *options.rates),
        names[1]: Range("int", low, high) if low < high else Range("choice", values=(low,)),
    }
    study = optimise(out, space, objective, facts, options.trials, options.hours, SEARCH_SEED, prune=False)
    spent = sum(trial.user_attrs.get(SECONDS, 0.0) for trial in study.trials) / 3600
    if not any(trial.value is not None for trial in study.trials):
        said = study.trials[-1].user_attrs.get("error")
        raise BenchmarkError(f"no trial came to its end ({said}); remove {out} once that is mended")
    best = study.best_trial
    return {"options": best.user_attrs["options"], "f1": best.value, "trials": len(study.trials), "hours": spent}


def main() -> int:
    """Read the arguments, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", help="folder of the data set, as the recipes' data module reads it")
    parser.add_argument("--encoder", default="tiny", help="folder of a transformers model")
    parser.add_argument("--recipes", nargs="*", type=Path, default=[HERE.parent / "examples" / "recipes" / "text.yaml"])
    for name in OUTSIDE:
        parser.add_argument(f"--{name}", help=f"python of an environment with {name}")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--hours", type=float, help="processor hours that each contestant may search")
    parser.add_argument("--trials", type=int, default=12, help="of each contestant's search, at most")
    parser.add_argument("--epochs", nargs=2, type=int, default=[3, 15], help="fewest and most, searched")
    parser.add_argument("--module", help="data module of the recipes, if not theirs: Twitter2015DataModule")
    parser.add_argument("--rates", nargs=2, type=float, default=[1e-5, 1e-3], help="lowest and highest, searched")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"], help="of all runs")
    parser.add_argument("--predictions", nargs="*", default=[], metavar="NAME=FILES", help="systems that ran before")
    parser.add_argument("--split", default="valid", choices=["valid", "test"])
    parser.add_argument("--tiny", action="store_true", help="show that it runs: the sample, one trial, one epoch")
    options = parser.parse_args()
    if not options.data and not options.tiny:
        parser.error("name the folder of the data set, or --tiny")
    for name in OUTSIDE:
        if (python := getattr(options, name)) and shutil.which(python) is None:  # said now, not after the recipes
            parser.error(f"--{name}: no python at {python}; give the interpreter of an environment that has {name}")
    if options.precision != "32-true" and any(getattr(options, name) for name in OUTSIDE):
        parser.error(f"--precision {options.precision}: {', '.join(OUTSIDE)} are trained in 32-true")
    systems: dict[str, list[Predictions]] = {}
    for given in options.predictions:
        name, _, pattern = given.partition("=")
        files_of = sorted(glob.glob(pattern, recursive=True))
        if not files_of:
            parser.error(f"--predictions {given}: no file there; give NAME=FILES, files that `mner predict` wrote")
        systems[name] = [read_predictions(file) for file in files_of]
    if not options.recipes and not systems:
        parser.error("name --recipes to train, or --predictions")
    common = {"data.batch_size": options.batch, "model.text_encoder": options.encoder}
    common["trainer.precision"] = options.precision
    configs = {path.stem: read_config(path) for path in options.recipes}
    if options.module:
        for config in configs.values():
            config["data"]["class_path"] = options.module
    if options.tiny:
        options.data, options.trials, options.epochs = str(options.out / "sample"), 1, [1, 1]
        options.seeds = options.seeds[:2]
        SampleDataModule(options.data, train=40).prepare_data()
        small = {"class_path": "SampleDataModule", "init_args": {"train": 40}}
        configs = {name: {**config, "data": small} for name, config in configs.items()}
    options.out.mkdir(parents=True, exist_ok=True)
    files = {}
    for split in dict.fromkeys(("train", "valid", options.split)):
        files[split] = options.out / "posts" / f"{split}.jsonl"
        files[split].parent.mkdir(exist_ok=True)
        write_plain(files[split], read_posts(Path(options.data) / f"{split}.txt"))
    table: dict[str, dict[str, Any]] = {}
    chosen: list[Path] = []
    for name, config in configs.items():
        base = with_options(config, {**common, "data.root": options.data})
        base["trainer"] = {key: value for key, value in base["trainer"].items() if key != "logger"}
        names = ("model.learning_rate", "trainer.max_epochs")
        objective = training(base, [SEARCH_SEED], "val/f1", fit)
        facts = {"config": json.loads(json.dumps(base)), "contestant": name}
        table[name] = searched(options.out / "search" / name, options, names, objective, facts)
        chosen.append(options.out / "configs" / f"{name}.yaml")
        write(chosen[-1], yaml.safe_dump(with_options(base, table[name]["options"]), sort_keys=False))
    jobs = plan(chosen, options.seeds, split=options.split) if chosen else []
    for job in jobs:
        if recorded(job, options.out) is None and not execute(job, options.out, options.split, fit):
            raise BenchmarkError(f"{job.name} failed: {options.out / 'runs' / job.name / 'log.txt'}")
    for done in finished_runs(jobs, options.out):
        systems.setdefault(done.job.system, []).append(done.predictions)
    left_out = []
    loops = {"transformers": ("accuracy_transformers.py", sys.executable)}
    loops |= {name: (f"accuracy_{name}.py", python) for name in OUTSIDE if (python := getattr(options, name))}
    posts = next(iter(systems.values()))[0]
    for name, (script, python) in loops.items():
        loop = Loop(script, python, files, locate(options.encoder), options.batch, options.precision)
        folder = options.out / "search" / name

        def objective(attempt: Attempt, loop: Loop = loop) -> float:
            rate, epochs = attempt.options["rate"], attempt.options["epochs"]
            return float(loop.train(attempt.folder / "run.json", rate, epochs, SEARCH_SEED, "valid")["f1"])

        facts = {"contestant": name, "encoder": options.encoder, "batch": options.batch, "data": options.data}
        facts["precision"] = options.precision
        try:
            table[name] = searched(folder, options, ("rate", "epochs"), objective, facts)
            best = table[name]["options"]
            systems[name] = []
            for seed in options.seeds:
                out = options.out / "runs" / "loops" / name / f"{options.split}_seed{seed}.json"
                tags = loop.train(out, best["rate"], best["epochs"], seed, options.split)["tags"]
                tagged = [
                    replace(post, pred=tuple(found), entities=()) for post, found in zip(posts.posts, tags, strict=True)
                ]
                systems[name].append(replace(posts, header={**posts.header, "seed": seed}, posts=tagged))
        except BenchmarkError as error:
            left_out.append(f"{name}: {error}")
            systems.pop(name, None)
            table.pop(name, None)
    page = results(table, systems, options, left_out)
    with output_folder(options.out) as draft:
        (draft / "results.md").write_text(page, encoding="utf-8")
    print(page)
    return 1 if left_out else 0


def results(table: Any, systems: Mapping[str, list[Predictions]], options: argparse.Namespace, out: list[str]) -> str:
    """The page."""
    lines = ["| contestant | chosen | F1 on valid (%), seed 100 | trials | processor hours of the search |"]
    lines += ["| --- | --- | ---: | ---: | ---: |"]
    for name, row in table.items():
        told = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in row["options"].items())
        lines.append(f"| {name} | {told} | {100 * row['f1']:.2f} | {row['trials']} | {row['hours']:.2f} |")
    heading = (
        f"# Accuracy: {options.data}, {options.encoder}, {options.split}, {options.precision}, seeds {options.seeds}"
    )
    parts = [heading, "\n".join(lines)]
    outside = [name for name in systems if name in ("transformers", *OUTSIDE)]
    if len(systems) > 1:
        found = compare(systems, outside[0] if outside else None, resamples=1000)
        parts += [markdown(found.scores), *(f"{said}\n\n{markdown(frame)}" for _, said, frame in found.tables())]
        parts += found.notes
    parts += [f"Left out: {line}" for line in out]
    if options.tiny:
        parts.append("This was --tiny: it shows that the command runs, and nothing about accuracy.")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
