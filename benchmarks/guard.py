"""The ratios that must not fall: a table, and exit code 1 where one is under its floor.

    python benchmarks/guard.py [--seconds 20] [--only crf ...]

Ratios, not times: what mner does and what it is compared with take turns in this process on one thread, by processor
time, so that a slow or busy machine slows both. A floor is 70 % of what was measured (`docs/speed.md`). A ratio under
its floor is measured again, twice at most, and fails only if it is under it each time: noise is not in three
measurements the same, a slower code is. `--seconds` is about how long each takes; with 20 all is done in three minutes,
with 3 in one (`.ci/run`). The encoder is a random BERT of 6 layers of 384, the posts are invented.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch start their pools
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from interleave import machine, rounds_of, speed

SHARE = 0.7
"""Of what was measured that is still well."""
TRIES = 3
Run = Callable[[], object]


class Check(NamedTuple):
    """One ratio.

    Attributes:
        name: What is compared, mner's part first.
        measured: How many times as fast as the other mner's was, on the slowest in it of the machines in
            `docs/speed.md`.
        own: mner's.
        other: What it is compared with.
    """

    name: str
    measured: float
    own: Run
    other: Run

    @property
    def floor(self) -> float:
        """The lowest ratio that passes."""
        return SHARE * self.measured


def crf(work: Path) -> Iterator[Check]:
    """Loss with gradient, and decoding, beside pytorch-crf."""
    import torchcrf
    from crf import batch_of, loss_and_gradient
    from crf_peers import PEERS

    peer = torchcrf.CRF(11, batch_first=True)
    own, other = PEERS["mner"](peer), PEERS["pytorch-crf"](peer)
    given = batch_of(32, 48, 11)
    emissions, _, mask = given
    yield Check(
        "CRF, loss and gradient / pytorch-crf", 4.1, loss_and_gradient(own, *given), loss_and_gradient(other, *given)
    )
    yield Check(
        "CRF, decoding / pytorch-crf", 5.2, lambda: own.decode(emissions, mask), lambda: other.decode(emissions, mask)
    )


def metric(work: Path) -> Iterator[Check]:
    """Counting in batches of 32, as in evaluation, beside seqeval."""
    from metric import LABELS, padded, posts_of
    from seqeval.metrics import f1_score

    from mner.metrics import SpanF1

    gold, pred = posts_of(640)
    names = [[[LABELS[tag] for tag in row] for row in rows] for rows in (gold, pred)]
    parts = []
    for at in range(0, len(gold), 32):
        true = padded(gold[at : at + 32])
        parts.append((padded(pred[at : at + 32]), true, true >= 0))
    counter = SpanF1(LABELS)

    def count() -> float:
        counter.reset()
        for part in parts:
            counter.update(*part)
        return float(counter.compute()["f1"])

    yield Check("SpanF1 / seqeval", 5.8, count, lambda: f1_score(*names))


def tagger_of(encoder: str) -> Any:
    """An untrained tagger, most of whose words are no entities, as after training."""
    from mner.data.tokenizer import PostTokenizer
    from mner.fusion import TextOnly
    from mner.labels import bio_labels
    from mner.tagger.tagger import Tagger

    torch.manual_seed(0)
    model = TextOnly(bio_labels(["PER", "LOC", "ORG", "MISC"]), text_encoder=encoder)
    with torch.no_grad():
        model.head.bias[0] += 2
    return Tagger(model, tokenizer=PostTokenizer(encoder, max_length=128), device="cpu", words="whitespace")


def tagging(work: Path) -> Iterator[Check]:
    """A post alone beside the bare encoder on the same pieces; a list beside its posts one after the other.

    The second by the smallest encoder there is, so that what is measured is the tagger.
    """
    from posts import encoder_folder, load

    posts = [post.words for post in load(None, 64)]
    texts = [" ".join(words) for words in posts]
    tagger = tagger_of(encoder_folder(None, work))
    bare: Any = tagger.model.text_encoder.model
    pieces = [torch.tensor([tagger.tokenizer.encode(words).ids.tolist()]) for words in posts[:4]]
    masks = [torch.ones_like(ids) for ids in pieces]

    @torch.inference_mode()
    def encode() -> None:
        for ids, mask in zip(pieces, masks, strict=True):
            bare(input_ids=ids, attention_mask=mask)

    yield Check("Tagger, a post alone / bare encoder", 0.81, lambda: [tagger(text) for text in texts[:4]], encode)
    small = tagger_of("tiny")
    yield Check("Tagger, a list / one by one", 3.7, lambda: small(texts), lambda: [small(text) for text in texts])


def reading(work: Path) -> Iterator[Check]:
    """Columns read and checked, beside a loop that only splits lines."""
    from posts import load

    from mner.data import read_conll

    file = work / "posts.txt"
    blocks = []
    for post in load(None, 2000):
        rows = zip(post.words, post.tags or (), strict=True)
        blocks.append(f"IMGID:{post.image_id}\n" + "".join(f"{word}\t{tag}\n" for word, tag in rows))
    file.write_text("\n".join(blocks), encoding="utf-8")

    def plain() -> list[list[list[str]]]:
        found: list[list[list[str]]] = [[]]
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                if line.strip():
                    found[-1].append(line.split())
                else:
                    found.append([])
        return found

    yield Check("read_conll / splitting lines", 0.06, lambda: read_conll(file), plain)


CHECKS: dict[str, Callable[[Path], Iterator[Check]]] = {
    "crf": crf, "metric": metric, "tagging": tagging, "reading": reading,
}  # fmt: skip


def passed(check: Check, seconds: float) -> bool:
    """Measure, print a row for each try, and say whether one was at its floor or above."""
    for number in range(1, TRIES + 1):
        gc.freeze()  # what was imported is not searched through again for each new list
        taken = rounds_of({"own": check.own, "other": check.other}, seconds, "cpu")
        best = min(taken["other"]) / min(taken["own"])  # whatever disturbs a run makes it longer
        _, low, high = speed(taken, "own", "other")
        well = best >= check.floor
        said = "" if well else "again" if number < TRIES else "**too slow**"
        spread = f"{low:.2f}-{high:.2f} | {check.floor:.2f} | {check.measured:.2f}"
        print(f"| {check.name} | {best:.2f} | {spread} | {said} |", flush=True)
        if well:
            return True
    return False


def main() -> int:
    """Read the arguments, print the table; 1 where a ratio fell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="about how long each measurement takes")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(f"{machine('torch', 'transformers', 'pytorch-crf', 'seqeval')}; one thread, processor time\n")
    print("| mner / beside | best, times as fast | quartiles of rounds | floor | measured | |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as work:
        found = [passed(check, options.seconds) for name in options.only for check in CHECKS[name](Path(work))]
    if not all(found):
        print(f"\n{found.count(False)} of {len(found)} ratios are under their floor", file=sys.stderr)
    return int(not all(found))


if __name__ == "__main__":
    sys.exit(main())
