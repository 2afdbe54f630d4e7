"""All that a GPU changes, in one table to paste: CRF, training step, bulk tagging, bf16, compile, two GPUs.

    python benchmarks/gpu.py [--rounds 20] [--posts FILE] [--encoder FOLDER] [--batch 32] [--device cuda]

Wall time until the device is done, medians and quartiles over rounds in which the variants take turns; the first two
do not count. Without a GPU it says so in one line and ends with exit code 2. Without `--posts` and `--encoder`:
invented posts and a random BERT of 6 layers of 384. `--device cpu` runs the same code on the processor, which tells of
a GPU nothing but that the code runs. Two processes train by DDP, each on half of a batch; with fewer than two GPUs the
row says so.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from interleave import machine
from posts import encoder_folder, labels_of, load

NO_GPU = 2
Variants = dict[str, Callable[[], object]]
Part = tuple[str, Variants, float]
"""What is measured, its variants (the first is what the others are compared with), and what one run handles."""


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(variants: Variants, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each variant, once a round."""
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 2):
        for name, run in variants.items():
            settle(device)
            start = time.perf_counter()
            run()
            settle(device)
            taken[name].append(time.perf_counter() - start)
    return {name: seconds[2:] for name, seconds in taken.items()}


def row(part: str, name: str, seconds: list[float], base: list[float], amount: float) -> str:
    """A line of the table."""
    ratios = [slow / fast for slow, fast in zip(base, seconds, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    middle = statistics.median(seconds)
    ratio = f"{statistics.median(ratios):.2f} | {low:.2f}-{high:.2f}"
    return f"| {part} | {name} | {middle * 1e3:.2f} | {amount / middle:.0f} | {ratio} |"


def crf(device: torch.device, batch: int) -> Iterator[Part]:
    """The CRF beside pytorch-crf, 48 words and 11 labels."""
    import torchcrf
    from crf import batch_of, loss_and_gradient
    from crf_peers import PEERS

    peer = torchcrf.CRF(11, batch_first=True)
    own, other = PEERS["mner"](peer), PEERS["pytorch-crf"](peer)
    for one in (own, other):
        one.crf.to(device)
    emissions, tags, mask = (tensor.to(device) for tensor in batch_of(batch, 48, 11))
    emissions = emissions.detach().requires_grad_()
    peers = {"pytorch-crf": other, "mner": own}
    yield (
        f"CRF, loss and gradient, {batch} x 48 x 11",
        {name: loss_and_gradient(one, emissions, tags, mask) for name, one in peers.items()},
        batch,
    )
    runs: Variants = {name: lambda one=one: one.decode(emissions, mask) for name, one in peers.items()}
    yield f"CRF, decoding, {batch} x 48 x 11", runs, batch


def one_batch(
    posts: Any, encoder: str, batch: int, device: torch.device, labels: list[str] | None = None
) -> tuple[Any, Any]:
    """A text model on the device and a batch of posts for it; labels, where they are not those of these posts."""
    from mner.data.batching import Collate
    from mner.data.dataset import MNERDataset
    from mner.data.tokenizer import PostTokenizer
    from mner.fusion import TextOnly

    labels = labels or labels_of(posts)
    tokenizer = PostTokenizer(encoder, max_length=128)
    dataset = MNERDataset(posts[:batch], labels, tokenizer)
    torch.manual_seed(0)
    model = TextOnly(labels, text_encoder=encoder).to(device)
    made: Any = Collate(tokenizer.pad_id)(dataset.__getitems__(list(range(len(dataset)))))
    return model, model.transfer_batch_to_device(made, device, 0)


def half(device: torch.device, on: bool = True) -> Any:
    """bf16 by autocast."""
    return torch.autocast(device.type, torch.bfloat16) if on else nullcontext()


def step_of(model: Any, batch: Any, device: torch.device, bf16: bool) -> Callable[[], None]:
    """A training step: loss, gradient, optimiser."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)

    def step() -> None:
        optimizer.zero_grad()
        with half(device, bf16):
            loss = model.training_step(batch, 0)
        (loss["loss"] if isinstance(loss, dict) else loss).backward()
        optimizer.step()

    return step


def training(posts: Any, encoder: str, batch: int, device: torch.device, compiled: bool) -> Iterator[Part]:
    """A step and a forward pass, each also in bf16 and compiled."""
    model, given = one_batch(posts, encoder, batch, device)
    model.log = model.log_dict = lambda *args, **options: None  # no Trainer is there
    model.train()
    steps: Variants = {
        "float32": step_of(model, given, device, False), "bf16": step_of(model, given, device, True)
    }  # fmt: skip
    yield f"training step, {batch} posts", steps, batch
    evaluated, _ = one_batch(posts, encoder, batch, device)
    evaluated.eval()
    fast = torch.compile(evaluated.emissions) if compiled else None

    @torch.inference_mode()
    def forward(emissions: Any, bf16: bool) -> None:
        with half(device, bf16):
            emissions(given)

    runs: Variants = {
        "float32": lambda: forward(evaluated.emissions, False),
        "bf16": lambda: forward(evaluated.emissions, True),
    }
    if fast is not None:
        runs["float32, compiled"] = lambda: forward(fast, False)
        runs["bf16, compiled"] = lambda: forward(fast, True)
    yield f"label scores, {batch} posts", runs, batch


def tagging(posts: Any, encoder: str, batch: int, device: torch.device) -> Iterator[Part]:
    """`Tagger` on all posts."""
    from mner.data.tokenizer import PostTokenizer
    from mner.fusion import TextOnly
    from mner.tagger.tagger import Tagger

    torch.manual_seed(0)
    model = TextOnly(labels_of(posts), text_encoder=encoder)
    with torch.no_grad():
        model.head.bias[0] += 2  # most words are no entities, as after training
    tokenizer = PostTokenizer(encoder, max_length=128)
    tagger = Tagger(model, tokenizer=tokenizer, batch_size=batch, device=str(device), words="whitespace")
    texts = [" ".join(post.words) for post in posts]

    def tag(bf16: bool) -> None:
        with half(device, bf16):
            tagger(texts)

    yield f"bulk tagging, {len(texts)} posts", {"float32": lambda: tag(False), "bf16": lambda: tag(True)}, len(texts)


def two(rank: int, kind: str, address: str, options: dict[str, Any], out: str) -> None:
    """One of two processes that train together; the first writes what its steps took."""
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if kind == "cuda" else "gloo", address, rank=rank, world_size=2)
    posts = load(options["posts"], 2 * options["batch"])
    part = posts[rank::2][: options["batch"] // 2]
    model, batch = one_batch(part, options["encoder"], options["batch"] // 2, device, labels_of(posts))
    model.log = model.log_dict = lambda *args, **given: None
    model.train()
    model.forward = lambda batch: model.training_step(batch, 0)
    shared = torch.nn.parallel.DistributedDataParallel(model, [rank] if kind == "cuda" else None)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)

    def step() -> None:
        optimizer.zero_grad()
        loss = shared(batch)
        (loss["loss"] if isinstance(loss, dict) else loss).backward()
        optimizer.step()

    seconds = timed({"two": step}, options["rounds"], device)["two"]
    if rank == 0:
        Path(out).write_text("\n".join(map(str, seconds)), encoding="utf-8")
    torch.distributed.destroy_process_group()


def two_devices(device: torch.device, options: dict[str, Any], work: Path) -> list[float]:
    """Seconds of a step of two processes, each with half of the batch."""
    address, out = f"file://{work / 'meeting'}", work / "seconds"
    torch.multiprocessing.spawn(two, (device.type, address, options, str(out)), nprocs=2)
    return [float(line) for line in out.read_text(encoding="utf-8").splitlines()]


def main() -> int:
    """Read the arguments, print the table; 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--posts", type=Path, help="posts, CoNLL or JSON lines")
    parser.add_argument("--encoder", help="folder of a transformers model")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--count", type=int, default=1024, help="posts to tag")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--no_compile", action="store_true", help="where there is no C++ compiler")
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no GPU here (torch.cuda.is_available() is False): nothing was measured; `--device cpu` tries the code")
        return NO_GPU
    warnings.filterwarnings("ignore")
    count = torch.cuda.device_count() if device.type == "cuda" else 2
    named = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}; " if device.type == "cuda" else ""
    print(f"{named}{machine('torch', 'transformers', 'pytorch-crf')}; {given.rounds} rounds, wall time\n")
    print("| | | ms | posts a second | times the first | quartiles |\n|---|---|---|---|---|---|")
    posts = load(given.posts, max(given.count, given.batch))
    with tempfile.TemporaryDirectory() as folder:
        encoder = encoder_folder(given.encoder, Path(folder))
        one: list[float] = []
        for parts in (
            crf(device, given.batch),
            training(posts, encoder, given.batch, device, not given.no_compile),
            tagging(posts, encoder, given.batch, device),
        ):
            for part, variants, amount in parts:
                taken = timed(variants, given.rounds, device)
                base = next(iter(taken.values()))
                one = base if part.startswith("training step") else one
                for name, seconds in taken.items():
                    print(row(part, name, seconds, base, amount), flush=True)
        name = f"training step, {given.batch} posts"
        if count < 2:
            print(f"| {name} | two GPUs | not measured: {count} GPU here | | | |")
            return 0
        options = {"posts": given.posts, "encoder": encoder, "batch": given.batch, "rounds": given.rounds}
        print(row(name, "two processes", two_devices(device, options, Path(folder)), one, given.batch), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
