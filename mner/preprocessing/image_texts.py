"""A growing file of texts by image, a context source: what captioning, naming objects and reading text share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

from mner.data.formats.images import ImageFolder
from mner.errors import DataFormatError, DataNotFoundError
from mner.files import STANDARD, foreign
from mner.growing_file import Growing
from mner.preprocessing.base import StoredRegions, Sweep

Describe = Callable[[Sequence[Any]], Sequence[str]]
"""Images -> one text each; "" where there is nothing to say."""


class ImageTexts:
    """Lines `{"image_id": ..., KEY: ..., "model": ...}`, of which a run that was stopped goes on.

    Args:
        out: The file; `-` is the standard output.
        key: What the text is called: `caption`, or `text`.
        facts: What it is made with, `model` among it; `OUT.mner.json` keeps it.
        inputs: What is read, none of which may be the output.

    Attributes:
        done: Names of the images that have their line.

    Raises:
        DataFormatError: If `out` holds something else, or texts of another model or other options.
    """

    def __init__(
        self, out: Path, key: Literal["caption", "text"], facts: Mapping[str, Any], inputs: Iterable[Path]
    ) -> None:
        self.out = out
        self.key = key
        self.model = str(facts["model"])
        self.done: set[str] = set()
        self._growing = None if str(out) == STANDARD else Growing(out, facts, inputs)
        try:
            if self._growing is not None and out.is_file():
                self.done = self._resume(self._growing.files[out])
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._growing is not None:
            self._growing.close()

    def write(self, image_ids: Sequence[str], texts: Sequence[str]) -> None:
        """Add the texts of some images."""
        for image_id, text in zip(image_ids, texts, strict=True):
            record = {"image_id": image_id, self.key: text, "model": self.model}
            line = json.dumps(record, ensure_ascii=False) + "\n"
            if self._growing is None:
                sys.stdout.write(line)
            else:
                self._growing.write(self.out, line.encode(errors="replace"))
        if self._growing is not None:
            self._growing.flush()

    def _resume(self, file: BinaryIO) -> set[str]:
        """Names of images that have their line. A last line that a kill cut off is removed."""
        file.seek(0)
        raw = file.read()
        end = raw.rfind(b"\n") + 1
        start, rest = b'{"image_id": ', raw[end:]
        if not rest.startswith(start) and not start.startswith(rest):
            raise foreign(self.out, raw[:end].count(b"\n") + 1, repr(rest[:80]))
        done = set()
        for number, line in enumerate(raw[:end].split(b"\n")[:-1], start=1):
            try:
                record = json.loads(line)
                key, by, _ = record["image_id"], record["model"], record[self.key]
            except (ValueError, KeyError, TypeError, RecursionError):
                raise foreign(self.out, number, repr(line[:80])) from None
            if by != self.model:
                found, expected = f"a {self.key} by {by!r}", f"one model in a file ({self.model!r})"
                raise DataFormatError(self.out, number, found, expected, "Name another file.")
            done.add(key)
        if rest:
            file.truncate(end)
        return done


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
        out: See `ImageTexts`.
        key: See `ImageTexts`.
        facts: See `ImageTexts`.
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
    with ImageTexts(out, key, facts, [images.folder]) as texts:
        describe = load()
        sweep = Sweep(images, texts.done, batch_size, num_workers, title=title)
        silent = 0
        for keys, opened in sweep:
            found = describe(opened)
            silent += sum(not text for text in found)
            texts.write(keys, found)
    told = f"\n{silent} of them have no {key}; their lines are empty" if silent else ""
    print(sweep.report() + told, file=sys.stderr)
