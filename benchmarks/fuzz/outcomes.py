"""What became of a broken input, and what must not become of one."""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from breakage import BREAKS

from mner.cli.errors import explain
from mner.errors import DataFormatError

Outcome = tuple[str, str]
"""`read`, `refused`, or what is wrong; and the details of what is wrong."""
READ: Outcome = ("read", "")
REFUSED: Outcome = ("refused", "")

Target = Callable[[random.Random, Path], Callable[[], Outcome]]
"""Makes valid inputs in a folder of its own; gives what breaks one of them and tries it."""


def tried(read: Callable[[], Any], check: Callable[[Any], str] = lambda found: "", where: str = "") -> Outcome:
    """Read an input.

    Args:
        read: Reads it. What it raises must be what the command line would say in one line.
        check: What is lost or wrong in what was read; "" where all is well.
        where: The file, where the error must name it, what was found and what was expected.
    """
    try:
        found = read()
    except DataFormatError as error:
        placed = (error.path == where and error.line is not None) or error.path == f"{where}, as a whole"
        if where and not (placed and error.found and error.expected):
            return "an error that does not say where", str(error)
        return REFUSED
    except Exception as error:
        said = None if where else explain(error)
        return REFUSED if said and said.strip() else (type(error).__name__, traceback.format_exc())
    try:
        lost = check(found)
    except (ValueError, KeyError) as error:  # what was read should have been refused
        lost = repr(error)
    return ("lost something", lost) if lost else READ


def broken(pick: random.Random, raw: bytes, others: list[bytes]) -> bytes:
    """Some bytes, broken once or several times."""
    for _ in range(pick.choice((1, 1, 1, 2, 2, 3, 5))):
        raw = pick.choice(BREAKS)(pick, raw, pick.choice(others)) if raw else raw
    return raw
