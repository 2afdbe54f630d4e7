"""How time and memory grow with the length of sentences, the batch, the labels, and the number of posts.

    python benchmarks/growth.py [--only words batch labels posts] [--posts 1000000] [--seconds 2]

Time: a training step and the decoding of one batch, with a small random BERT (2 x 128, 1,100 positions); "without
encoder" is head, CRF and their gradients. Sizes of a table take turns. Posts: each size in a process of its own, which
reads a file of made-up posts (written before), tokenises it, and iterates over 300 batches.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch start their pools
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from interleave import CLOCKS, machine, rounds_of
from posts import TYPES, made_up

from mner.batch import Batch
from mner.data.datamodules.base import MNERDataModule
from mner.data.formats.conll import read_conll, write_conll
from mner.fusion import TextOnly
from mner.labels import bio_labels

ENCODER = {
    "model_type": "bert",
    "vocab_size": 2738,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 512,
    "max_position_embeddings": 1100,
}
TABLES = {  # (batch, words, types); labels are 1 + 2 * types
    "words": [(16, words, 4) for words in (16, 32, 64, 128, 256, 512)],
    "batch": [(batch, 32, 4) for batch in (1, 4, 16, 64, 256)],
    "labels": [(16, 32, types) for types in (2, 4, 10, 20, 30, 50)],
}


def batch_of(b: int, w: int, labels: int) -> Batch:
    """Posts of w words with two pieces each."""
    t = 2 * w + 2
    pick = torch.Generator().manual_seed(0)
    return Batch(
        token_ids=torch.randint(5, 2738, (b, t), generator=pick),
        token_mask=torch.ones(b, t, dtype=torch.bool),
        segment_ids=torch.zeros(b, t, dtype=torch.long),
        word_starts=(1 + 2 * torch.arange(w)).repeat(b, 1),
        word_mask=torch.ones(b, w, dtype=torch.bool),
        tags=torch.randint(labels, (b, w), generator=pick),
        has_image=torch.zeros(b, dtype=torch.bool),
        words=[("word",) * w] * b,
        id=[str(row) for row in range(b)],
        image_id=[None] * b,
    )


def runs_of(size: tuple[int, int, int]) -> dict[str, Callable[[], object]]:
    """A training step, that without encoder, and decoding, at one size."""
    b, w, types = size
    labels = bio_labels([f"T{number}" for number in range(types)])
    torch.manual_seed(0)
    model = TextOnly(labels, text_encoder=ENCODER)
    batch = batch_of(b, w, len(labels))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, fused=True)
    words = torch.randn(b, batch["word_mask"].shape[1], model.width, requires_grad=True)
    emissions = model.emissions(batch).detach()

    def step() -> None:
        model.losses(batch)["tagging"].backward()
        optimizer.step()
        optimizer.zero_grad()

    def without() -> None:
        regions, region_mask = model.regions(batch)
        model.nll(model.emit(words, batch["word_mask"], regions, region_mask), batch).backward()
        optimizer.zero_grad()

    return {"step": step, "without encoder": without, "decoding": lambda: model.decode(emissions, batch)}


def times(what: str, seconds: float, clock: str) -> None:
    """Print one table."""
    sizes = TABLES[what]
    taken: dict[tuple[int, int, int], dict[str, list[float]]] = {size: {} for size in sizes}
    made = {size: runs_of(size) for size in sizes}
    for kind in ("step", "without encoder", "decoding"):
        found = rounds_of({str(size): made[size][kind] for size in sizes}, seconds * len(sizes), clock)
        for size in sizes:
            taken[size][kind] = found[str(size)]
    print(f"## Growth with {what}\n")
    print(
        "| batch x words x labels | step, ms | quartiles | without encoder, ms | quartiles | decoding, ms | quartiles |"
    )
    print("|---|---|---|---|---|---|---|")
    for (b, w, types), kinds in taken.items():
        cells = []
        for some in kinds.values():
            low, middle, high = statistics.quantiles([second * 1e3 for second in some], n=4)
            cells.append(f"{middle:.2f} | {low:.2f}-{high:.2f}")
        print(f"| {b} x {w} x {1 + 2 * types} | {' | '.join(cells)} |", flush=True)
    print()


def resident() -> float:
    """MB of memory that this process holds."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


class Posts(MNERDataModule):
    """The made-up posts."""

    types = TYPES
    labels = bio_labels(TYPES)


def load(folder: str) -> None:
    """In a process of its own: read, prepare, iterate; prints JSON."""
    warnings.filterwarnings("ignore")
    facts: dict[str, Any] = {}
    data = Posts(folder, max_length=128)
    _ = data.post_tokenizer
    before, begin = resident(), time.process_time()
    posts = read_conll(Path(folder) / "train.txt")
    facts |= {"read_s": time.process_time() - begin, "text_mb": resident() - before}
    del posts
    begin = time.process_time()
    data.setup("fit")
    batches = iter(data.train_dataloader())
    next(batches)
    facts["start_s"] = time.process_time() - begin
    dataset = data.datasets["train"]
    arrays = [value for value in vars(dataset).values() if hasattr(value, "nbytes")]
    facts["numbers_mb"] = sum(value.nbytes for value in arrays) / 1e6
    facts["all_mb"] = resident() - before
    begin = time.process_time()
    for _ in zip(range(300), batches, strict=False):
        pass
    facts["batch_ms"] = (time.process_time() - begin) / 300 * 1e3
    facts["later_mb"] = resident() - before
    print(json.dumps(facts))


def posts(most: int) -> None:
    """Print the table of data-set sizes, by tens up to `most`."""
    print("## Growth with posts\n")
    print("Memory: what the process holds beyond its libraries. Text is that of the posts alone.\n")
    print(
        "| posts | reading, s | start-up, s | text, MB | numbers, MB | all, MB | after 300 batches, MB | a batch, ms |"
    )
    print("|---|---|---|---|---|---|---|---|")
    size = 10_000
    while size <= most:
        with tempfile.TemporaryDirectory() as folder:
            write_conll(Path(folder) / "train.txt", made_up(size))
            valid = [replace(post, id=f"v{post.id}", image_id=f"v{post.id}") for post in made_up(1000, seed=1)]
            write_conll(Path(folder) / "valid.txt", valid)
            command = [sys.executable, __file__, "--load", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            facts = json.loads(done.stdout.splitlines()[-1])
        print(
            f"| {size:,} | {facts['read_s']:.1f} | {facts['start_s']:.1f} | {facts['text_mb']:.0f} | "
            f"{facts['numbers_mb']:.0f} | {facts['all_mb']:.0f} | {facts['later_mb']:.0f} | {facts['batch_ms']:.2f} |",
            flush=True,
        )
        size *= 10
    print()


def main() -> None:
    """Read the arguments, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=[*TABLES, "posts"], default=[*TABLES, "posts"])
    parser.add_argument("--posts", type=int, default=1_000_000, help="most posts; 10,000 and its tenfolds are measured")
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long each size is timed")
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load(options.load)
        return
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print("# Growth\n")
    print(machine("torch", "transformers", "pytorch-lightning"))
    print(f"One thread; {options.clock} time.\n")
    for what in options.only:
        if what == "posts":
            posts(options.posts)
        else:
            times(what, options.seconds, options.clock)


if __name__ == "__main__":
    main()
