"""From a JPEG file to what an image encoder takes: libraries that decode, on real photographs.

    python benchmarks/decoders.py [--images FOLDER] [--count 60] [--side 0 1200] [--seconds 20]

Each reads the same bytes and ends in the same normalised tensor (224 x 224, cut from a shorter side of 256). Pillow and
torchvision come with mner; simplejpeg and pyvips are compared where they are installed. Difference: of the tensors from
those of every pixel decoded by Pillow, in grey levels (of 255), mean over all and the largest of the pictures' means.
`--side` enlarges the photographs, since those of posts come with 1,200 pixels and more; 0 leaves them. Without
`--images`, pictures are drawn. Processor time of one thread, variants in turns.
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VIPS_CONCURRENCY", "1")

import numpy as np
import torch
from interleave import CLOCKS, machine, rounds_of, speed
from PIL import Image
from torch import Tensor

from mner.data.formats.images import ImageFolder, load_image
from mner.data.transforms import ImageTransform

OURS = ImageTransform(size=224)
Read = Callable[[bytes], Tensor]


def pillow(size: int | None) -> Read:
    """`load_image`, as mner reads images."""

    def read(data: bytes) -> Tensor:
        image, reason = load_image(io.BytesIO(data), size)
        if image is None:
            raise RuntimeError(reason)
        return OURS(image)

    return read


def torchvision_decoder() -> Read:
    """Torchvision's decoder, which has no scaled decoding; resized by Pillow."""
    from torchvision.io import ImageReadMode, decode_jpeg

    def read(data: bytes) -> Tensor:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        pixels = decode_jpeg(encoded, ImageReadMode.RGB, apply_exif_orientation=True)
        return OURS(Image.fromarray(pixels.permute(1, 2, 0).numpy()))

    return read


def torchvision_all() -> Read:
    """Torchvision's decoder and its resizing of tensors, with antialiasing."""
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import functional as f

    mean, std = torch.tensor(OURS.mean).view(3, 1, 1), torch.tensor(OURS.std).view(3, 1, 1)

    def read(data: bytes) -> Tensor:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        pixels = decode_jpeg(encoded, ImageReadMode.RGB, apply_exif_orientation=True)
        small = f.resize(pixels, [OURS.shorter_side], f.InterpolationMode.BICUBIC, antialias=True)
        cut = f.center_crop(small, [OURS.size, OURS.size])
        return cut.float().div_(255).sub_(mean).div_(std)

    return read


def simplejpeg_decoder(fast: bool) -> Read:
    """libjpeg-turbo with decoding at a fraction of the size; `fast` with its less exact transform and upsampling."""
    import simplejpeg

    side = OURS.shorter_side

    def read(data: bytes) -> Tensor:
        pixels = simplejpeg.decode_jpeg(
            data, "RGB", fastdct=fast, fastupsample=fast, min_height=side, min_width=side, min_factor=1
        )
        return OURS(Image.fromarray(pixels))

    return read


def vips() -> Read:
    """libvips: decoded at a fraction of the size, resized and cut by itself."""
    import pyvips

    side = OURS.shorter_side
    mean, std = torch.tensor(OURS.mean).view(3, 1, 1), torch.tensor(OURS.std).view(3, 1, 1)

    def read(data: bytes) -> Tensor:
        # The shorter side becomes `side`: a box that is unbounded the other way, by the header alone.
        head = pyvips.Image.new_from_buffer(data, "")
        tall = head.height > head.width
        small = pyvips.Image.thumbnail_buffer(
            data, side if tall else 100 * side, height=100 * side if tall else side
        )
        left, top = round((small.width - OURS.size) / 2), round((small.height - OURS.size) / 2)
        pixels = small.crop(left, top, OURS.size, OURS.size).numpy()
        if pixels.ndim == 2 or pixels.shape[2] == 1:
            pixels = np.repeat(pixels.reshape(OURS.size, OURS.size, 1), 3, 2)
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div_(255).sub_(mean).div_(std)

    return read


PEERS: dict[str, Callable[[], Read]] = {
    "Pillow, every pixel": lambda: pillow(None),
    "Pillow, draft (mner)": lambda: pillow(OURS.shorter_side),
    "torchvision, resized by Pillow": torchvision_decoder,
    "torchvision, resized by torchvision": torchvision_all,
    "simplejpeg, scaled": lambda: simplejpeg_decoder(False),
    "simplejpeg, scaled, fast transform": lambda: simplejpeg_decoder(True),
    "pyvips": vips,
}


def drawn(count: int) -> list[Image.Image]:
    """Pictures with soft colours and sharp grain, as a camera's."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(count):
        soft = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((352, 264))
        grain = generator.normal(0, 6, (264, 352, 3))
        found.append(Image.fromarray((np.asarray(soft) + grain).clip(0, 255).astype(np.uint8)))
    return found


def encoded(folder: Path | None, count: int, side: int) -> list[bytes]:
    """JPEG files of photographs, as they are or enlarged so that their longer side has `side` pixels."""
    if folder is None:
        pictures = drawn(count)
    else:
        source = ImageFolder(folder)
        keys = [key for key in source if key.lower().endswith((".jpg", ".jpeg"))]
        keys = keys[:: max(1, len(keys) // count)][:count]
        if not side:
            return [path.read_bytes() for path in map(source.find, keys) if path is not None]
        pictures = [picture for picture in map(source.open, keys) if picture is not None]
    files = []
    for picture in pictures:
        factor = side / max(picture.size) if side else 1
        target = round(picture.width * factor), round(picture.height * factor)
        file = io.BytesIO()
        picture.resize(target, Image.Resampling.LANCZOS).save(file, "JPEG", quality=85)
        files.append(file.getvalue())
    return files


def main() -> None:
    """Read the arguments, print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of photographs")
    parser.add_argument("--count", type=int, default=60, help="photographs, spread over the folder")
    parser.add_argument("--side", type=int, nargs="+", default=[0, 1200])
    parser.add_argument("--seconds", type=float, default=20.0, help="about how long each table takes")
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    readers: dict[str, Read] = {}
    for name, make in PEERS.items():
        try:
            readers[name] = make()
        except (ImportError, OSError) as error:
            print(f"left out: {name} ({error})")
    print(f"# Decoding\n\n{machine('torch', 'torchvision', 'pillow', 'simplejpeg', 'pyvips')}")
    scale = 255 * torch.tensor(OURS.std).view(3, 1, 1)
    base = next(iter(readers))
    for side in options.side:
        files = encoded(options.images, options.count, side)
        print(f"\n{len(files)} JPEG files, {f'{side} pixels wide or high' if side else 'as they are'}:\n")
        expected = [readers[base](data) for data in files]
        runs: dict[str, Callable[[], object]] = {
            name: lambda read=read, files=files: [read(data) for data in files]  # type: ignore[misc]
            for name, read in readers.items()
        }
        taken = rounds_of(runs, options.seconds, options.clock)
        print("| | ms a picture | times as fast | quartiles | difference, mean | worst picture |")
        print("|---|---|---|---|---|---|")
        for name, read in readers.items():
            off = [
                float(((read(data) - wanted) * scale).abs().mean())
                for data, wanted in zip(files, expected, strict=True)
            ]
            middle, low, high = speed(taken, name, base)
            milliseconds = sorted(taken[name])[len(taken[name]) // 2] * 1e3 / len(files)
            spread = f"{low:.2f}-{high:.2f} | {sum(off) / len(off):.2f} | {max(off):.2f}"
            print(f"| {name} | {milliseconds:.2f} | {middle:.2f} | {spread} |", flush=True)


if __name__ == "__main__":
    main()
