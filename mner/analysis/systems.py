"""From arguments of the command line to named systems with their runs."""

from __future__ import annotations

from collections.abc import Sequence
from glob import glob
from pathlib import Path

from mner.data.formats.predictions import Predictions
from mner.data.formats.predictions import read_predictions as read_predictions  # a public name of mner.analysis
from mner.errors import DataNotFoundError, MNERError


class ArgumentError(MNERError, ValueError):
    """An argument of a command that cannot be used; the message says what is expected."""


def load_systems(arguments: Sequence[str]) -> dict[str, list[Predictions]]:
    """Read prediction files: each argument is one system.

    An argument is a file (one run), a folder (each `*.jsonl` in it is a run, one a seed; if there is none, those in
    its `seed*` folders, as `mner benchmark` leaves them), or a quoted pattern such as `"runs/text-*.jsonl"`. `NAME=`
    before it names the system; without, the file's or folder's name does, with as many parent folders as tell the
    systems apart.

    Raises:
        DataNotFoundError: If an argument leads to no file.
        ArgumentError: If two systems have one name.
    """
    named = [_split(argument) for argument in arguments]
    names = [name or path.stem for name, path in named]
    depth = 1
    longest = max((len(path.parts) for _, path in named), default=0)
    while len(set(names)) < len(names) and depth < longest:
        depth += 1
        names = [name or "/".join([*path.parts[-depth:-1], path.stem]) for name, path in named]
    if len(set(names)) < len(names):
        raise ArgumentError(f"Expected a different name for each system, but got {names}; write NAME=PATH")
    return {
        name: [read_predictions(file) for file in _files(path)] for name, (_, path) in zip(names, named, strict=True)
    }


def _split(argument: str) -> tuple[str, Path]:
    name, mark, rest = argument.partition("=")
    if mark and rest and name and "/" not in name and not Path(argument).exists():
        return name, Path(rest)
    return "", Path(argument)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(path.glob("*.jsonl")) or sorted(path.glob("seed*/*.jsonl"))
    else:
        found = sorted(Path(match) for match in glob(str(path)))
    files = [file for file in found if file.is_file()]
    if not files:
        raise DataNotFoundError(
            f"No prediction file at {path}: expected a file, a folder with *.jsonl files, or a pattern that some file "
            "matches. `mner predict` writes prediction files."
        )
    return files
