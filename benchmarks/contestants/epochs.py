"""What every contestant of benchmarks/accuracy.py does: train by epochs, keep the predictions of the best on valid.

Standard library only, since it runs in every environment.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Tags = list[list[str]]


def options_of(description: str | None) -> argparse.Namespace:
    """The arguments: posts to learn from, to choose the epoch by, and to tag; encoder, rate, epochs, seed, output."""
    parser = argparse.ArgumentParser(description=description)
    for name in ("train", "valid", "tagged", "encoder", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--rate", type=float, required=True)
    for name in ("epochs", "seed", "batch"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--precision", default="32-true", choices=["32-true", "bf16-mixed"])
    return parser.parse_args()


def entities(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """Spans as seqeval reads them by default: an I- that follows nothing of its type begins one."""
    found, start, kind = set(), 0, ""
    for place, tag in enumerate([*tags, "O"]):
        mark, _, type_ = tag.partition("-")
        if kind and (mark != "I" or type_ != kind):
            found.add((start, place, kind))
            kind = ""
        if mark != "O" and not kind:
            start, kind = place, type_
    return found


def f1(gold: Tags, predicted: Tags) -> float:
    """F1 of entities over all posts."""
    pairs = [(entities(one), entities(other)) for one, other in zip(gold, predicted, strict=True)]
    right = sum(len(one & other) for one, other in pairs)
    total = sum(len(one) + len(other) for one, other in pairs)
    return 2 * right / total if total else 1.0


def run(options: argparse.Namespace, epoch: Callable[[], Any], tag: Callable[[list[dict[str, Any]]], Tags]) -> None:
    """Train, and write the score and the tags of the best epoch.

    Args:
        options: `options_of`.
        epoch: Trains for one.
        tag: Tags of posts, one for each word.
    """
    valid, tagged = (read(Path(name)) for name in (options.valid, options.tagged))
    scores: list[float] = []
    best: Tags = []
    for _ in range(options.epochs):
        epoch()
        found = tag(valid)
        scores.append(f1([post["tags"] for post in valid], found))
        if scores[-1] > max(scores[:-1], default=-1.0):
            best = found if options.tagged == options.valid else tag(tagged)
    new = Path(f"{options.out}.new")
    new.write_text(json.dumps({"f1": max(scores), "epochs": scores, "tags": best}), encoding="utf-8")
    os.replace(new, options.out)


def read(path: Path) -> list[dict[str, Any]]:
    """Posts that `posts.write_plain` wrote."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
