"""Files on disk: the one place that writes outputs, and where the files of pretrained encoders lie.

Three kinds of output, and one rule for all: what `mner` did not begin is never touched.

- A **whole file** (`whole`, `write_text`) is written beside its place and then put there: a kill or a full disk leaves
  the old file or the new one. It says in its first lines that mner made it, and is only then written again.
- A **growing file** (`mner.growing_file`) goes on where a run was stopped. `OUTPUT.mner.json` beside it says with what
  it was begun; with anything else it is refused.
- A **folder** (`output_folder`) gets its files together at the end; `.mner.json` in it lists them with their checksums,
  so that a file of the user's, or one that the user changed, is not replaced.

One process writes at a time: locks are the system's own, so that a killed holder never blocks.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import mner
from mner.errors import BusyError, DataFormatError, MNERError

if TYPE_CHECKING:
    from filelock import BaseFileLock

log = logging.getLogger(__name__)
TINY = "tiny"
STANDARD = "-"
"""Standard input or output, in place of a file."""
REGISTER = ".mner.json"
WAIT = 12.0
"""Seconds to wait for a lock: the workers of a killed run notice within five that it is gone."""
HTML_MARK = '<meta name="generator" content="mner">'
"""What pages of mner have in their head."""

Place = str | os.PathLike[str]


def name_as_text(name: str) -> str:
    """The name of a file as data have it: UTF-8, also where the locale says that names are ASCII (`LC_ALL=C`)."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def name_on_disk(name: str) -> str:
    """What the system calls the file whose name is `name` in data; `name_as_text` gives it back."""
    try:
        return os.fsdecode(name.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # half of a surrogate pair, which no file has
        return name


def cache_folder() -> Path:
    """Where what can be made again is kept: `$MNER_CACHE`, or `mner` in the user's cache folder."""
    chosen = os.environ.get("MNER_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "mner")
    return Path(chosen).expanduser()


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


# Whole files


@contextmanager
def whole(path: Place) -> Iterator[BinaryIO]:
    """A file to write to, which takes its place when the block ends well; else what was there stays.

    A link is followed. A device or a pipe is written to as it is.

    Raises:
        MNERError: If the place is a folder.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise MNERError(f"Expected a file to write to, but {path} is a folder")
    if target.exists() and not target.is_file():
        with target.open("wb") as stream:
            yield stream
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f"{_DRAFT[0]}{uuid.uuid4().hex}{_DRAFT[1]}")  # its own name: others may write here too
    try:
        with new.open("xb") as stream:
            yield stream
            flush(stream)
        os.replace(new, target)
    finally:
        new.unlink(missing_ok=True)


_DRAFT = (".mner-", ".new")


def is_draft(name: str) -> bool:
    """Whether a file is what `whole` had begun when the process was killed."""
    return name.startswith(_DRAFT[0]) and name.endswith(_DRAFT[1])


def write_text(path: Place, text: str, mark: str, inputs: Iterable[Place] = ()) -> None:
    """Write a text that says in its first lines that mner made it, in UTF-8; `-` is the standard output.

    Args:
        path: Where it goes.
        text: The text.
        mark: What stands in its beginning, and must stand in that of a file that is replaced.
        inputs: What was read, none of which may be the output.

    Raises:
        DataFormatError: If there is a file of somebody else.
        MNERError: If the output is one of the inputs.
    """
    if os.fspath(path) == STANDARD:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode(errors="replace"))
        sys.stdout.flush()
        return
    refuse_foreign(path, mark, inputs)
    with whole(path) as stream:
        stream.write(text.encode(errors="replace"))


def refuse_foreign(path: Place, mark: str, inputs: Iterable[Place] = ()) -> None:
    """Say before the work what `write_text` would say after it."""
    if os.fspath(path) == STANDARD:
        return
    refuse_inputs(path, inputs)
    place = Path(path)
    if place.is_dir():
        raise MNERError(f"Expected a file to write to, but {path} is a folder")
    if place.is_file():
        with place.open("rb") as stream:
            head = stream.read(4096)
        if head and mark.encode() not in head:
            raise foreign(place)


def foreign(path: Path, number: int | None = None, found: str = "a file that mner did not write") -> DataFormatError:
    """The error of an output that is not ours."""
    return DataFormatError(path, number, found, "a new file, or an output of this command", "Name another file.")


def refuse_inputs(path: Place, inputs: Iterable[Place]) -> None:
    """Refuse an output that is one of the inputs, whatever it is called there; standard output and input are two.

    Raises:
        MNERError: If it is: by another spelling, a link, a hard link, other letter case where that is the same file.
    """
    for one in () if str(path) == STANDARD else inputs:
        try:
            same = os.path.samefile(path, one)
        except (OSError, ValueError):  # one of them is not there
            same = os.path.realpath(path) == os.path.realpath(one)
        if same:
            raise MNERError(f"The output {path} is an input ({one}); name another file")


def write_json(file: Path, value: Any) -> None:
    """Write `value` as a whole or not at all."""
    replace(file, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def replace(file: Path, text: str) -> None:
    """Write a file of our own so that a kill leaves the old one or the new one."""
    with whole(file) as stream:
        stream.write(text.encode())


def flush(file: BinaryIO) -> None:
    """Return when everything is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def digest(path: Place) -> str:
    """SHA-256 of a file, or of all files below a folder with their names; a name that is neither, as it is."""
    place = Path(path)
    if place.is_file():
        with place.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    if not place.is_dir():
        return os.fspath(path)
    files = sorted(file for file in place.rglob("*") if file.is_file() and not file.name.startswith(".mner"))
    listed = "".join(f"{file.relative_to(place).as_posix()!r} {digest(file)}\n" for file in files)
    return hashlib.sha256(listed.encode()).hexdigest()


# One writer at a time


def lock(file: Path, what: object | None = None) -> BaseFileLock:
    """Let no second process write here, until `release()` or the end of this process, however it ends.

    Args:
        file: The file that stands for the lock; it stays.
        what: What messages call the output; the lock's folder if not given.

    Raises:
        BusyError: If another process holds it for longer than `WAIT` seconds.
    """
    from filelock import FileLock, Timeout

    held = FileLock(str(file), thread_local=False)
    found = f"Another process is writing to {what or file.parent}"
    try:
        held.acquire(timeout=0)
    except Timeout:
        log.warning("%s; waiting up to %g seconds for its end", found, WAIT)
        try:
            held.acquire(timeout=WAIT, poll_interval=0.1)
        except Timeout:
            raise BusyError(f"{found}; wait for it, or name another place") from None
    return held


# Folders


@contextmanager
def output_folder(out: Place, check: Callable[[Path], object] = lambda place: None) -> Iterator[Path]:
    """A folder to write files to, below which they take their places in `out` when the block ends well.

    Files that mner wrote there before are replaced, others stay; a name that is taken by a file of somebody else is
    refused before anything is replaced.

    Args:
        out: The folder; made if it is not there.
        check: Called with `out` once no other process writes there.

    Raises:
        DataFormatError: If a name is taken.
        MNERError: If the place is a file.
        BusyError: If another process is writing there.
    """
    place = Path(out)
    if place.exists() and not place.is_dir():
        raise MNERError(f"Expected a folder to write to, but {place} is a file")
    if str(out) == STANDARD:
        raise MNERError("Several files cannot go to the standard output (-); name a folder")
    place.mkdir(parents=True, exist_ok=True)
    held, draft = lock(place / ".mner.lock", place), place / ".mner-draft"
    try:
        check(place)
        shutil.rmtree(draft, ignore_errors=True)  # of a run that was killed
        draft.mkdir()
        yield draft
        _publish(draft, place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        held.release()


@contextmanager
def in_folder(path: Place) -> Iterator[BinaryIO]:
    """A file to write to, of a format that cannot say who made it: it takes its place as `output_folder` puts it there.

    A device or a pipe is written to as it is; `-` is the standard output.

    Raises:
        DataFormatError: If there is a file that mner did not write, or that somebody changed since.
        BusyError: If another process is writing in its folder.
    """
    target = Path(path)
    if str(path) == STANDARD:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    if target.exists() and not target.is_file() and not target.is_dir():
        with whole(target) as stream:
            yield stream
        return
    with output_folder(target.parent) as place, (place / target.name).open("xb") as stream:
        yield stream


def _publish(draft: Path, place: Path) -> None:
    names = sorted(file.relative_to(draft).as_posix() for file in draft.rglob("*") if file.is_file())
    noted = read_json(place / REGISTER).get("files")
    listed = noted.items() if isinstance(noted, dict) else ()  # somebody may have changed the register too
    known: dict[str, list[str]] = {name: was for name, was in listed if isinstance(was, list)}
    for name in names:
        target, was = place / name, known.get(name, [])
        if os.path.lexists(target) and (target.is_dir() or digest(target) not in was):
            found = "a file that mner wrote and somebody changed" if was else "something that mner did not write"
            raise DataFormatError(target, None, found, "a free name", "Move it away, or name another folder.")
    for name in names:
        with (draft / name).open("rb+") as stream:
            os.fsync(stream.fileno())
        # Both checksums, until the next time: a kill may come before the file is in its place, more than once.
        here = [digest(place / name)] if (place / name).is_file() else []
        known[name] = list(dict.fromkeys([digest(draft / name), *here]))
    write_json(place / REGISTER, {"mner": mner.__version__, "files": known})
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(draft / name, place / name)


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file of ours; empty if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):  # brackets by the thousand
        return {}
    return found if isinstance(found, dict) else {}
