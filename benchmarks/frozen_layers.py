"""What frozen lower layers of the text encoder save in a training step, with their states kept and computed each time.

    python benchmarks/frozen_layers.py --posts train.txt --encoder models/minilm [--layers 3] [--batches 20]

Forward, backward and optimiser of the same bucketed batches, taken in turns by three models of the same weights: all of
the encoder learns; lower layers frozen and computed at each step; frozen, and the states behind them kept from an epoch
before. Then the time that the epoch which fills the memory takes, and what it holds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from interleave import machine
from posts import encoder_folder, load

from mner.data.batching import BucketSampler, Collate
from mner.data.dataset import MNERDataset
from mner.data.tokenizer import PostTokenizer
from mner.fusion import TextOnly
from mner.labels import bio_labels

WAYS = {"all learns": (False, 0), "frozen, computed each time": (True, 0), "frozen, states kept": (True, 2**30)}


def step(model: TextOnly, optimizer: torch.optim.Optimizer, batch: Any) -> float:
    """Processor seconds of one step."""
    start = time.process_time()
    loss = torch.stack(list(model.losses(batch).values())).sum()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.process_time() - start


def main() -> None:
    """Time them and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=Path, help="posts, CoNLL or JSON lines")
    parser.add_argument("--encoder", help="folder of a transformers model")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--batches", type=int, default=20, help="of 32 posts, from all lengths")
    given = parser.parse_args()
    torch.set_num_threads(1)
    posts = load(given.posts, 32 * 105)
    labels = bio_labels({tag[2:] for post in posts for tag in post.tags or () if tag != "O"})
    with tempfile.TemporaryDirectory() as folder:
        encoder = encoder_folder(given.encoder, Path(folder))
        tokenizer = PostTokenizer(encoder)
        models = {
            way: TextOnly(labels, text_encoder=encoder, freeze_layers=given.layers * frozen, freeze_cache=limit).train()
            for way, (frozen, limit) in WAYS.items()
        }
    data = MNERDataset(posts, labels, tokenizer)
    chosen = list(BucketSampler(data.lengths, 32, shuffle=True, seed=1))[: given.batches]
    batches = [Collate(tokenizer.pad_id)([data[place] for place in some]) for some in chosen]
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    optimizers: dict[str, Any] = {}
    for way, model in models.items():
        learnt = [p for p in model.parameters() if p.requires_grad]
        optimizers[way] = torch.optim.AdamW(learnt, lr=5e-5, fused=True)
    kept = models["frozen, states kept"].text_encoder
    filling = 0.0
    for batch in batches:
        filling += step(models["frozen, states kept"], optimizers["frozen, states kept"], batch)
    for batch in batches:
        for way, model in models.items():
            taken[way].append(step(model, optimizers[way], batch))
    print(machine("torch", "transformers"))
    pieces = sum(int(batch["token_mask"].sum()) for batch in batches)
    print(f"{len(batches)} batches of 32 posts, {pieces / sum(map(len, chosen)):.0f} pieces in the mean, one thread")
    print("| | seconds of the batches | times as fast | quartiles |\n|---|---|---|---|")
    for way, times in taken.items():
        ratios = [slow / fast for slow, fast in zip(taken["all learns"], times, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"| {way} | {sum(times):.2f} | {middle:.2f} | {low:.2f}-{high:.2f} |")
    frozen = kept.frozen
    assert frozen is not None
    print(f"\nThe first epoch, which fills the memory: {filling:.2f} s; {frozen.bytes / 2**20:.0f} MB are kept.")


if __name__ == "__main__":
    main()
