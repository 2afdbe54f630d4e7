"""Copy a data folder and give each image to another post: the control for images. Every image stays in use.

python benchmarks/shuffle_images.py data/sample data/sample_shuffled --seed 0
"""

from __future__ import annotations

import argparse
import random
import shutil
from pathlib import Path


def main() -> None:
    """Write the copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path, help="a folder that is not there yet")
    parser.add_argument("--images", default="images", help="the folder of images in it")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shutil.copytree(options.source, options.target)
    names = sorted(path.name for path in (options.source / options.images).iterdir())
    random.Random(options.seed).shuffle(names)
    # Each takes the image of the next in a random cycle, so that nobody keeps its own.
    for name, other in zip(names, [*names[1:], names[0]], strict=True):
        shutil.copyfile(options.source / options.images / other, options.target / options.images / name)
    print(f"{len(names)} images shuffled in {options.target}")


if __name__ == "__main__":
    main()
