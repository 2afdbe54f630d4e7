"""Texts of a folder of images, a context source: what captioning, naming objects and reading text share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mner.data.formats.images import ImageFolder
from mner.errors import DataNotFoundError
from mner.preprocessing.base import StoredRegions, Sweep
from mner.preprocessing.growing_texts import GrowingTexts

Describe = Callable[[Sequence[Any]], Sequence[str]]
"""Images -> one text each; "" where there is nothing to say."""


def describe_images(
    images: ImageFolder | StoredRegions,
    out: Path,
    key: Literal["caption", "text"],
    facts: Mapping[str, Any],
    load: Callable[[], Describe],
    batch_size: int,
    num_workers: int,
    title: str,
) -> None:
    """Describe all images of a folder or store, and report what was done and which images are broken.

    Args:
        images: The images, or the regions of each.
        out: See `GrowingTexts`.
        key: See `GrowingTexts`.
        facts: See `GrowingTexts`.
        load: Gives what describes images; called once the output is known to be ours.
        batch_size: Images in a batch.
        num_workers: Processes that open images.
        title: Words before the progress bar.

    Raises:
        DataNotFoundError: If there are no images.
        DataFormatError: If `out` holds something else, or texts of another model or other options.
    """
    if not len(images):
        advice = "sub-folders are not searched, so name the folder itself"
        raise DataNotFoundError(f"No images in {images.folder}; {advice}")
    with GrowingTexts(out, key, facts, [images.folder]) as texts:
        describe = load()
        sweep = Sweep(images, texts.done, batch_size, num_workers, title=title)
        silent = 0
        for keys, opened in sweep:
            found = describe(opened)
            silent += sum(not text for text in found)
            texts.write(keys, found)
    told = f"\n{silent} of them have no {key}; their lines are empty" if silent else ""
    print(sweep.report() + told, file=sys.stderr)
