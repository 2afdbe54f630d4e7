"""`mner ocr`: the text that is written in the images of a folder, as a text source.

RapidOCR reads it (PP-OCR's networks on ONNX Runtime), whose models come in its package, so that nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from mner.data.formats.images import ImageFolder
from mner.errors import MissingDependencyError
from mner.preprocessing.image_texts import describe_images

MAX_ASPECT = 4
"""Thinner images get a margin: the reader makes their shorter side 736 pixels, so that a banner would take minutes."""


class Line(NamedTuple):
    """A line or a word that was read.

    Attributes:
        text: What it says.
        score: How sure the reader is, 0 to 1.
        box: Left, top, right, bottom in pixels.
    """

    text: str
    score: float
    box: tuple[float, float, float, float]


class TextReader:
    """RGB images -> the text in each, in reading order; "" where there is none.

    Args:
        min_score: What is read with a lower score is left out.

    Raises:
        MissingDependencyError: Without rapidocr.
    """

    def __init__(self, min_score: float = 0.8) -> None:
        if not 0 <= min_score <= 1:
            raise ValueError(f"Expected `min_score` from 0 to 1, but got {min_score}")
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            raise MissingDependencyError(
                "Reading text in images needs rapidocr and onnxruntime: pip install mner[ocr]"
            ) from error
        self.min_score = min_score
        self._engine: Any = RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.text_score": 0.0,  # what is kept is decided here
                "EngineConfig.onnxruntime.intra_op_num_threads": torch.get_num_threads(),
            }
        )

    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """The text in each image, its lines joined by spaces."""
        return [" ".join(" ".join(line.text for line in self.lines(image)).split()) for image in images]

    def lines(self, image: Image.Image) -> list[Line]:
        """What is read in an RGB image, in reading order."""
        found = self._engine(np.asarray(_with_margin(image))[:, :, ::-1].copy())  # blue first
        if found.boxes is None or found.txts is None:
            return []
        boxes = np.asarray(found.boxes, np.float32)  # (n, 4, 2) corners
        edges = np.concatenate([boxes.min(1), boxes.max(1)], axis=1).tolist()
        lines = [
            Line(text, float(score), (left, top, right, bottom))
            for text, score, (left, top, right, bottom) in zip(found.txts, found.scores, edges, strict=True)
            if score >= self.min_score
        ]
        return reading_order(lines)


def reading_order(lines: Sequence[Line]) -> list[Line]:
    """Rows from top to bottom, each from left to right.

    Two lines stand in one row if their middles are less than half of the lower one's height apart. Columns are not told
    apart: their rows are read across.

    >>> right, left, below = (Line(text, 1.0, box) for text, box in [
    ...     ("right", (50, 2, 90, 12)), ("left", (0, 0, 40, 10)), ("below", (0, 20, 40, 30))])
    >>> [line.text for line in reading_order([below, right, left])]
    ['left', 'right', 'below']
    """
    rows: list[list[Line]] = []
    for line in sorted(lines, key=_middle):
        row = rows[-1] if rows else None
        if row and _middle(line) - _middle(row[0]) < min(_height(line), _height(row[0])) / 2:
            row.append(line)
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: line.box[0])]


def ocr(images: Path, out: Path, min_score: float = 0.8, batch_size: int = 16, num_workers: int = 2) -> None:
    """Read the text in all images of a folder.

    Run again, it goes on where it stopped; run with another folder of images and the same `out`, it adds to the file.
    Broken images are reported at the end. The texts are lines `{"image_id": ..., "text": ..., "model": ...}`, with an
    empty text for an image in which nothing is read.

    Args:
        images: Folder with the images.
        out: JSON lines file; `-` is the standard output. It goes on only with the same options and the same version of
            the reader, which OUT.mner.json keeps.
        min_score: What is read with a lower score (0 to 1) is left out.
        batch_size: Images in a batch.
        num_workers: Processes that open images.

    Raises:
        DataNotFoundError: If there are no images.
        DataFormatError: If `out` holds something else, or was made otherwise.
        MissingDependencyError: Without rapidocr.
    """
    reader = TextReader(min_score)
    facts = {"model": f"rapidocr {version('rapidocr')}", "min_score": min_score}
    describe_images(ImageFolder(images), out, "text", facts, lambda: reader, batch_size, num_workers, "text in images")


def _middle(line: Line) -> float:
    return (line.box[1] + line.box[3]) / 2


def _height(line: Line) -> float:
    return line.box[3] - line.box[1]


def _with_margin(image: Image.Image) -> Image.Image:
    shortest = -(-max(image.size) // MAX_ASPECT)
    if min(image.size) >= shortest:
        return image
    wider = Image.new("RGB", (max(image.width, shortest), max(image.height, shortest)), (255, 255, 255))
    wider.paste(image)
    return wider
