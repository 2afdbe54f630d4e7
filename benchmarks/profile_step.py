"""Where the time of one training step and one evaluation batch goes, as Markdown.

    python benchmarks/profile_step.py [--posts train.txt] [--encoder FOLDER] [--steps 30] [--clip 1.0]
    python benchmarks/profile_step.py --words 32 34        invented posts of so many words, instead of a file

A Lightning Trainer runs as usual; functions that stand for a part are wrapped in a stop-watch that knows which part is
inside of which, so that every moment counts for exactly one. What no wrapped function covers is Lightning's own loop.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch start their pools
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytorch_lightning as pl
import torch
from contestants.training_mner import spread
from interleave import CLOCKS, machine
from posts import encoder_folder, labels_of, load, made_up
from torch.utils.data import DataLoader

from mner.data.batching import BucketSampler, Collate
from mner.data.dataset import MNERDataset
from mner.data.tokenizer import PostTokenizer
from mner.fusion import TextOnly

LOOP = "Lightning's loop"
TRAINING = (
    "data",
    "encoder, forward",
    "head, forward",
    "CRF, loss and gradient",
    "head, backward",
    "encoder, backward",
    "clipping",
    "optimiser",
    "logging",
    LOOP,
)
EVALUATION = ("data", "encoder, forward", "head, forward", "CRF, loss", "CRF, decoding", "metrics", "logging", LOOP)
HEAVY = ("encoder, forward", "encoder, backward", "optimiser")


class StopWatch:
    """Time of each part, without that of the parts inside of it; one row a step.

    Args:
        clock: Of `interleave.CLOCKS`.
    """

    def __init__(self, clock: str) -> None:
        self.now: Callable[[], float] = CLOCKS[clock]
        self.rows: list[dict[str, float]] = []
        self._row: dict[str, float] = defaultdict(float)
        self._stack = [LOOP]
        self._since = self.now()

    def switch(self, part: str) -> None:
        """What runs now belongs to `part`, in place of the part that was running."""
        self._count()
        self._stack[-1] = part

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Until the end of the block."""
        self._count()
        self._stack.append(part)
        try:
            yield
        finally:
            self._count()
            self._stack.pop()

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Count a method of an object for a part."""
        inner = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self.within(part):
                return inner(*args, **kwargs)

        setattr(owner, name, wrapped)

    def end(self) -> None:
        """One step is over."""
        self._count()
        self.rows.append(dict(self._row))
        self._row.clear()

    def _count(self) -> None:
        now = self.now()
        self._row[self._stack[-1]] += now - self._since
        self._since = now


class Watched(pl.Callback):
    """Ends a row of the stop-watch after each step; the optimiser can only be wrapped when it is there."""

    def __init__(self, watch: StopWatch) -> None:
        self.watch = watch

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wrap the optimiser; what was before the first step does not count."""
        for optimizer in trainer.optimizers:
            for name in ("step", "zero_grad"):
                self.watch.wrap(optimizer, name, "optimiser")
        for config in trainer.lr_scheduler_configs:
            self.watch.wrap(config.scheduler, "step", "optimiser")
        self.watch.end()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """End of a step."""
        self.watch.end()

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """End of a batch."""
        self.watch.end()


def watched(model: TextOnly, watch: StopWatch, training: bool) -> None:
    """Wrap the parts of the model."""
    watch.wrap(model.text_encoder, "forward", "encoder, forward")
    watch.wrap(model, "emissions", "head, forward")
    watch.wrap(model, "nll", "CRF, loss and gradient" if training else "CRF, loss")
    watch.wrap(model, "decode", "CRF, decoding")
    watch.wrap(model, "log", "logging")
    watch.wrap(model, "log_dict", "logging")
    watch.wrap(model, "configure_gradient_clipping", "clipping")
    watch.wrap(model, "backward", "head, backward")
    for metric in model.metrics.values():
        watch.wrap(metric, "update", "metrics")

    def reached(module: Any, inputs: Any, states: torch.Tensor) -> None:
        if states.requires_grad:
            # The gradient of the encoder's output is there: from now on it is the encoder's.
            states.register_hook(lambda gradient: watch.switch("encoder, backward"))

    model.text_encoder.register_forward_hook(reached)


def profile(
    posts: Any, encoder: str, batch: int, steps: int, clip: float | None, precision: str, clock: str, folder: str
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Rows of training steps and of evaluation batches, spread over the lengths of an epoch's."""
    labels = labels_of(posts)
    tokenizer = PostTokenizer(encoder, max_length=128)
    dataset = MNERDataset(posts, labels, tokenizer)
    torch.manual_seed(0)
    model = TextOnly(labels, text_encoder=encoder, head_learning_rate=5e-3)
    found = []
    for training in (True, False):
        watch = StopWatch(clock)
        batches: Any = copy(dataset)
        collate = Collate(tokenizer.pad_id)
        for owner in (batches, collate):
            owner.__class__ = _timed(type(owner), watch)
        chosen = spread(BucketSampler(dataset.lengths, batch, shuffle=training), dataset.lengths, steps)
        loader: Any = DataLoader(batches, batch_sampler=chosen[:2] + chosen, collate_fn=collate)
        fresh = TextOnly(labels, text_encoder=encoder, head_learning_rate=5e-3)
        fresh.load_state_dict(model.state_dict())
        watched(fresh, watch, training)
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            precision=precision,  # type: ignore[arg-type]
            gradient_clip_val=clip,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=folder,
            logger=pl.loggers.CSVLogger(folder),
            callbacks=[Watched(watch)],
        )
        if training:
            trainer.fit(fresh, loader)
            found.append(watch.rows[3:])
        else:
            trainer.validate(fresh, loader, verbose=False)
            found.append(watch.rows[2:])
    return found[0], found[1]


def _timed(cls: type, watch: StopWatch) -> type:
    """A class whose special methods count as data; those cannot be replaced on an object."""
    name = "__call__" if cls is Collate else "__getitems__"
    inner = getattr(cls, name)

    def wrapped(self: Any, *args: Any) -> Any:
        with watch.within("data"):
            return inner(self, *args)

    return type(cls.__name__, (cls,), {name: wrapped})


def table(rows: list[dict[str, float]], parts: tuple[str, ...]) -> None:
    """Median of each part in milliseconds, its quartiles, and its share of the whole."""
    whole = sum(sum(row.values()) for row in rows)
    print("| part | median ms | quartiles | share |")
    print("|---|---|---|---|")
    for part in parts:
        taken = [row.get(part, 0.0) * 1e3 for row in rows]
        if not any(taken):
            continue
        low, middle, high = statistics.quantiles(taken, n=4)
        print(f"| {part} | {middle:.2f} | {low:.2f}-{high:.2f} | {sum(taken) / whole / 10:.2f} % |")
    low, middle, high = statistics.quantiles([sum(row.values()) * 1e3 for row in rows], n=4)
    print(f"| **all** | {middle:.2f} | {low:.2f}-{high:.2f} | |")
    print(f"\nBesides encoder and optimiser: **{rest(rows):.2%}**\n")


def rest(rows: list[dict[str, float]]) -> float:
    """Share of what is neither encoder nor optimiser."""
    whole = sum(sum(row.values()) for row in rows)
    return 1 - sum(row.get(part, 0.0) for row in rows for part in HEAVY) / whole


def main() -> None:
    """Read the arguments, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=Path, help="training posts, CoNLL or JSON lines")
    parser.add_argument("--words", type=int, nargs=2, help="fewest and most words of invented posts")
    parser.add_argument("--encoder", help="folder of a transformers model")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--clip", type=float, help="gradient_clip_val")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    posts = list(made_up(1000, tuple(options.words))) if options.words else load(options.posts)
    with tempfile.TemporaryDirectory() as folder:
        encoder = encoder_folder(options.encoder, Path(folder))
        pieces = statistics.mean(MNERDataset(posts, labels_of(posts), PostTokenizer(encoder, max_length=128)).lengths)
        begin = time.perf_counter()
        training, evaluation = profile(
            posts, encoder, options.batch, options.steps, options.clip, options.precision, options.clock, folder
        )
    print("# One step, part by part\n")
    print(machine("torch", "transformers", "pytorch-lightning"))
    print(
        f"{options.steps} steps of {options.batch} posts with {pieces:.0f} pieces in the mean, text only, "
        f"{options.precision}, one thread, {options.clock} time; {time.perf_counter() - begin:.0f} s.\n"
    )
    print("## Training step\n")
    table(training, TRAINING)
    print("## Evaluation batch\n")
    table(evaluation, EVALUATION)


if __name__ == "__main__":
    main()
