"""Is the image (or the caption) used at all? A trained model is run again with its images or context taken away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from mner.analysis.additive_projection import Projection, additive_projection
from mner.analysis.comparison import Comparison, compare
from mner.analysis.presentation import markdown, text
from mner.analysis.scoring import marked
from mner.analysis.systems import ArgumentError
from mner.data.datamodules.base import MNERDataModule
from mner.data.examples import Split
from mner.data.formats.predictions import Prediction
from mner.files import output_folder
from mner.fusion.base import FusionModule
from mner.labels import Mode
from mner.probing.conditions import Condition, both_conditions, context_conditions, image_conditions
from mner.probing.runner import Runner
from mner.runtime import keep_memory, pick_device

if TYPE_CHECKING:
    from pandas import DataFrame

REAL = "real"
SAMPLE = "sample: real"


@dataclass(frozen=True)
class Probe:
    """The result of `probe`.

    Attributes:
        table: One row a condition: posts, runs, f1, its difference from the real inputs with interval and
            Holm-corrected p (the verdict of `compare` on this one training, where the draws of a random condition are
            its runs), and `changed`, the share of posts whose entities changed.
        meanings: What each condition is, in words.
        predictions: The runs of each condition.
        projection: The additive projection, or None.
        notes: What else to know, in sentences.
    """

    table: DataFrame
    meanings: dict[str, str]
    predictions: dict[str, list[list[Prediction]]]
    projection: Projection | None
    notes: list[str]


def probe(
    model: FusionModule,
    data: MNERDataModule,
    split: Split = "valid",
    emap: int | None = 100,
    repeats: int = 3,
    mode: Mode = "lenient",
    resamples: int = 10_000,
    seed: int = 0,
    device: str = "cpu",
) -> Probe:
    """Run a trained model with images and context as they are, and with their information taken away.

    A model that uses its images must lose by it. The cleanest control is shuffling: the model sees inputs like those
    that it was trained on, only not the right ones. A blank or noisy picture is also one of a kind that it never saw,
    so that a loss there may be confusion. The additive projection (`mner.analysis.additive_projection`) asks further
    whether images act together with texts, on a sample of posts since its cost is the square of their number.

    Args:
        model: The trained model.
        data: The data, with the inputs that the model was trained on.
        split: The posts to run on; they need gold tags.
        emap: Posts of the additive projection; None or 0 leaves it out.
        repeats: Draws of each random condition, averaged.
        mode: Reading of tag sequences.
        resamples: Random swaps of the randomisation test.
        seed: Seed of all draws.
        device: Where the model runs.

    Raises:
        ValueError: If the model has neither images nor context here, so that there is nothing to take away.
    """
    import pandas as pd

    if repeats < 1:
        raise ValueError(f"Expected at least one repeat, but got {repeats}")
    dataset = data.dataset(split)
    images = model.uses_image and (dataset.open_image is not None or dataset.regions is not None)
    context = any(text for post in dataset.examples for text in post.context)
    if not images and not context:
        raise ValueError(
            f"{type(model).__name__} has neither images nor context here, so there is nothing to take away. "
            "Give the images, features or context that it was trained with."
        )
    conditions = [
        *(image_conditions(dataset) if images else []),
        *(context_conditions() if context else []),
        *(both_conditions() if images and context else []),
    ]
    runner = Runner(model, data, dataset, device)
    predictions = {REAL: [runner.predict(dataset)]}
    for number, condition in enumerate(conditions):
        seeds = [[seed, number, draw] for draw in range(repeats if condition.random else 1)]
        predictions[condition.name] = [_run(runner, condition, draw) for draw in seeds]
    meanings = {REAL: "images and context as they are"} | {
        condition.name: condition.meaning for condition in conditions
    }
    compared = compare(predictions, REAL, mode, False, resamples, seed=seed)
    frames = [_rows(compared, predictions, REAL, mode)]
    notes: list[str] = []
    projection = None
    if emap:
        sample = min(emap, len(dataset))
        projection = additive_projection(
            runner.pairs(images, context), len(dataset), sample, seed, data.eval_batch_size
        )
        projected = _decoded(runner, projection, predictions[REAL][0])
        compared = compare(projected, SAMPLE, mode, False, resamples, seed=seed)
        frames.append(_rows(compared, projected, SAMPLE, mode))
        predictions |= projected
        what = " and ".join(["images"] * images + ["context"] * context)
        meanings |= {
            SAMPLE: f"as real, on the {sample} posts of the projection",
            "sample: text + image": f"additive projection: the sum of what text and {what} say by themselves",
            "sample: text alone": f"the text's part of it: averaged over the {what} of all posts of the sample",
        }
        notes += _projection_notes(projection)
    return Probe(pd.concat(frames), meanings, predictions, projection, notes)


def _run(runner: Runner, condition: Condition, seed: Sequence[int]) -> list[Prediction]:
    dataset = runner.dataset
    if condition.posts is not None:
        dataset = runner.variant(condition.posts(dataset.examples, np.random.default_rng(seed)))
    if condition.batch is None:
        return runner.predict(dataset)
    generator = torch.Generator().manual_seed(int(np.random.default_rng(seed).integers(2**31)))
    change = condition.batch
    return runner.predict(dataset, lambda batch: change(batch, generator))


def _decoded(runner: Runner, projection: Projection, real: Sequence[Prediction]) -> dict[str, list[list[Prediction]]]:
    """The sample's posts with the tags of the model, of the projection and of its text part."""
    posts = [real[place] for place in projection.posts]
    parts = {
        SAMPLE: projection.model,
        "sample: text + image": projection.additive,
        "sample: text alone": projection.text,
    }
    return {
        name: [
            [
                replace(post, pred=tuple(tags), entities=())
                for post, tags in zip(posts, runner.decode(part), strict=True)
            ]
        ]
        for name, part in parts.items()
    }


def _rows(
    compared: Comparison, predictions: Mapping[str, Sequence[Sequence[Prediction]]], baseline: str, mode: Mode
) -> DataFrame:
    import pandas as pd

    real = [post.pred for post in marked(predictions[baseline][0], mode)]
    tests: dict[Any, dict[Any, Any]] = compared.tests.to_dict("index")
    rows = {}
    for name, runs in predictions.items():
        changed = [one.pred != two for run in runs for one, two in zip(marked(run, mode), real, strict=True)]
        row: dict[str, Any] = {"posts": len(real), "runs": len(runs), "f1": compared.scores.loc[name, "f1"]}
        if name != baseline:
            test = tests[baseline, name]
            row |= {column: test[column] for column in ("difference", "low", "high", "p_holm")}
        rows[name] = row | {"changed": float(np.mean(changed))}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("inputs")


def _projection_notes(projection: Projection) -> list[str]:
    if np.isnan(projection.interaction):
        return ["Changing images or context does not change the emissions at all: the model does not use them."]
    return [
        f"Changing images or context moves an emission by {projection.change:.3g} (root mean square); "
        f"{100 * projection.interaction:.0f} % of the square of that depends on the text it is combined with. "
        "The image part may not depend on the word, so whatever an image does to some words only counts as such."
    ]


def restored_data(
    model: FusionModule,
    root: Path,
    images: str | None = None,
    features: str | None = None,
    context: Sequence[str] = (),
    batch_size: int = 32,
) -> MNERDataModule:
    """A data module that prepares posts as those that a checkpoint was trained on, by what the checkpoint says.

    Args:
        model: A model loaded from a checkpoint.
        root: Folder of a data set with the model's entity types.
        images: Folder of images.
        features: Folder of stored features.
        context: Files of context texts.
        batch_size: Posts in a batch.

    Raises:
        ArgumentError: If inputs that the model was trained with are not given.
    """
    known: dict[str, Any] = (model.restored or {}).get("data") or {}
    if known.get("context") and not context:
        raise ArgumentError(f"The checkpoint was trained with context {known['context']}; give it with --context")
    if model.uses_image and known.get("images") and images is None:
        raise ArgumentError("The checkpoint was trained with images; give their folder with --images")
    if model.uses_image and known.get("features") and features is None:
        raise ArgumentError("The checkpoint was trained with stored features; give their folder with --features")
    # Data modules differ by their entity types alone, and these the model knows.
    kind = type("RestoredDataModule", (MNERDataModule,), {"labels": list(model.labels)})
    with TemporaryDirectory() as folder:
        for name, content in (known.get("tokenizer") or {}).items():
            (Path(folder) / Path(name).name).write_text(content, encoding="utf-8")
        made: MNERDataModule = kind(
            str(root),
            batch_size=batch_size,
            tokenizer=folder if known.get("tokenizer") else None,
            max_length=known.get("max_length"),
            replace_urls=known.get("replace_urls"),
            images=images,
            image_encoder=known.get("image_encoder"),
            image_size=known.get("image_size"),
            features=features,
            context=list(context),
        )
        _ = made.post_tokenizer  # read while its files are there
    return made


def probe_command(
    checkpoint: Path,
    root: Path,
    split: Literal["train", "valid", "test"] = "valid",
    images: str | None = None,
    features: str | None = None,
    context: list[str] | None = None,
    emap: int = 100,
    repeats: int = 3,
    out: Path | None = None,
    mode: Mode = "lenient",
    batch_size: int = 32,
    device: str = "auto",
    seed: int = 0,
) -> int:
    """Does a trained model use its images or captions? Run it again with them taken away, shuffled or made noise.

    Args:
        checkpoint: The checkpoint that `mner fit` wrote.
        root: Folder of the data set.
        split: The posts to run on.
        images: Folder of images, as in training.
        features: Folder of stored features, as in training.
        context: Files of context texts, as in training.
        emap: Posts of the additive projection, whose cost is their square; 0 leaves it out.
        repeats: Draws of each random condition, averaged.
        out: Folder for the table as CSV and Markdown.
        mode: Reading of tag sequences.
        batch_size: Posts in a batch.
        device: Where to run, such as cpu or cuda; auto takes the accelerator if there is one.
        seed: Seed of all draws.

    Returns:
        Exit code 0.
    """
    keep_memory()
    model = FusionModule.load_from_checkpoint(checkpoint)
    prepared = restored_data(model, root, images, features, context or (), batch_size)
    found = probe(model, prepared, split, emap, repeats, mode, seed=seed, device=str(pick_device(device)))
    meanings = [f"{name}: {meaning}." for name, meaning in found.meanings.items()]
    said = (
        "Differences are in points of F1. Intervals (95 %) and p are over posts and over draws of random conditions, "
        "for this one training: another seed of the model is not taken into account."
    )
    lines = [said, *meanings, *found.notes]
    print(f"{text(found.table)}\n")
    print("\n".join(lines))
    if out is not None:
        with output_folder(out) as place:
            found.table.to_csv(place / "probe.csv")
            (place / "probe.md").write_text("\n\n".join([markdown(found.table), *lines]) + "\n", encoding="utf-8")
        print(f"Written to {out}")
    return 0
