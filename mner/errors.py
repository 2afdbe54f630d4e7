"""Errors that say what was found, where, what was expected and what to do."""

from __future__ import annotations


class MNERError(Exception):
    """Base of every error that `mner` raises on purpose."""


class DataFormatError(MNERError, ValueError):
    """A data file does not say what its format demands.

    Args:
        path: The file.
        line: Line number, counted from 1, or None where the file as a whole is at fault.
        found: What was found there.
        expected: What the format demands.
        advice: What the user can do about it.
    """

    def __init__(self, path: object, line: int | None, found: str, expected: str, advice: str = "") -> None:
        self.path = str(path)
        self.line = line
        self.found = found
        self.expected = expected
        self.advice = advice
        place = self.path if line is None else f"{self.path}:{line}"
        super().__init__(f"{place}: found {found}; expected {expected}." + (f" {advice}" if advice else ""))

    def __reduce__(self) -> tuple[type, tuple[str, int | None, str, str, str]]:
        return type(self), (self.path, self.line, self.found, self.expected, self.advice)


class DataNotFoundError(MNERError, FileNotFoundError):
    """A file or folder that the run needs is not there; the message says where to get it."""


class MissingDependencyError(MNERError, ImportError):
    """An optional dependency is missing; the message names the command that installs it."""


class CheckpointError(MNERError, RuntimeError):
    """A checkpoint or model folder cannot be used; the message says what it lacks."""


class BusyError(MNERError, BlockingIOError):
    """Another process is writing to the same output."""
