"""What is known of the sample's pictures: regions of what is drawn, names, and whether it adds to the text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mner.data.formats.feature_writer import FeatureWriter
from mner.data.sample.canvas import OBJECTS, Scene

FEATURES, TAGS, RELATIONS = "objects", "tags.jsonl", "relations.tsv"
"""Names of the folder of stored regions, the file of names, and the file of relations."""

SIDE = 8
WIDTH = 3 * SIDE * SIDE


def write_objects(root: Path, scenes: Mapping[str, Scene], relations: Mapping[str, float]) -> None:
    """Write a store of the drawn objects, a file of their names, and a file of relations.

    A region's features are its pixels, 8 x 8 of three colours from -1 to 1. Scores are 1, since what is drawn is there.

    Args:
        root: Folder of the sample.
        scenes: Pictures by image id.
        relations: 1 for an image without which a type of its post is not known, else 0; by image id.
    """
    about = {"side": SIDE, "of": "what is drawn"}
    options = {"encoder": "pixels of drawn objects", "width": WIDTH, "weights": "none", "classes": OBJECTS}
    with FeatureWriter(root / FEATURES, kind="regions", transform=about, sizes=True, **options) as writer:  # type: ignore[arg-type]
        writer.append(
            list(scenes),
            [np.stack([_pixels(scene.image, thing.box) for thing in scene.things]) for scene in scenes.values()],
            [np.array([thing.box for thing in scene.things]) for scene in scenes.values()],
            [np.ones(len(scene.things)) for scene in scenes.values()],
            [[thing.name for thing in scene.things] for scene in scenes.values()],
            [scene.image.size for scene in scenes.values()],
        )
        writer.finish()
    names = {key: ", ".join(dict.fromkeys(thing.name for thing in scene.things)) for key, scene in scenes.items()}
    lines = [json.dumps({"image_id": key, "text": text}) + "\n" for key, text in names.items()]
    (root / TAGS).write_text("".join(lines), encoding="utf-8")
    values = [f"{key}\t{value:g}\n" for key, value in relations.items()]
    (root / RELATIONS).write_text("".join(values), encoding="utf-8")


def _pixels(image: Image.Image, box: tuple[float, float, float, float]) -> NDArray[np.float32]:
    small = image.resize((SIDE, SIDE), Image.Resampling.BOX, box)
    found: NDArray[np.float32] = np.asarray(small, dtype=np.float32).reshape(-1) / 127.5 - 1
    return found
