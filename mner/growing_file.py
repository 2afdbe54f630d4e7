"""Outputs that a run adds to, and that the next run goes on with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import mner
from mner.errors import DataFormatError, MNERError
from mner.files import REGISTER, Place, foreign, lock, read_json, refuse_inputs, write_json

if TYPE_CHECKING:
    from filelock import BaseFileLock


class Growing:
    """Files that a run adds to, and that the next run goes on with: one writer, the same input, model and options.

    Args:
        path: The output.
        facts: What it is made with, plain data; `OUTPUT.mner.json` keeps it.
        inputs: What is read, none of which may be the output.
        beside: Further outputs, which grow with the first.

    Attributes:
        files: The open files, by path. Their content is to be read from here, and added to by `write`.

    Raises:
        DataFormatError: If there is a file that mner did not begin, or that was begun with other facts.
        MNERError: If the output is an input or a folder.
        BusyError: If another process is writing it.
    """

    def __init__(
        self, path: Path, facts: Mapping[str, Any], inputs: Iterable[Place] = (), beside: Sequence[Path] = ()
    ) -> None:
        self.files: dict[Path, BinaryIO] = {}
        self._lock: BaseFileLock | None = None
        paths = [path, *beside]
        known = list(inputs)
        for one in paths:
            refuse_inputs(one, known)
            if one.is_dir():
                raise MNERError(f"Expected a file to write to, but {one} is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._sidecar = path.with_name(f"{path.name}{REGISTER}")
        self._plain = path.exists() and not path.is_file()  # a device or a pipe
        self._begins: dict[str, str] = {}
        if not self._plain:
            for one in _full(paths):
                if not self._sidecar.exists():
                    raise foreign(one)
            self._lock = lock(path.with_name(f".{path.name}.lock"), path)
        try:
            if not self._plain:
                self._begin(paths, json.loads(json.dumps(facts)))
            self.files = {one: one.open("wb" if self._plain else "a+b") for one in paths}
        except BaseException:
            self.close()
            raise

    def write(self, path: Path, data: bytes) -> None:
        """Add to one of the files; how it begins is noted before its first byte is written."""
        if data and path.name not in self._begins and not self._plain:
            self._begins[path.name] = data[:_HEAD].hex()
            self._note()
        self.files[path].write(data)

    def flush(self) -> None:
        """Hand everything to the system."""
        for file in self.files.values():
            file.flush()

    def close(self) -> None:
        """Close the files and let others write."""
        try:
            for file in self.files.values():
                file.close()
        finally:
            if self._lock is not None:
                self._lock.release()

    def _begin(self, paths: Sequence[Path], facts: dict[str, Any]) -> None:
        self._facts = facts
        full = _full(paths)
        if full:
            sidecar = read_json(self._sidecar)
            was, begins = sidecar.get("facts"), sidecar.get("begins")
            if not isinstance(was, dict) or not isinstance(begins, dict):
                raise foreign(full[0])
            differing = [name for name in {**was, **facts} if was.get(name) != facts.get(name)]
            if differing:
                told = "; ".join(f"{name} {was.get(name)!r}, now {facts.get(name)!r}" for name in differing)
                expected = "the same input, model and options as before"
                raise DataFormatError(full[0], None, f"an output made otherwise ({told})", expected, _ANOTHER)
            self._begins = {name: head for name, head in begins.items() if _is_hex(head)}
        for path in full:
            with path.open("rb") as stream:
                head, begun = stream.read(_HEAD), bytes.fromhex(self._begins.get(path.name, ""))
            if not begun or not (head.startswith(begun) or begun.startswith(head)):
                raise foreign(path, found="another file than the one that mner began there")
        self._begins = {path.name: self._begins[path.name] for path in full}
        self._note()

    def _note(self) -> None:
        write_json(self._sidecar, {"mner": mner.__version__, "facts": self._facts, "begins": self._begins})


def _full(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.exists() and path.stat().st_size]


def _is_hex(text: object) -> bool:
    return isinstance(text, str) and len(text) % 2 == 0 and not text.strip("0123456789abcdef")


_HEAD = 80
_ANOTHER = "Name another file, or remove this one."
