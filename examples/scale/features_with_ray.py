"""Features of a large folder of images on many processors, GPUs or machines, with Ray Data.

    python examples/scale/features_with_ray.py images --output features --encoder resnet152 --workers 8 --gpus 1

The result is one store, as `mner features` writes it. Run again after a stop, it goes on where it was.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from parts import Part, follow, plan, work

from mner.data.formats.feature_store import FeatureStore, FeatureWriter
from mner.data.formats.images import ImageFolder
from mner.errors import MNERError


def cut(images: Path, size: int) -> Iterator[Part]:
    """Parts of so many images each."""
    keys = iter(ImageFolder(images))
    for number, some in enumerate(iter(lambda: list(islice(keys, size)), [])):
        yield {"number": number, "keys": some}


class ExtractPart:
    """A worker that writes a store for each part.

    Args:
        images: Folder of the images.
        output: Folder of the parts.
        options: Of `mner features`.
    """

    def __init__(self, images: str, output: str, options: dict[str, Any]) -> None:
        self.folder = ImageFolder(images)
        self.output = Path(output)
        self.options = options

    def __call__(self, part: Part) -> dict[str, Any]:
        """Extract one part; a store that a worker left unfinished is gone on with."""
        from mner.preprocessing.features import features

        with tempfile.TemporaryDirectory() as links:
            for key in part["keys"]:
                if (path := self.folder.find(key)) is not None:
                    (Path(links) / path.name).symlink_to(path.resolve())
            store = features(Path(links), place(self.output, part), num_workers=0, **self.options)
        return {"part": part["number"], "images": len(store), "broken": len(store.broken)}


def place(folder: Path, part: Part) -> Path:
    """The store of a part."""
    return folder / f"part-{part['number']:06d}"


def is_done(folder: Path, part: Part) -> bool:
    """Whether the store of a part is complete."""
    try:
        FeatureStore(place(folder, part))
    except MNERError:  # not there, unfinished or cut: to be made
        return False
    return True


def join(parts: list[Path], output: Path) -> FeatureStore:
    """One store of the parts, a few images in memory at a time."""
    first = FeatureStore(parts[0])
    made = ("kind", "encoder", "width", "weights", "weights_hash", "transform", "dtype", "classes")
    more = {key: bool(first.meta.get(key)) for key in ("sizes", "groups")}
    with FeatureWriter(output, **{key: first.meta[key] for key in made}, **more) as writer:
        broken = {}
        for path in parts:
            store = FeatureStore(path)
            broken |= store.broken
            keys = (key for key in store if key not in writer)
            for some in iter(lambda keys=keys: list(islice(keys, 100)), []):
                boxes: list[Any] = []
                if store.kind == "regions":
                    boxes = [[found(key) for key in some] for found in (store.boxes, store.scores, store.names)]
                sizes = [store.size(key) for key in some] if more["sizes"] else None
                groups = [store.groups(key) for key in some] if more["groups"] else None
                writer.append(some, [store[key] for key in some], *boxes, sizes=sizes, groups=groups)
        writer.finish(broken)
    return FeatureStore(output)


def main() -> None:
    """Read the arguments, extract."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder")
    parser.add_argument("--output", type=Path, required=True, help="folder of the store")
    parser.add_argument("--encoder", default="resnet152")
    parser.add_argument("--weights", default="pretrained")
    parser.add_argument("--regions", default="none", choices=["none", "torchvision", "detectron2", "random"])
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int, default=5_000, help="images of a part")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cpus", type=float, default=1, help="of a worker")
    parser.add_argument("--gpus", type=float, default=0, help="of a worker, or a part of one")
    parser.add_argument("--address", help="of a Ray cluster, as `auto`")
    options = parser.parse_args()
    images, output = options.images.resolve(), options.output.resolve()
    names = ("encoder", "weights", "regions", "image_size", "batch_size")
    extract = {key: getattr(options, key) for key in names}
    folder = output.with_name(f"{output.name}.parts")
    parts = plan(folder, {"images": images.name, "size": options.size, **extract}, lambda: cut(images, options.size))
    left = [part for part in parts if not is_done(folder, part)]
    print(f"{len(parts)} parts, {len(parts) - len(left)} of them done before", file=sys.stderr)
    if left:
        worker = {"images": str(images), "output": str(folder), "options": extract}
        hands = options.workers, options.cpus, options.gpus, options.address
        follow(work(ExtractPart, worker, left, *hands), "images", len(left))
    store = join([place(folder, part) for part in parts], output)
    shutil.rmtree(folder)
    print(f"{store!r}; {len(store.broken)} images could not be read", file=sys.stderr)


if __name__ == "__main__":
    main()
