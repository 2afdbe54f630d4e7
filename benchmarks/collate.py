"""From posts to batches: what collate costs, what bucketing gains, and what a step has besides encoder and optimiser.

    python benchmarks/collate.py [--posts train.txt] [--encoder FOLDER] [--steps 12] [--seconds 5]

The goals: collate takes at most .25 ms for 32 posts; bucketed batches have at least 95 % real pieces, and at least
2.5 times the step rate of batches padded to 128; all that is neither encoder nor optimiser is at most 1 % of a step.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch start their pools
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from contestants.training_mner import spread
from contestants.training_transformers import encoded
from interleave import CLOCKS, machine, rounds_of, table
from posts import encoder_folder, labels_of, load
from profile_step import profile, rest
from transformers import AutoTokenizer, DataCollatorForTokenClassification
from turns import ratio

from mner.batch import Batch
from mner.data.batching import BucketSampler, Collate
from mner.data.dataset import MNERDataset
from mner.data.tokenizer import PostTokenizer
from mner.fusion import TextOnly


def collating(dataset: MNERDataset, posts: Sequence[Any], encoder: str, seconds: float, clock: str) -> float:
    """Time of one batch of 32; returns mner's milliseconds."""
    sampler = BucketSampler(dataset.lengths, 32, shuffle=True)
    (indices,) = spread(sampler, dataset.lengths, 1)  # of middle length
    batches, collate = dataset.__getitems__, Collate()
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    records = [{"words": list(posts[index].words), "tags": posts[index].tags} for index in indices]
    tags = {tag: number for number, tag in enumerate(labels_of(posts))}
    rows = encoded(tokenizer, records, tags, 128, pad=False)
    theirs = DataCollatorForTokenClassification(tokenizer)
    runs: dict[str, Callable[[], object]] = {
        "transformers' collator, tokenised before": lambda: theirs(rows),
        "transformers, tokenised at each step": lambda: theirs(encoded(tokenizer, records, tags, 128, pad=False)),
        "mner: data set and Collate": lambda: collate(batches(indices)),
    }
    taken = rounds_of(runs, seconds, clock)
    print(f"## Collate, {len(indices)} posts, {int(max(dataset.lengths[indices]))} pieces\n")
    table(taken, next(iter(runs)))
    return statistics.median(taken["mner: data set and Collate"]) * 1e3


def real(batches: Sequence[Sequence[int]], lengths: Any, width: int | None = None) -> float:
    """Share of real pieces in padded batches."""
    padded = sum((width or int(lengths[batch].max())) * len(batch) for batch in batches)
    return sum(int(lengths[batch].sum()) for batch in batches) / padded


def widened(batch: Batch, width: int) -> Batch:
    """A batch padded to a fixed number of pieces."""
    wide: Any = dict(batch)
    for name in ("token_ids", "token_mask", "segment_ids"):
        old = wide[name]
        wide[name] = torch.zeros(len(old), width, dtype=old.dtype)
        wide[name][:, : old.shape[1]] = old
    return wide


def bucketing(
    dataset: MNERDataset, labels: list[str], encoder: str, steps: int, clock: str
) -> tuple[float, tuple[float, float, float]]:
    """Real pieces and step rates; returns those of mner."""
    lengths = dataset.lengths
    sampler = BucketSampler(lengths, 32, shuffle=True)
    bucketed = spread(sampler, lengths, steps)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = [order[start : start + 32] for start in range(0, len(order), 32)]
    batches, collate = dataset.__getitems__, Collate()
    torch.manual_seed(0)
    model = TextOnly(labels, text_encoder=encoder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)
    now = CLOCKS[clock]

    def step(indices: Sequence[int], width: int | None) -> float:
        begin = now()
        batch = collate(batches(indices))
        loss = sum(model.losses(batch if width is None else widened(batch, width)).values())
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad()
        return now() - begin

    variants = {
        "padded to 128": (shuffled, 128, real(shuffled, lengths, 128)),
        "padded to the longest of random batches": (shuffled, None, real(shuffled, lengths)),
        "bucketed (mner)": (bucketed, None, real(list(sampler), lengths)),
    }
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(-1, steps):  # the first is not counted
        for name, (source, width, _) in variants.items():
            seconds = step(source[max(number, 0)], width)
            if number >= 0:
                taken[name].append(seconds)
    print("## Bucketing, whole steps of one model\n")
    print("| | real pieces | mean step, ms | times as fast | quartiles |")
    print("|---|---|---|---|---|")
    base = taken["padded to 128"]
    for name, (_, _, share) in variants.items():
        middle, low, high = ratio(base, taken[name])
        mean = statistics.mean(taken[name]) * 1e3
        print(f"| {name} | {share:.1%} | {mean:.0f} | {middle:.2f} | {low:.2f}-{high:.2f} |")
    print()
    return variants["bucketed (mner)"][2], ratio(base, taken["bucketed (mner)"])


def main() -> None:
    """Read the arguments, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=Path, help="training posts, CoNLL or JSON lines")
    parser.add_argument("--encoder", help="folder of a transformers model")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=5.0, help="for collate")
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    posts = load(options.posts)
    labels = labels_of(posts)
    with tempfile.TemporaryDirectory() as folder:
        encoder = encoder_folder(options.encoder, Path(folder))
        dataset = MNERDataset(posts, labels, PostTokenizer(encoder, max_length=128))
        print("# From posts to batches\n")
        print(machine("torch", "transformers", "numpy"))
        print(f"{len(posts)} posts; one thread; {options.clock} time.\n")
        milliseconds = collating(dataset, posts, encoder, options.seconds, options.clock)
        share, rate = bucketing(dataset, labels, encoder, options.steps, options.clock)
        training, _ = profile(posts, encoder, 32, options.steps, None, "32-true", options.clock, folder)
    print("## Goals\n")
    print("| goal | measured |")
    print("|---|---|")
    print(f"| collate: at most .25 ms | {milliseconds:.3f} ms |")
    print(f"| bucketing: at least 95 % real pieces | {share:.1%} |")
    print(f"| at least 2.5 times the step rate of padding to 128 | {rate[0]:.2f} ({rate[1]:.2f}-{rate[2]:.2f}) |")
    print(f"| besides encoder and optimiser: at most 1 % of a step | {rest(training):.2%} |")


if __name__ == "__main__":
    main()
