"""SpanF1 against seqeval on one CPU thread: counts of the whole, fed in batches as in evaluation, and at once.

    python benchmarks/metric.py [--posts 3257] [--batch 32] [--seconds 10] [--clock cpu|wall]

The posts are random, with lengths and entities about as in tweets (3,257 is Twitter-2015's test split). seqeval gets
lists of tag names, SpanF1 padded tensors of label indices: what each asks for, made beforehand.
"""

from __future__ import annotations

import argparse
import os
import random
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch start their pools

import torch
from interleave import CLOCKS, machine, rounds_of, table
from seqeval.metrics import classification_report, f1_score
from seqeval.scheme import IOB2
from torch import Tensor

from mner.labels import Mode, bio_labels
from mner.metrics import SpanF1

LABELS = bio_labels(["PER", "LOC", "ORG", "OTHER"])


def posts_of(count: int) -> tuple[list[list[int]], list[list[int]]]:
    """Gold and predicted label indices: 1.6 entities a post, one prediction in ten wrong."""
    pick = random.Random(0)
    gold, pred = [], []
    for _ in range(count):
        tags = [0] * min(max(int(pick.gauss(16, 6)), 3), 35)
        for _ in range(pick.choice([0, 1, 1, 2, 2, 3])):
            start, type_ = pick.randrange(len(tags)), pick.randrange(4)
            tags[start] = 1 + 2 * type_
            if start + 1 < len(tags) and pick.random() < 0.4:
                tags[start + 1] = 2 + 2 * type_
        gold.append(tags)
        pred.append([tag if pick.random() < 0.95 else pick.randrange(len(LABELS)) for tag in tags])
    return gold, pred


def padded(rows: list[list[int]]) -> Tensor:
    """(b, w), -1 where padded."""
    width = max(map(len, rows))
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows])


def main() -> None:
    """Read the arguments, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=int, default=3257)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0, help="about how long each comparison takes")
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")  # seqeval's, about undefined scores
    torch.set_num_threads(1)
    gold, pred = posts_of(arguments.posts)
    names = [[[LABELS[tag] for tag in row] for row in rows] for rows in (gold, pred)]

    def batches(size: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        starts = range(0, len(gold), size)
        found = [(padded(pred[at : at + size]), padded(gold[at : at + size])) for at in starts]
        return [(predicted, true, true >= 0) for predicted, true in found]

    print("# Span-level F1\n")
    print(machine("torch", "numpy", "torchmetrics", "seqeval"))
    print(f"{arguments.posts} posts; one thread; {arguments.clock} time.\n")
    modes: dict[Mode, dict[str, object]] = {"lenient": {}, "strict": {"mode": "strict", "scheme": IOB2}}
    for mode, options in modes.items():
        metric = SpanF1(LABELS, mode)

        def count(parts: list[tuple[Tensor, Tensor, Tensor]], metric: SpanF1 = metric) -> float:
            metric.reset()
            for part in parts:
                metric.update(*part)
            return metric.compute()["f1"].item()

        some, whole = batches(arguments.batch), batches(arguments.posts)
        off = max(abs(count(parts) - f1_score(*names, **options)) for parts in (some, whole))
        print(f"## {mode}, F1 differs by {off:.0e}\n")
        runs = {
            "seqeval, f1_score": lambda options=options: f1_score(*names, **options),
            "seqeval, report": lambda options=options: classification_report(*names, **options),
            f"SpanF1, batches of {arguments.batch}": lambda count=count, some=some: count(some),
            "SpanF1, at once": lambda count=count, whole=whole: count(whole),
        }
        table(rounds_of(runs, arguments.seconds, arguments.clock), "seqeval, f1_score")


if __name__ == "__main__":
    main()
