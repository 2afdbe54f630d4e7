"""A growing file of texts by image or by post, a context source, or of relations; it needs no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

from mner.errors import DataFormatError
from mner.files import STANDARD, foreign
from mner.growing_file import Growing


class GrowingTexts:
    """Lines `{"image_id": ..., KEY: ..., "model": ...}`, of which a run that was stopped goes on.

    Args:
        out: The file; `-` is the standard output.
        key: What the text is called: `caption`, or `text`; or `relation`, whose values are numbers.
        facts: What it is made with, `model` among it; `OUT.mner.json` keeps it.
        inputs: What is read, none of which may be the output.
        of: What a text is of: `image_id`, or `id` for posts.

    Attributes:
        done: Names of the images, or ids of the posts, that have their line.

    Raises:
        DataFormatError: If `out` holds something else, or texts of another model or other options.
    """

    def __init__(
        self,
        out: Path,
        key: Literal["caption", "text", "relation"],
        facts: Mapping[str, Any],
        inputs: Iterable[Path],
        of: Literal["image_id", "id"] = "image_id",
    ) -> None:
        self.out = out
        self.key = key
        self.of = of
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

    def write(self, names: Sequence[str], texts: Sequence[str | float], more: Sequence[Mapping[str, Any]] = ()) -> None:
        """Add the texts of some images or posts, and what `more` there is to say of each."""
        for name, text, facts in zip(names, texts, more or [{}] * len(names), strict=True):
            record = {self.of: name, self.key: text, "model": self.model, **facts}
            line = json.dumps(record, ensure_ascii=False) + "\n"
            if self._growing is None:
                sys.stdout.write(line)
            else:
                self._growing.write(self.out, line.encode(errors="replace"))
        if self._growing is not None:
            self._growing.flush()

    def _resume(self, file: BinaryIO) -> set[str]:
        """Names of what has its line. A last line that a kill cut off is removed."""
        file.seek(0)
        raw = file.read()
        end = raw.rfind(b"\n") + 1
        start, rest = f'{{"{self.of}": '.encode(), raw[end:]
        if not rest.startswith(start) and not start.startswith(rest):
            raise foreign(self.out, raw[:end].count(b"\n") + 1, repr(rest[:80]))
        done = set()
        for number, line in enumerate(raw[:end].split(b"\n")[:-1], start=1):
            try:
                record = json.loads(line)
                key, by, _ = record[self.of], record["model"], record[self.key]
            except (ValueError, KeyError, TypeError, RecursionError):
                raise foreign(self.out, number, repr(line[:80])) from None
            if by != self.model:
                found, expected = f"a {self.key} by {by!r}", f"one model in a file ({self.model!r})"
                raise DataFormatError(self.out, number, found, expected, "Name another file.")
            done.add(key)
        if rest:
            file.truncate(end)
        return done
