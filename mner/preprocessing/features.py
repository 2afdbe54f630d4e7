"""`mner features`: the features of a folder of images, extracted once, kept in a store."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mner.data.formats.feature_format import read_meta
from mner.data.formats.feature_store import FeatureStore, FeatureWriter
from mner.data.formats.images import ImageFolder
from mner.data.inputs import join_names
from mner.data.transforms import transform_for
from mner.encoders.crops import CropEncoder
from mner.encoders.detectors import RegionDetector
from mner.encoders.image import ImageEncoder
from mner.encoders.image_inputs import build_crops, build_detector, detector_weights_of, weights_of
from mner.encoders.weights import weights_hash
from mner.errors import DataNotFoundError
from mner.files import STANDARD, in_folder
from mner.preprocessing.base import Sweep
from mner.runtime import LOWER, Precision, automatic_precision, pick_device

Append = Callable[[FeatureWriter, list[str], list[Any]], None]


def features(
    images: Path,
    out: Path,
    encoder: str = "resnet152",
    weights: str = "pretrained",
    regions: Literal["none", "torchvision", "detectron2", "random"] = "none",
    top_k: int = 10,
    image_size: int | None = None,
    batch_size: int = 32,
    device: str = "auto",
    dtype: Literal["float16", "float32"] = "float16",
    num_workers: int = 2,
    names_out: Path | None = None,
    names_min_score: float = 0.0,
    seed: int = 0,
    crops: int = 0,
    pyramid: bool = False,
    detector_weights: str = "pretrained",
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "32-true",
) -> FeatureStore:
    """Extract the features of all images in a folder, once.

    Run again, it goes on where it stopped. Run with another folder of images and the same `out`, it adds them, so that
    a data set with one folder for each split gets one store. Broken images are reported at the end.

    Args:
        images: Folder with the images.
        out: Folder of the store.
        encoder: timm model for grid features; not used with `regions`.
        weights: `pretrained` (downloaded once), `random` (for trying things out) or a local file of weights.
        regions: Detector for regional features, or `none` for grid features. With `crops`, what finds the boxes.
        top_k: Most regions of an image.
        image_size: Pixels of a side for grid features, in place of the encoder's own.
        batch_size: Images in a batch.
        device: `auto`, `cpu`, `cuda`, ...
        dtype: Type of the stored numbers.
        num_workers: Processes that open images.
        names_out: JSON lines file for the class names of the regions, to be used as context (`person, dog`).
        names_min_score: Names of regions with a lower score are left out of that file.
        seed: Of random weights.
        crops: Encode the whole image and this many crops, the best boxes of the detector `regions` (torchvision if
            `none`), each as one vector by `encoder`.
        pyramid: Vectors are the last four layers of `encoder`, pooled to 2 x 2, not the mean of its last layer's cells.
        detector_weights: With `crops`, the detector's weights, as `weights`.
        precision: What grid features are computed in; `auto`: as the store that is gone on with, else what the device
            does best by a measurement of the encoder. A store has one. Detectors compute in float32.

    Raises:
        DataNotFoundError: If there are no images.
        DataFormatError: If `out` holds features of another kind, encoder or weights.
        CheckpointError: If weights are missing.
    """
    if crops < 0:
        raise ValueError(f"Expected `crops` to be 0 or more, but got {crops}")
    cuts = crops > 0 or pyramid
    if names_out is not None and regions == "none" and not crops:
        raise ValueError("Expected `regions` with `names_out`, since only detected regions have names; got 'none'")
    grids = regions == "none" and not cuts
    if not grids and precision not in ("auto", "32-true"):
        raise ValueError(f"Expected `precision` to be 32-true with `regions` or crops, but got {precision!r}")
    folder = ImageFolder(images)
    if not len(folder):
        raise DataNotFoundError(f"No images in {images}; sub-folders are not searched, so name the folder itself")
    target = pick_device(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: ImageEncoder | RegionDetector
        if cuts:
            kind = "torchvision" if regions == "none" else regions
            finder = build_detector(kind, detector_weights_of(kind, detector_weights), crops) if crops else None
            described: dict[str, Any] = {
                "encoder": encoder,
                "pyramid": {"layers": 4, "side": 2} if pyramid else None,
                "image": asdict(transform_for(encoder, image_size)),
            }
            model = build_crops(described, finder, weights_of(weights))
        elif regions == "none":
            model = ImageEncoder(encoder, weights=weights_of(weights))
        else:
            model = build_detector(regions, detector_weights_of(regions, weights), top_k)
    origin = weights if weights in ("pretrained", "random") else Path(weights).name
    common: dict[str, Any] = {
        "encoder": model.name,
        "width": model.width,
        "weights": "none" if regions == "random" and not cuts else origin,
        "weights_hash": weights_hash(model),
        "dtype": dtype,
    }
    model.to(target)
    if isinstance(model, ImageEncoder):
        transform = transform_for(encoder, image_size)
        folder.size = transform.shorter_side
        if precision == "auto":
            precision = _automatic(model, out, target, transform.size)
            print(f"precision auto: {precision}", file=sys.stderr)
        writer = FeatureWriter(out, kind="grid", transform=asdict(transform), precision=precision, **common)
        append = _append_grids(model, target, dtype, LOWER[precision])
    else:
        transform = None
        described = model.describe()
        if isinstance(model, CropEncoder) and described["detector"] is not None:
            made_by = detector_weights if detector_weights in ("pretrained", "random") else Path(detector_weights).name
            described["detector"]["weights"] = "none" if regions == "random" else made_by
        writer = FeatureWriter(
            out, kind="regions", transform=described, classes=model.classes, sizes=True, groups=cuts, **common
        )
        append = _append_regions(model)
    with writer:
        sweep = Sweep(folder, writer, batch_size, num_workers, transform, f"features by {model.name}")
        for keys, opened in sweep:
            append(writer, keys, opened)
        writer.finish(sweep.broken)
    print(sweep.report(), file=sys.stderr)
    store = FeatureStore(out)
    if names_out is not None:
        write_names(store, names_out, names_min_score)
    return store


def write_names(store: FeatureStore, path: Path, min_score: float = 0.0) -> None:
    """Write the class names of each image's regions as a context source: `{"image_id": "7", "text": "person, dog"}`.

    Names come by falling score, each once. Images without any get no line. `-` is the standard output.
    """
    lines = []
    for key in store:
        text = join_names(store.names(key), store.scores(key).tolist(), min_score)
        if text:
            lines.append(json.dumps({"image_id": key, "text": text}, ensure_ascii=False) + "\n")
    if str(path) == STANDARD:
        sys.stdout.write("".join(lines))
        return
    with in_folder(path) as file:
        file.write("".join(lines).encode())


def _automatic(model: ImageEncoder, out: Path, device: torch.device, size: int) -> Precision:
    """The precision of the store that is gone on with, else what is fastest for this encoder."""
    if (out / "meta.json").exists():
        return read_meta(out).get("precision", "32-true")  # type: ignore[no-any-return]
    few = torch.zeros(4, 3, size, size, device=device)

    @torch.no_grad()
    def seconds(device: torch.device, width: int, training: bool) -> tuple[float, float]:
        times: tuple[list[float], list[float]] = [], []
        for _ in range(3):
            for lower in (False, True):
                start = time.perf_counter()
                with torch.autocast(device.type, torch.bfloat16, enabled=lower):
                    model(few)
                times[lower].append(time.perf_counter() - start)
        return min(times[0]), min(times[1])

    return automatic_precision(device, model.width, False, seconds, f"four images of {size} pixels by {model.name}")


def _append_grids(model: ImageEncoder, device: torch.device, dtype: str, lower: torch.dtype | None) -> Append:
    @torch.no_grad()
    def append(writer: FeatureWriter, keys: list[str], images: list[Tensor]) -> None:
        with torch.autocast(device.type, lower, enabled=lower is not None):
            grids = model(torch.stack(images).to(device))  # (b, r, f)
        writer.append(keys, list(grids.to(getattr(torch, dtype)).cpu().numpy()))

    return append


def _append_regions(model: RegionDetector) -> Append:
    def append(writer: FeatureWriter, keys: list[str], images: list[Any]) -> None:
        found = model.detect(images)
        writer.append(
            keys,
            [regions.features.numpy() for regions in found],
            [regions.boxes.numpy() for regions in found],
            [regions.scores.numpy() for regions in found],
            [regions.names for regions in found],
            [image.size for image in images],
            [np.zeros(len(r.names)) if r.groups is None else r.groups.numpy() for r in found],
        )

    return append
