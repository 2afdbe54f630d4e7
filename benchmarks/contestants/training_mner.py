"""Training with mner: a Lightning Trainer, bucketed batches, fused AdamW. One turn is one step.

The steps are spread evenly over the lengths of an epoch's batches, so that their mean is that of the epoch.
"""

from __future__ import annotations

import random
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader
from turns import parser_of, read_records, turn

from mner.batch import Batch
from mner.data.batching import BucketSampler, Collate
from mner.data.dataset import MNERDataset
from mner.data.examples import Example
from mner.data.tokenizer import PostTokenizer
from mner.fusion import TextOnly


class Turns(pl.Callback):
    """Waits after each step. What the loop does between two steps falls into the next turn."""

    def __init__(self, facts: list[dict[str, Any]]) -> None:
        self.facts = iter(facts)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ready."""
        turn()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """One turn is over."""
        turn(**next(self.facts))


def spread(sampler: BucketSampler, lengths: Any, steps: int) -> list[list[int]]:
    """Batches of an epoch, evenly spaced by their length, in random order."""
    batches = sorted(sampler, key=lambda batch: max(lengths[batch]))
    chosen = [batches[int((step + 0.5) * len(batches) / steps)] for step in range(steps)]
    random.Random(0).shuffle(chosen)
    return chosen


def main() -> None:
    """Read the arguments, train."""
    parser = parser_of(__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--precision", default="32-true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    records = read_records(options.posts)
    posts = [Example(str(number), None, tuple(r["words"]), tuple(r["tags"])) for number, r in enumerate(records)]
    labels = sorted(
        {tag for post in posts for tag in post.tags or ()} | {"O"}, key=lambda tag: (tag != "O", tag[2:], tag)
    )
    tokenizer = PostTokenizer(options.encoder, max_length=128)
    dataset = MNERDataset(posts, labels, tokenizer)
    sampler = BucketSampler(dataset.lengths, options.batch, shuffle=True)
    chosen = spread(sampler, dataset.lengths, options.steps)
    chosen = chosen[: options.warm] + chosen  # the warm ones are not counted
    facts = [
        {
            "posts": len(batch),
            "real": int(dataset.lengths[batch].sum()),
            "padded": int(dataset.lengths[batch].max()) * len(batch),
        }
        for batch in chosen
    ]
    loader: DataLoader[Batch] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=chosen,
        collate_fn=Collate(tokenizer.pad_id),
    )
    torch.manual_seed(0)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        precision=options.precision,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        callbacks=[Turns(facts)],
    )
    trainer.fit(TextOnly(labels, text_encoder=options.encoder, head_learning_rate=5e-3), loader)


if __name__ == "__main__":
    main()
