"""Do the fast CRF and metric score a trained model exactly as the slow references do? Counts, to the last one.

    python benchmarks/same_scores.py best.ckpt data/twitter2017 [--split valid] [--batch 32]

Both get the same emissions. pytorch-crf, with the model's scores and -10000 where BIO forbids a transition, decodes
post by post, and seqeval counts; mner.CRF decodes batches, and SpanF1 counts. For text models. Exit code 1 if a count
differs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import torchcrf
from interleave import machine
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2, Entities
from torch import Tensor

from mner import CRF, SpanF1
from mner.batch import Batch
from mner.data.examples import fingerprint
from mner.fusion import FusionModule
from mner.labels import MODES, Mode, allowed_transitions
from mner.probing.probe import restored_data
from mner.probing.runner import Runner
from mner.training.checkpoint import load_module

FORBIDDEN = -10_000.0


def reference(crf: CRF, labels: list[str]) -> torchcrf.CRF:
    """pytorch-crf with the same scores, and the BIO constraints written into them."""
    plain = torchcrf.CRF(len(labels), batch_first=True)
    plain.load_state_dict(crf.state_dict())
    start, follow = allowed_transitions(labels)
    with torch.no_grad():
        plain.start_transitions[~torch.tensor(start)] = FORBIDDEN
        plain.transitions[~torch.tensor(follow)] = FORBIDDEN
    return plain


def seqeval_counts(gold: list[list[str]], pred: list[list[str]], mode: Mode) -> tuple[int, int, int]:
    """Gold, predicted and correct entities as seqeval finds them."""
    if mode == "strict":
        found = [
            {(row, entity.tag, entity.start, entity.end) for row, post in enumerate(Entities(tags, IOB2).entities)
             for entity in post}
            for tags in (gold, pred)
        ]  # fmt: skip
    else:
        found = [{(row, *entity) for row, tags in enumerate(posts) for entity in get_entities(tags)}
                 for posts in (gold, pred)]  # fmt: skip
    return len(found[0]), len(found[1]), len(found[0] & found[1])


def batches(model: FusionModule, runner: Runner, size: int) -> list[tuple[Tensor, Batch]]:
    """Emissions (b, w, l) and batch, for all posts in their order."""
    dataset, collate = runner.dataset, runner.collate(runner.dataset)
    starts = range(0, len(dataset), size)
    made = [collate([dataset[row] for row in range(start, min(start + size, len(dataset)))]) for start in starts]
    with torch.no_grad():
        return [(model.emissions(batch), batch) for batch in made]


def main() -> int:
    """Read the arguments, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("root", type=Path, help="folder of the data set")
    parser.add_argument("--split", default="valid", choices=["train", "valid", "test"])
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    model = load_module(options.checkpoint, FusionModule).eval()
    data = restored_data(model, options.root, batch_size=options.batch)
    runner = Runner(model, data, data.dataset(options.split))
    made = batches(model, runner, options.batch)
    labels = list(model.labels)
    plain = reference(model.crf, labels)

    gold = [list(post.tags or ()) for post in runner.dataset.examples]
    metrics = {mode: SpanF1(labels, mode) for mode in MODES}
    fast: list[list[str]] = []
    slow: list[list[str]] = []
    seconds = [0.0, 0.0]
    losses = [0.0, 0.0]
    for emissions, batch in made:
        mask, tags = batch["word_mask"], batch["tags"]
        begin = time.perf_counter()
        paths = model.crf.decode(emissions, mask)
        seconds[0] += time.perf_counter() - begin
        padded = torch.zeros_like(tags)
        for row, path in enumerate(paths):
            padded[row, : len(path)] = torch.tensor(path)
        for metric in metrics.values():
            metric.update(padded, tags, mask)
        fast += [[labels[label] for label in path] for path in paths]
        begin = time.perf_counter()
        for row, length in enumerate(mask.sum(1).tolist()):
            (path,) = plain.decode(emissions[row : row + 1, :length])
            slow.append([labels[label] for label in path])
        seconds[1] += time.perf_counter() - begin
        with torch.no_grad():
            losses[0] -= float(model.crf(emissions, tags, mask).double())
            free = torchcrf.CRF(len(labels), batch_first=True)
            free.load_state_dict(model.crf.state_dict())
            losses[1] -= float(free.double()(emissions.double(), tags.clamp(min=0), mask))
    print("# Scores before and after\n")
    print(machine("torch", "numpy", "pytorch-crf", "seqeval"))
    print(f"{len(gold)} posts of {options.split}, fingerprint {fingerprint(runner.dataset.examples)}.\n")
    print("| | reading | gold | predicted | correct | F1 (%) |")
    print("|---|---|---|---|---|---|")
    same = fast == slow
    for mode in MODES:
        ours = metrics[mode]
        correct, spurious, missed = (int(state.sum()) for state in (ours.tp, ours.fp, ours.fn))
        counts = {
            "pytorch-crf and seqeval": seqeval_counts(gold, slow, mode),
            "mner.CRF and SpanF1": (correct + missed, correct + spurious, correct),
        }
        for name, (wanted, given, right) in counts.items():
            print(f"| {name} | {mode} | {wanted} | {given} | {right} | {200 * right / (wanted + given):.10f} |")
        same &= len(set(counts.values())) == 1
    print(f"\nPosts with the same tags: {sum(a == b for a, b in zip(fast, slow, strict=True))} of {len(gold)}.")
    print(f"Negative log-likelihood of the gold tags: {losses[0]:.4f}; pytorch-crf in float64: {losses[1]:.4f}.")
    print(f"Decoding: {seconds[0]:.2f} s in batches, {seconds[1]:.2f} s post by post.")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
