"""As `train.py`, on the built-in sample, in which the picture tells what the text cannot.

    python benchmarks/photographs/sample.py SAMPLE OUT [--seeds 0 1 2] [--only CoAttention …]
    python benchmarks/photographs/table.py SAMPLE OUT --sample

The posts are written to SAMPLE if they are not there. Tiny text encoder from random weights; regions are the pixels of
what is drawn, its names stand for the names of objects.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from train import MENDED, READS_NAMES, Run, arguments, class_of, run_all, strategies

from mner.data import SampleDataModule
from mner.data.datamodules.base import MNERDataModule
from mner.fusion import FusionModule


def sample(run: Run, given: argparse.Namespace) -> tuple[FusionModule, MNERDataModule]:
    """Model and data of a run."""
    cls = class_of(run.name)
    data = SampleDataModule(
        str(given.posts), batch_size=run.recipe.batch_size, seed=run.seed,
        features="objects" if cls.uses_image else None, context=["tags.jsonl"] if run.name in READS_NAMES else None,
    )  # fmt: skip
    data.prepare_data()
    rates = {name: value for name, value in asdict(run.recipe).items() if name.endswith(("rate", "ratio"))}
    width = {"region_width": data.region_width} if cls.uses_image else {}
    return cls(data.labels, **rates, **width, **run.options), data


def main() -> None:
    """Read the arguments, train."""
    parser = arguments(__doc__ or "")
    parser.add_argument("posts", type=Path, help="folder of the sample")
    parser.add_argument("out", type=Path, help="folder of results and predictions")
    parser.set_defaults(epochs=15, batch_size=16, frozen_layers=0, learning_rate=2e-3, head_learning_rate=2e-3)
    given = parser.parse_args()
    given.only = given.only or [*strategies(), *MENDED]
    given.out.mkdir(parents=True, exist_ok=True)
    run_all(given, sample, precision="32-true")


if __name__ == "__main__":
    main()
