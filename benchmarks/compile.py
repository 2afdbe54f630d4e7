"""Does every strategy give the same emissions under torch's real compiler, and what does it gain?

    python benchmarks/compile.py [NAME ...] [--rounds 20]

The tests trace strategies with `torch.compile(backend="eager")` (`mner.testing.check_fusion`); here they are compiled
(inductor, which needs a C++ compiler), on batches of the sample data, in evaluation mode, on one thread. Exit code 1 if
emissions differ by more than 1e-4.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

import mner.fusion
from mner.data import SampleDataModule
from mner.fusion import FusionModule


def strategies() -> dict[str, type[FusionModule]]:
    """Every public strategy by name."""
    found = {name: getattr(mner.fusion, name) for name in mner.fusion.__all__}
    return {
        name: cls
        for name, cls in found.items()
        if isinstance(cls, type) and issubclass(cls, FusionModule) and cls is not FusionModule
    }


def batches(cls: type[FusionModule]) -> tuple[FusionModule, list[Any]]:
    """A model with random weights, and two batches of different shapes."""
    images: dict[str, Any] = {"images": "images", "image_encoder": "test_resnet", "image_size": 64}
    data = SampleDataModule(batch_size=16, **(images if cls.uses_image else {}))
    data.setup("validate")
    encoder: dict[str, Any] = {"image_encoder": "test_resnet", "image_weights": None}
    torch.manual_seed(0)
    model = cls(labels=data.labels, **(encoder if cls.uses_image else {})).eval()
    found = list(data.val_dataloader())
    return model, [found[0], found[-1]]


def median(call: Any, batch: Any, rounds: int) -> float:
    """Seconds of one call."""
    taken = []
    for _ in range(rounds):
        begun = time.perf_counter()
        call(batch)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def main() -> int:
    """Compile, compare, time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(1)
    worst = 0.0
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread, batches of 16 posts")
    print("| strategy | largest difference | plain, ms | compiled, ms | ratio |\n|---|---|---|---|---|")
    for name, cls in strategies().items():
        if given.names and name not in given.names:
            continue
        model, some = batches(cls)
        torch._dynamo.reset()
        compiled = torch.compile(model.emissions)
        with torch.no_grad():
            difference = max(float((compiled(batch) - model.emissions(batch)).abs().max()) for batch in some)
            plain, fast = (median(call, some[0], given.rounds) for call in (model.emissions, compiled))
        worst = max(worst, difference)
        cells = f"{difference:.1e} | {1000 * plain:.1f} | {1000 * fast:.1f} | {plain / fast:.2f}"
        print(f"| {name} | {cells} |", flush=True)
    return int(worst > 1e-4)


if __name__ == "__main__":
    sys.exit(main())
