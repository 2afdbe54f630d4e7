"""Image files and stored features: what a batch costs, against a copy in memory and against plain decoding.

All variants of a table are run one after the other in every round, so that other load on the machine meets each of
them alike. Printed: median time of each, and median and quartiles of its ratio to the first within a round.

    python benchmarks/images.py [--rounds 40] [--images 2000]
"""

from __future__ import annotations

import argparse
import io
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mner.data.formats.feature_store import FeatureStore, FeatureWriter
from mner.data.formats.images import load_image
from mner.data.transforms import ImageTransform

REGIONS, WIDTH, BATCH = 49, 2048, 32


def interleaved(variants: dict[str, Callable[[], object]], rounds: int) -> None:
    """Time every variant once in each round, and print the table."""
    for run in variants.values():  # warm: the page cache, lazy imports
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    base = np.array(seconds[next(iter(variants))])
    print(f"{'':44}{'median ms':>11}{'ratio':>8}  quartiles")
    for name, taken in seconds.items():
        ratios = np.array(taken) / base
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        print(f"{name:44}{np.median(taken) * 1e3:11.3f}{middle:8.2f}  {low:.2f} - {high:.2f}")
    print()


def stored_features(folder: Path, images: int, rounds: int) -> None:
    """A batch of 32 random images of a warm store, put together as collate does."""
    generator = np.random.default_rng(0)
    keys = [str(number) for number in range(images)]
    with FeatureWriter(folder, kind="grid", encoder="benchmark", width=WIDTH) as writer:
        for start in range(0, images, 100):
            some = keys[start : start + 100]
            writer.append(some, [generator.normal(size=(REGIONS, WIDTH)).astype(np.float16) for _ in some])
        writer.finish()
    store = FeatureStore(folder)
    in_memory = {key: store[key].copy() for key in keys}
    one_file_each = {key: folder / f"{key}.npy" for key in keys}
    for key, path in one_file_each.items():
        np.save(path, in_memory[key])
    out = np.empty((BATCH, REGIONS, WIDTH), np.float16)
    floats = np.empty((BATCH, REGIONS, WIDTH), np.float32)

    def batch(source: Callable[[str], np.ndarray], target: np.ndarray) -> Callable[[], None]:
        def run() -> None:
            for row, number in enumerate(generator.integers(0, images, BATCH)):
                target[row] = source(keys[number])

        return run

    size = REGIONS * WIDTH * 2 / 1024
    print(f"Stored features: {BATCH} of {images} images, {REGIONS} x {WIDTH} float16 ({size:.0f} KB each), warm")
    interleaved(
        {
            "copy in memory": batch(in_memory.__getitem__, out),
            "FeatureStore": batch(store.__getitem__, out),
            "one .npy file an image": batch(lambda key: np.load(one_file_each[key]), out),
            "copy in memory, to float32": batch(in_memory.__getitem__, floats),
            "FeatureStore, to float32": batch(store.__getitem__, floats),
        },
        rounds,
    )


def decoding(folder: Path, rounds: int) -> None:
    """One JPEG of 600 x 800 pixels, opened and made a tensor of 224 x 224."""
    from timm.data import create_transform

    small = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    path = folder / "photo.jpg"
    Image.fromarray(small).resize((800, 600), Image.Resampling.BICUBIC).save(path, quality=85)
    ours = ImageTransform(size=224)
    reference = create_transform((3, 224, 224), is_training=False, interpolation="bicubic", crop_pct=0.875)
    data = path.read_bytes()

    def plain() -> torch.Tensor:
        return reference(Image.open(io.BytesIO(data)).convert("RGB"))

    def opened(size: int | None) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            image, reason = load_image(path, size)
            if image is None:
                raise RuntimeError(reason)
            return ours(image)

        return run

    print("Decoding: a JPEG of 800 x 600 to a normalised tensor of 224 x 224")
    interleaved(
        {
            "PIL and timm's transform": plain,
            "load_image, every pixel": opened(None),
            "load_image, draft (the default of mner)": opened(ours.shorter_side),
        },
        rounds,
    )


def main() -> None:
    """Run both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--images", type=int, default=2000, help="in the store; 196 KB each, twice on the disk")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, one thread\n")
    with tempfile.TemporaryDirectory() as folder:
        stored_features(Path(folder), options.images, options.rounds)
        decoding(Path(folder), options.rounds * 2)


if __name__ == "__main__":
    main()
