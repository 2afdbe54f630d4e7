"""Files on disk: written whole or not at all, locked, and where the files of pretrained encoders lie."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

TINY = "tiny"


def locate(name: str) -> str:
    """The folder of the built-in encoder for `"tiny"`, any other name as it is.

    Raises:
        FileNotFoundError: If `name` looks like a path and nothing is there.
    """
    if name == TINY:
        return str(Path(__file__).parent / "encoders" / "tiny")
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_like_path and not Path(name).expanduser().is_dir():
        raise FileNotFoundError(
            f"Expected a transformers folder (config.json, weights, tokeniser) at {name!r}, but it is not there. "
            "Give a folder, a name on the Hugging Face Hub, or 'tiny' for the built-in random encoder."
        )
    return str(Path(name).expanduser()) if looks_like_path else name


def write_json(file: Path, value: Any) -> None:
    """Write `value` as a whole or not at all."""
    replace(file, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def replace(file: Path, text: str) -> None:
    """Write a file so that a kill leaves the old one or the new one."""
    new = file.with_name(f"{file.name}.new")
    with new.open("wb") as stream:
        stream.write(text.encode())
        flush(stream)
    os.replace(new, file)


def flush(file: BinaryIO) -> None:
    """Return when everything is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def lock(path: Path) -> BinaryIO:
    """Hold the store for this process; the system lets go of it when the process ends, however it ends."""
    file = (path / "lock").open("ab")
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise BlockingIOError(f"Another process is writing to {path}; wait for it, or name another folder") from None
    return file
