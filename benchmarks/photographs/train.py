"""Trains every strategy on the photographs, and keeps what it says with the right images, others, and none.

    python benchmarks/photographs/train.py PHOTOS ENCODER OUT [--seeds 0 1 2] [--only TextOnly …] [--valid_only]

PHOTOS has the posts, ENCODER is the folder of MiniLM, OUT is what `prepare.py` made. Strategies are found by
themselves. A finished run adds a line to OUT/results.jsonl and is not done again; its predictions are in
OUT/runs/STRATEGY/SPLIT/IMAGES/. The same command started twice shares the work. All strategies have one recipe
(`Recipe`); none is chosen by its score, and the test split is predicted once, after the last epoch. `--valid_only`
leaves it alone, for trying out rates:

    python benchmarks/photographs/train.py PHOTOS ENCODER sweep --valid_only --seeds 0 --fusion_learning_rate 5e-3
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import logging
import os
import pkgutil
import resource
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha1
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytorch_lightning as pl
import torch
from filelock import FileLock, Timeout

import mner.fusion
from mner.analysis import score
from mner.data import PostsDataModule
from mner.data.datamodules.base import MNERDataModule
from mner.data.examples import Example
from mner.data.formats.predictions import prediction_header, write_predictions
from mner.fusion import FusionModule
from mner.probing.conditions import ChangePosts, both_conditions
from mner.probing.runner import Runner

LXMERT = {
    "model_type": "lxmert", "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "l_layers": 4,
    "r_layers": 2, "x_layers": 2, "visual_feat_dim": 1280,
}  # fmt: skip
"""Its own encoder, with random weights: a smaller one than the published 9, 5 and 5 layers of 768."""

RANDOM_BERT = {
    "model_type": "bert", "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536,
    "num_hidden_layers": 6,
}  # fmt: skip
"""What words pass in that LXMERT, without the image, for which its own model stops: its language layers, and the
language half of those that cross."""

MENDED: dict[str, tuple[str, dict[str, Any]]] = {
    "ObjectAware (not adversarial)": ("ObjectAware", {"joint_softmax": False, "adversarial_weight": 0.0}),
    "VisuallyAidedAttention (mended option)": (
        "VisuallyAidedAttention", {"both_directions": True, "reads_image": True},
    ),
    "MultimodalGraph (mended option)": ("MultimodalGraph", {"graph_dropout": 0.1}),
}  # fmt: skip
"""Options that mend a published formula which gets little out of the picture, trained on the sample too."""

LONGER: dict[str, int] = {"CharacterWordImage (16 epochs)": 2, "CharacterWord (16 epochs)": 2}
"""What has so many times the recipe's epochs: a reader of all that starts from nothing, and its twin."""

CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "TextOnly (random BERT)": ("TextOnly", {"text_encoder": RANDOM_BERT}),
    "CrossModalEncoder (LXMERT)": ("CrossModalEncoder", {"text_encoder": LXMERT}),
    "TextOnly (names as context)": ("TextOnly", {}),
    **{name: (name.partition(" ")[0], {}) for name in LONGER},
    **MENDED,
}
"""What is trained beside each strategy's defaults: LXMERT's own encoder; names of objects as a text beside the post;
`LONGER`; `MENDED`."""

TRIALS: dict[str, tuple[str, dict[str, Any]]] = {
    "ObjectAware (softmax for each word)": ("ObjectAware", {"joint_softmax": False}),
    "GuidingObjects (residual)": ("GuidingObjects", {"residual": True}),
    "ModalityAttention (unbounded)": ("ModalityAttention", {"bounded": False}),
    "VisuallyAidedAttention (both directions)": ("VisuallyAidedAttention", {"both_directions": True}),
}
"""What is trained only where `--only` names it."""

READS_NAMES = ("TextOnly (names as context)", "CrossViewAlignment")
"""What has the names of objects as context."""

LEFT_OUT = {"RetrievalExperts": "its experts read texts that a search found, of which there are none here"}


@dataclass(frozen=True)
class Recipe:
    """How all strategies are trained: AdamW, bf16, clipping at 1, the last epoch's weights.

    The embeddings of MiniLM and its lowest layers are frozen: half of the cost, and the posts have few different words.
    """

    epochs: int = 8
    batch_size: int = 32
    frozen_layers: int = 3
    learning_rate: float = 1e-4
    head_learning_rate: float = 5e-3
    fusion_learning_rate: float | None = None
    warmup_ratio: float = 0.1


@dataclass
class Run:
    """One strategy with one seed."""

    name: str
    seed: int
    recipe: Recipe
    options: dict[str, Any] = field(default_factory=dict)

    def key(self) -> dict[str, Any]:
        """What makes it another run."""
        return {"strategy": self.name, "seed": self.seed, "recipe": asdict(self.recipe)}


def strategies() -> dict[str, type[FusionModule]]:
    """Every strategy of the library, by name."""
    for module in pkgutil.iter_modules(mner.fusion.__path__):
        importlib.import_module(f"mner.fusion.{module.name}")

    def below(cls: type[FusionModule]) -> Iterator[type[FusionModule]]:
        for child in cls.__subclasses__():
            yield child
            yield from below(child)

    found = {cls.__name__: cls for cls in below(FusionModule) if cls.__module__.startswith("mner.fusion.")}
    return {
        name: cls for name, cls in sorted(found.items()) if not inspect.isabstract(cls) and name not in LEFT_OUT
    }


def configured(name: str) -> tuple[str, dict[str, Any]]:
    """Strategy and options of a name."""
    return (CONFIGURATIONS | TRIALS).get(name, (name, {}))


def class_of(name: str) -> type[FusionModule]:
    """The strategy of a name or configuration."""
    return strategies()[configured(name)[0]]


def reads_images(name: str) -> bool:
    """Whether images make a difference to it, be it by the names of what is in them."""
    cls = class_of(name)
    return cls.uses_image or bool(cls.needs) or name in READS_NAMES


def trained(module: FusionModule, data: MNERDataModule, recipe: Recipe, precision: Any) -> float:
    """Train it; returns the seconds of processor time."""
    began = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    trainer = pl.Trainer(
        max_epochs=recipe.epochs, accelerator="cpu", precision=precision, gradient_clip_val=1.0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - began


def without_image(posts: Sequence[Example], rng: np.random.Generator) -> list[Example]:
    """Posts alone."""
    return [replace(post, image_id=None, context=()) for post in posts]


def conditions(name: str) -> dict[str, ChangePosts | None]:
    """The right images, those of other posts, none; for a strategy that reads none only the first."""
    if not reads_images(name):
        return {"right": None}
    return {"right": None, "shuffled": both_conditions()[0].posts, "none": without_image}


def predict(run: Run, module: FusionModule, data: MNERDataModule, splits: list[Any], folder: Path) -> dict[str, float]:
    """Write the predictions of each split and condition; returns F1 (%) by `split/condition`."""
    found: dict[str, float] = {}
    for split in splits:
        runner = Runner(module, data, data.dataset(split))
        for name, change in conditions(run.name).items():
            dataset = runner.dataset
            if change is not None:
                draw = np.random.default_rng([run.seed, splits.index(split)])
                dataset = runner.variant(change(dataset.examples, draw))
            with torch.autocast("cpu", torch.bfloat16):
                posts = runner.predict(dataset)
            header = prediction_header(
                model=type(module).__name__, split=split, data=type(data).__name__, labels=data.labels, seed=run.seed,
                fingerprint=data.fingerprints[split],
            )  # fmt: skip
            place = folder / run.name / split / name
            place.mkdir(parents=True, exist_ok=True)
            write_predictions(place / f"seed{run.seed}.jsonl", header, posts)
            found[f"{split}/{name}"] = round(100 * float(score(posts, resamples=0).loc[("lenient", "all"), "f1"]), 2)
    return found


def photographs(run: Run, given: argparse.Namespace) -> tuple[FusionModule, MNERDataModule]:
    """Model and data of a run."""
    cls = class_of(run.name)
    data = PostsDataModule(
        str(given.posts), batch_size=run.recipe.batch_size, text_encoder=str(given.encoder), seed=run.seed,
        features=str(given.out.resolve() / "cells") if cls.uses_image else None,
        object_names=str(given.out.resolve() / "objects.jsonl"),
        context=[str(given.out.resolve() / "objects.jsonl")] if run.name in READS_NAMES else None,
    )  # fmt: skip
    rates = {name: value for name, value in asdict(run.recipe).items() if name.endswith(("rate", "ratio"))}
    width = {"region_width": data.region_width} if cls.uses_image else {}
    module = cls(data.labels, **{"text_encoder": str(given.encoder), **rates, **width, **run.options})
    if "text_encoder" not in run.options:
        encoder = module.text_encoder.model
        for part in (encoder.embeddings, *encoder.encoder.layer[: run.recipe.frozen_layers]):
            part.requires_grad_(False)
    return module, data


def missing(given: argparse.Namespace, recipe: Recipe) -> Iterator[Run]:
    """The runs that are not done, nor being done: seed by seed, so that every strategy soon has one."""
    names = given.only or [*strategies(), *CONFIGURATIONS]
    (given.out / "locks").mkdir(parents=True, exist_ok=True)
    for seed in given.seeds:
        for name in names:
            own = replace(recipe, epochs=recipe.epochs * LONGER.get(name, 1))
            run = Run(name, seed, own, configured(name)[1])
            try:
                with FileLock(given.out / "locks" / sha1(repr(run.key()).encode()).hexdigest(), timeout=0):
                    if run.key() not in [{part: line[part] for part in run.key()} for line in results(given.out)]:
                        yield run
            except Timeout:  # by another process, which was started the same way
                continue


def results(out: Path) -> list[dict[str, Any]]:
    """The finished runs."""
    file = out / "results.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def arguments(description: str) -> argparse.ArgumentParser:
    """Options of the recipe, and which runs."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="names of strategies or configurations; without, all")
    parser.add_argument("--valid_only", action="store_true", help="do not touch the test split")
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name}", type=int if isinstance(value, int) else float, default=value)
    return parser


def run_all(given: argparse.Namespace, build: Any, precision: Any = "bf16-mixed") -> None:
    """Do each run that is missing, and write down what came out."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    recipe = Recipe(**{name: getattr(given, name) for name in asdict(Recipe())})
    for run in missing(given, recipe):
        pl.seed_everything(run.seed, verbose=False)
        began = time.monotonic()
        module, data = build(run, given)
        seconds = trained(module, data, run.recipe, precision)
        f1 = predict(run, module, data, ["valid"] if given.valid_only else ["valid", "test"], given.out / "runs")
        line = {
            **run.key(), "f1": f1, "fingerprints": data.fingerprints,
            "parameters": sum(value.numel() for value in module.parameters()),
            "train_cpu_seconds": round(seconds, 1), "seconds": round(time.monotonic() - began, 1),
            "torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability(),
        }  # fmt: skip
        with (given.out / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{run.name}, seed {run.seed}: {f1}, {seconds:.0f} s", flush=True)


def main() -> None:
    """Read the arguments, train."""
    parser = arguments(__doc__ or "")
    parser.add_argument("posts", type=Path, help="folder of the photographs' posts")
    parser.add_argument("encoder", type=Path, help="folder of the text encoder")
    parser.add_argument("out", type=Path, help="what prepare.py made; results and predictions go there")
    run_all(parser.parse_args(), photographs)


if __name__ == "__main__":
    main()
