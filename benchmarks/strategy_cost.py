"""What does each strategy cost beside its text-only twin: parameters, and milliseconds a batch?

    python benchmarks/strategy_cost.py [NAME ...] [--seconds 240]

Parameters are those of a BERT-base with regions of ResNet (2048 wide), less those of `TextOnly`; of both, what learns.
Time is this process's CPU time on one thread: the loss of a batch with its gradients, and the label scores of a batch,
without decoding, which all share. Text encoder: BERT of MiniLM's sizes (6 layers, 384 wide), random weights. A batch:
16 posts of 16 words and 24 word pieces, with 49 stored regions; strategies that read texts about the image have two
beside each post, of 16 pieces each, in place of regions. All take turns (`interleave.py`); a ratio is the median of
those within rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from compile import strategies
from interleave import machine, rounds_of, speed

from mner.fusion import FusionModule
from mner.labels import bio_labels

POSTS, PIECES, WORDS, REGIONS, WIDTH, TEXT = 16, 24, 16, 49, 2048, 16
LABELS = bio_labels(["PER", "LOC", "ORG", "MISC"])
TWIN = "TextOnly"
READ_TEXTS = ("CrossViewAlignment", "RetrievalExperts")

BASE = {"model_type": "bert", "vocab_size": 30522}
SMALL = {**BASE, "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


def make(cls: type[FusionModule], encoder: dict[str, Any]) -> FusionModule:
    """A strategy with random weights, for stored regions."""
    torch.manual_seed(0)
    return cls(LABELS, text_encoder=encoder, **({"region_width": WIDTH} if cls.uses_image else {}))


def learning(module: FusionModule) -> int:
    """How many numbers of it learn."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def batch() -> dict[str, Any]:
    """Random posts of one length, with all that a strategy may need."""
    draw = torch.Generator().manual_seed(0)
    corners = torch.rand(POSTS, REGIONS, 2, 2, generator=draw).sort(2).values  # left and top before right and bottom
    return {
        "token_ids": torch.randint(1000, 30000, (POSTS, PIECES), generator=draw),
        "token_mask": torch.ones(POSTS, PIECES, dtype=torch.bool),
        "segment_ids": torch.zeros(POSTS, PIECES, dtype=torch.long),
        "word_starts": torch.arange(1, WORDS + 1).expand(POSTS, WORDS),
        "word_mask": torch.ones(POSTS, WORDS, dtype=torch.bool),
        "tags": torch.randint(0, len(LABELS), (POSTS, WORDS), generator=draw),
        "regions": torch.rand(POSTS, REGIONS, WIDTH, generator=draw),
        "region_mask": torch.ones(POSTS, REGIONS, dtype=torch.bool),
        "region_boxes": corners.flatten(2),
        "region_scores": torch.rand(POSTS, REGIONS, generator=draw),
        "region_group": torch.zeros(POSTS, REGIONS, dtype=torch.long),
        "object_names": [["person", "old car", "dog", "tree"]] * POSTS,
        "relation": torch.rand(POSTS, generator=draw),
        "has_image": torch.ones(POSTS, dtype=torch.bool),
        "words": [("picture",) * WORDS] * POSTS,
        "id": [str(post) for post in range(POSTS)],
        "image_id": [str(post) for post in range(POSTS)],
    }


def with_texts(posts: dict[str, Any]) -> dict[str, Any]:
    """The same posts with two texts beside each."""
    draw = torch.Generator().manual_seed(1)
    sources = torch.tensor([1, 2]).repeat_interleave(TEXT).expand(POSTS, -1)
    longer = {
        "token_ids": torch.randint(1000, 30000, (POSTS, 2 * TEXT), generator=draw),
        "token_mask": torch.ones(POSTS, 2 * TEXT, dtype=torch.bool),
        "segment_ids": torch.ones(POSTS, 2 * TEXT, dtype=torch.long),
    }
    return {
        **posts,
        **{name: torch.cat([posts[name], added], 1) for name, added in longer.items()},
        "context_ids": torch.cat([torch.zeros(POSTS, PIECES, dtype=torch.long), sources], 1),
    }


def train(module: Any, posts: dict[str, Any]) -> None:
    """The loss of a batch, and its gradients."""
    module.zero_grad(set_to_none=True)
    sum(module.train().losses(posts).values()).backward()


@torch.no_grad()
def score(module: Any, posts: dict[str, Any]) -> None:
    """The label scores of a batch."""
    module.eval().label_scores(posts)


def main() -> int:
    """Count, time, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seconds", type=float, default=240)
    given = parser.parse_args()
    torch.set_num_threads(1)
    chosen = {name: cls for name, cls in strategies().items() if name == TWIN or name in (given.names or strategies())}
    count = {name: learning(make(cls, BASE)) for name, cls in chosen.items()}
    posts = batch()
    variants: dict[str, Callable[[], object]] = {}
    for name, cls in chosen.items():
        module, read = make(cls, SMALL), with_texts(posts) if name in READ_TEXTS else posts
        variants |= {f"{name} train": partial(train, module, read), f"{name} score": partial(score, module, read)}
    taken = rounds_of(variants, given.seconds, "cpu")
    print(f"{machine('torch', 'transformers')}, one thread; {len(taken[f'{TWIN} train'])} rounds\n")
    print("| strategy | more parameters, millions | training, ms | times the twin | scoring, ms | times the twin |")
    print("|---|---|---|---|---|---|")
    for name in sorted(chosen, key=lambda name: statistics.median(taken[f"{name} train"])):
        cells = [f"{(count[name] - count[TWIN]) / 1e6:+.1f}"]
        for what in ("train", "score"):
            cells.append(f"{1e3 * statistics.median(taken[f'{name} {what}']):.0f}")
            cells.append(f"{1 / speed(taken, f'{name} {what}', f'{TWIN} {what}')[0]:.2f}")
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
