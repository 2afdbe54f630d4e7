"""Damaged stores of features, and damaged pictures."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from outcomes import Outcome, Target, broken, tried
from PIL import Image

from mner.data.formats.feature_store import FeatureStore
from mner.data.formats.feature_writer import FeatureWriter
from mner.data.formats.images import load_image

OPTIONS: dict[str, Any] = {"encoder": "test", "width": 4, "weights": "none", "classes": ["dog"]}


def make_store(kind: Any, folder: Path, finished: bool = True) -> None:
    """Stored features of a few images."""
    counts = [2, 2, 2] if kind == "grid" else [1, 0, 3]
    features = [np.zeros((count, 4), np.float32) for count in counts]
    more: dict[str, Any] = {}
    if kind == "regions":
        more["boxes"] = [np.zeros((count, 4), np.float32) for count in counts]
        more["scores"] = [np.zeros(count, np.float32) for count in counts]
        more["names"] = [["dog"] * count for count in counts]
    with FeatureWriter(folder, kind=kind, **OPTIONS) as writer:
        writer.append(["a", "b", "c"], features, **more)
        if finished:
            writer.finish()


def read_all(folder: Path) -> dict[str, Any]:
    """Every feature of a store."""
    store = FeatureStore(folder)
    _ = store.broken
    return {key: store[key] for key in store}


def go_on(kind: Any, folder: Path) -> dict[str, Any]:
    """Open a store that a run left, add an image and finish it."""
    with FeatureWriter(folder, kind=kind, **OPTIONS) as writer:
        more: dict[str, Any] = {} if kind == "grid" else {"boxes": [[]], "scores": [[]], "names": [[]]}
        if "d" not in writer:
            writer.append(["d"], [np.zeros((2 if kind == "grid" else 0, 4), np.float32)], **more)
        writer.finish()
    return read_all(folder)


def store_target(resumed: bool) -> Target:
    """What breaks one file of a store, and reads it or goes on with it."""

    def target(pick: random.Random, folder: Path) -> Callable[[], Outcome]:
        stores = []
        for kind in ("grid", "regions"):
            for finished in (True, False):
                made = folder / f"{kind}-{finished}"
                make_store(kind, made, finished)
                stores.append((kind, {file.name: file.read_bytes() for file in made.iterdir() if file.name != "lock"}))
        place = folder / "store"
        place.mkdir()

        def once() -> Outcome:
            kind, files = pick.choice(stores)
            name = pick.choice(list(files))
            raw = _other_value(pick, files[name]) if name == "meta.json" and pick.random() < 0.3 else files[name]
            raw = broken(pick, raw, list(files.values()))
            for file, content in {**files, name: raw}.items():
                (place / file).write_bytes(content)
            read = partial(go_on, kind, place) if resumed else partial(read_all, place)
            result, details = tried(read, lambda found: _lost(found, resumed))
            for file in place.iterdir():
                file.unlink()
            return result, details and f"{details}\n{name}: {raw[:500]!r}"

        return once

    return target


def _other_value(pick: random.Random, raw: bytes) -> bytes:
    value = pick.choice((b"0", b"-1", b"1e9", b"true", b"null", b'"4"', b"99999999999999999999", b"[]", b"{}"))
    key = pick.choice((b"width", b"images", b"regions", b"dtype", b"kind", b"complete", b"encoder", b"sizes"))
    return raw.replace(b'"%s": ' % key, b'"%s": %s, "x": ' % (key, value))


def _lost(found: dict[str, Any], resumed: bool) -> str:
    if resumed and "d" not in found:
        return "the image that was added is not there"
    return "" if all(array.ndim == 2 for array in found.values()) else "features of another shape"


def image_target(pick: random.Random, folder: Path) -> Callable[[], Outcome]:
    """Pictures of each format, of which the bytes are broken: an image or a reason, never an exception."""
    valid = []
    for number, (name, mode) in enumerate([*((name, "RGB") for name in FORMATS), ("PNG", "RGBA"), ("PNG", "P")]):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        stream = io.BytesIO()
        exif = Image.Exif()
        exif[274] = 6  # lies on its side
        options = {"exif": exif} if name in ("JPEG", "WEBP") else {}
        Image.fromarray(pixels).convert(mode).save(stream, name, **options)
        valid.append(stream.getvalue())
    path = folder / "a.jpg"

    def once() -> Outcome:
        raw = broken(pick, pick.choice(valid), valid)
        path.write_bytes(raw)
        size = pick.choice((None, 8, 224))
        result, details = tried(lambda: load_image(path, size), _half)
        if result == "read" and load_image(path)[0] is None:
            result = "refused"
        return result, details and f"{details}\n{raw[:500]!r}"

    return once


FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO")


def _half(found: Any) -> str:
    image, reason = found
    if (image is None) == (reason == ""):
        return f"an image and the reason {reason!r}, or neither"
    return "" if image is None or image.mode == "RGB" else image.mode


TARGETS: dict[str, Target] = {
    "stored features": store_target(False),
    "stored features, gone on with": store_target(True),
    "load_image": image_target,
}
