"""A post alone: how much longer does a `Tagger` take than the bare encoder on the same word pieces?

    python benchmarks/alone.py [--posts valid.txt] [--encoder FOLDER] [--count 60] [--rounds 9]

The encoder is transformers' own, called with ids and mask in inference mode. Both take each post in turn, twice, and
the second time counts. Processor time of one thread, so that other work on the machine is not in it; the median of the
ratios and their quartiles. The head is untrained, with a bias that makes most words no entity.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from guard import tagger_of
from interleave import machine
from posts import encoder_folder, load


def seconds(call: Any, *arguments: Any) -> float:
    """Of the second call."""
    call(*arguments)
    begun = time.process_time()
    call(*arguments)
    return time.process_time() - begun


def main() -> None:
    """Read the arguments, print a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=Path, help="posts, CoNLL or JSON lines")
    parser.add_argument("--encoder", help="folder of a transformers model")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=9, help="of which the first two are not counted")
    given = parser.parse_args()
    torch.set_num_threads(1)
    posts = [post.words for post in load(given.posts, given.count)]
    with tempfile.TemporaryDirectory() as folder:
        tagger = tagger_of(encoder_folder(given.encoder, Path(folder)))
    bare: Any = tagger.model.text_encoder.model
    pieces = [torch.tensor([tagger.tokenizer.encode(words).ids.tolist()]) for words in posts]

    @torch.inference_mode()
    def encode(ids: torch.Tensor, mask: torch.Tensor) -> None:
        bare(input_ids=ids, attention_mask=mask)

    own, encoder = [], []
    for turn in range(given.rounds):
        for words, ids in zip(posts, pieces, strict=True):
            taken = seconds(tagger, " ".join(words)), seconds(encode, ids, torch.ones_like(ids))
            if turn > 1:
                own.append(taken[0])
                encoder.append(taken[1])
    low, middle, high = statistics.quantiles((one / other for one, other in zip(own, encoder, strict=True)), n=4)
    print(f"{machine('torch', 'transformers')}, one thread; {len(posts)} posts")
    print(
        f"tagger {1e3 * statistics.median(own):.1f} ms, encoder {1e3 * statistics.median(encoder):.1f} ms: "
        f"{middle:.2f} times ({low:.2f}-{high:.2f})"
    )


if __name__ == "__main__":
    main()
