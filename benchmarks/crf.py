"""The CRF against pytorch-crf and other public CRFs, on one CPU thread.

    python benchmarks/crf.py [--seconds 10] [--peers all|none|NAME ...] [--clock cpu|wall] [--only sizes|growth|routes]

Before anything is timed, the loss and the paths are compared with pytorch-crf's. All sequences but one of a batch are
shorter than its width, down to a third.
"""

from __future__ import annotations

import argparse
import os
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch start their pools

from collections.abc import Callable

import torch
import torchcrf
from crf_peers import PEERS, Mner, Torchcrf, available
from interleave import CLOCKS, machine, rounds_of, speed, table
from torch import Tensor

from mner.labels import bio_labels, spans
from mner.nn.crf import CRF

SIZES = [(8, 32, 9), (32, 48, 11), (32, 128, 11), (128, 64, 11), (32, 64, 21)]  # batch, words, labels
GROWTH = {
    "words": [(32, words, 9) for words in (16, 32, 64, 128, 256, 512)],
    "labels": [(32, 48, labels) for labels in (5, 9, 21, 41, 61, 101)],
    "batch": [(batch, 48, 9) for batch in (1, 4, 16, 64, 256)],
}


def batch_of(batch: int, words: int, labels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Emissions (b, w, l), tags (b, w), mask (b, w)."""
    generator = torch.Generator().manual_seed(0)
    emissions = torch.randn(batch, words, labels, generator=generator).requires_grad_()
    tags = torch.randint(labels, (batch, words), generator=generator)
    lengths = torch.randint(max(2, words // 3), words + 1, (batch,), generator=generator)
    lengths[0] = words
    return emissions, tags, torch.arange(words) < lengths[:, None]


def loss_and_gradient(peer: Torchcrf, emissions: Tensor, tags: Tensor, mask: Tensor) -> Callable[[], None]:
    """One training step's share of a CRF."""

    def run() -> None:
        emissions.grad = None
        peer.loss(emissions, tags, mask).backward()

    return run


def compare(size: tuple[int, int, int], names: list[str], seconds: float, clock: str, report: bool) -> list[str]:
    """Time loss and gradient, and decoding, at one size; returns the cells of mner's ratios."""
    torch.manual_seed(0)
    crf = torchcrf.CRF(size[2], batch_first=True)
    peers = {name: PEERS[name](crf) for name in names}
    emissions, tags, mask = batch_of(*size)
    expected = peers["pytorch-crf"].loss(emissions, tags, mask).item()
    paths = peers["pytorch-crf"].decode(emissions, mask)
    cells = []
    for task in ("loss and gradient", "decoding"):
        runs, notes = {}, {}
        for name, peer in peers.items():
            if task == "decoding":
                found = peer.decode(emissions, mask)
                same = sum(a == b for a, b in zip(found, paths, strict=True))
                notes[name] = f"{same} of {len(paths)} paths the same"
                runs[name] = lambda peer=peer: peer.decode(emissions, mask)
            else:
                off = abs(peer.loss(emissions, tags, mask).item() - expected) / abs(expected)
                notes[name] = f"loss off by {off:.0e}"
                runs[name] = loss_and_gradient(peer, emissions, tags, mask)
        taken = rounds_of(runs, seconds, clock)
        if report:
            print(f"### {task}, {size[0]} x {size[1]} x {size[2]}\n")
            table(taken, "pytorch-crf", notes)
        middle, low, high = speed(taken, "mner", "pytorch-crf")
        milliseconds = sorted(taken["mner"])[len(taken["mner"]) // 2] * 1e3
        cells += [f"{milliseconds:.2f}", f"{middle:.2f}", f"{low:.2f}-{high:.2f}"]
    return cells


def routes(seconds: float, clock: str) -> None:
    """What else the CRF does, as times of pytorch-crf's loss with gradient and of its decoding."""
    size, labels = (32, 48, 9), bio_labels(["PER", "LOC", "ORG", "OTHER"])
    crf = torchcrf.CRF(9, batch_first=True)
    emissions, tags, mask = batch_of(*size)
    plain, wide, bio = Mner(crf), Mner(crf), CRF(9, batch_first=True, labels=labels)
    with torch.no_grad():
        wide.crf.transitions[0, 2] = -10_000.0
    entities = [spans([labels[label] for label in path]) for path in bio.decode(emissions, mask)]
    training = {
        "pytorch-crf, loss and gradient": loss_and_gradient(Torchcrf(crf), emissions, tags, mask),
        "mner": loss_and_gradient(plain, emissions, tags, mask),
        "mner, a transition of -10000 (log space)": loss_and_gradient(wide, emissions, tags, mask),
    }
    evaluation = {
        "pytorch-crf, decoding": lambda: crf.decode(emissions, mask),
        "mner": lambda: plain.decode(emissions, mask),
        "mner, BIO constraints": lambda: bio.decode(emissions, mask),
        "mner, marginals": lambda: plain.crf.marginals(emissions, mask),
        "mner, probability of each entity found": lambda: bio.span_probabilities(emissions, mask, entities),
    }
    print(f"## Other routes, {size[0]} x {size[1]} x {size[2]}\n")
    for runs in (training, evaluation):
        table(rounds_of(runs, seconds, clock), next(iter(runs)))


def main() -> None:
    """Read the arguments, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="about how long each comparison takes")
    parser.add_argument("--peers", nargs="*", default=["all"], help=f"all, none, or some of {', '.join(PEERS)}")
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    parser.add_argument("--only", choices=["sizes", "growth", "routes"])
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")  # deprecations inside the peers
    torch.set_num_threads(1)
    print("# Linear-chain CRF\n")
    print(machine("torch", "numpy", "pytorch-crf", "supar", "torchlatent", "allennlp-light", "torch-struct", "flair"))
    print(f"One thread; {arguments.clock} time; sizes are batch x words x labels; ratios over pytorch-crf.\n")
    asked = [] if arguments.peers == ["none"] else list(PEERS) if arguments.peers == ["all"] else arguments.peers
    names = list(available(list(dict.fromkeys(["pytorch-crf", "mner", *asked]))))
    print()
    if arguments.only in (None, "sizes"):
        print("## Sizes of the goals\n")
        for size in SIZES:
            compare(size, names, arguments.seconds, arguments.clock, report=True)
    if arguments.only in (None, "growth"):
        for what, sizes in GROWTH.items():
            print(f"## Growth with {what}\n")
            print(
                "| size | loss + gradient, ms | times as fast | quartiles | decoding, ms | times as fast | quartiles |"
            )
            print("|---|---|---|---|---|---|---|")
            for size in sizes:
                cells = compare(size, ["pytorch-crf", "mner"], arguments.seconds / 2, arguments.clock, report=False)
                print(f"| {' x '.join(map(str, size))} | {' | '.join(cells)} |", flush=True)
            print()
    if arguments.only in (None, "routes"):
        routes(arguments.seconds, arguments.clock)


if __name__ == "__main__":
    main()
