"""One place for what a user can cause: one line and an exit code for every command; our own faults keep a traceback.

| what happened | exit code | what is said |
|---|---|---|
| input, option, file, disk, device, package, memory | 2 | one line |
| Ctrl-C | 130 | one line, with what can be gone on with |
| the reader of the output went away, as `head` does | 1 | nothing |
| a fault of `mner` | 1 | the traceback, and where to report it |
| a fault in the user's own class | 1 | the traceback |
"""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import mner
from mner.errors import MNERError

USER, INTERRUPTED = 2, 130
LIGHTNING = ("pytorch_lightning", "lightning_fabric")
_AGAIN = "run the same command again to go on where it stopped"
RESUMES = {
    "tag": "run it again with the same output file to go on",
    "fit": "give --ckpt_path the run's checkpoints/last.ckpt to go on, if an epoch was finished",
    **dict.fromkeys(("features", "caption", "benchmark", "search", "data download"), _AGAIN),
}
"""What Ctrl-C leaves to be gone on with, by command; the others are short, or write everything at their end."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C in a run that knows what it can be gone on with; its message says so."""


def guarded(command: str, run: Callable[[], Any]) -> Any:
    """The result of `run`, or an exit code where it ended by what the user can cause.

    Args:
        command: What was called, for the line.
        run: The command.
    """
    try:
        result = run()
        sys.stdout.flush()  # a pipe that nobody reads is noticed here, and not when Python ends
    except KeyboardInterrupt as stop:
        advice = str(stop) if isinstance(stop, Stopped) and command == "fit" else RESUMES.get(command, "")
        return _say(command, f"stopped; {advice}" if advice else "stopped", INTERRUPTED)
    except BrokenPipeError:
        # Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
        return 1
    except Exception as error:  # sorted by who raised what; what no user can cause goes on
        line = explain(error)
        if line is None:
            if _is_ours(error):
                error.add_note(_where_to_report())
            raise
        return _say(command, line, USER)
    return result


def explain(error: BaseException) -> str | None:
    """What to tell the user of an error that they can cause; None for a fault in code, whoever's it is."""
    where, text = _raised_in(error), str(error)
    if isinstance(error, MNERError):
        return text
    if advice := _memory(error):
        return advice
    if found := re.search(r"DataLoader worker(?s:.*)\nmner\.errors\.\w+: (.+)", text):
        return found[1]  # raised in a worker process, which sends the traceback as text
    if isinstance(error, OSError):
        return _of_the_system(error)
    if isinstance(error, UnicodeEncodeError):
        return _of_the_locale(error)
    if isinstance(error, ModuleNotFoundError) and where == "mner" and not str(error.name).startswith("mner"):
        return f"The package {error.name!r} is not installed; `pip install` it (docs/install.md has the extras)"
    if isinstance(error, (ValueError, ModuleNotFoundError)) and where in ("mner", *LIGHTNING):
        return text
    if type(error).__name__ == "MisconfigurationException" or _is_no_metric(error):
        return " ".join(text.split())
    if type(error).__name__ == "SafetensorError" and "os error" in text:
        return text
    # jsonargparse wraps what a constructor raises into a text about types; the error itself is behind its own.
    behind = error.__cause__ or error.__context__
    return explain(behind) if where == "jsonargparse" and behind is not None else None


def _say(command: str, line: str, code: int) -> int:
    print(f"mner {command}: {line}", file=sys.stderr)
    return code


def _of_the_system(error: OSError) -> str | None:
    """The system's word and the file; None for a file of the package itself."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes, Path))]
    if any(_within(name, Path(mner.__file__).parent) for name in names):
        return None
    if error.errno is None or error.strerror is None:  # of a library: it says what it has to say
        return " ".join(str(error).split()) or type(error).__name__
    return ": ".join([error.strerror, *names[-1:]])


def _of_the_locale(error: UnicodeEncodeError) -> str | None:
    if error.encoding.lower().replace("-", "") == "utf8":
        return None
    return (
        f"{error.object!r} cannot be written as {error.encoding}, the encoding of this terminal or locale; "
        "set PYTHONUTF8=1, or a UTF-8 locale"
    )


def _memory(error: BaseException) -> str:
    text = str(error)
    ended = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if ended or "can't allocate memory" in text or "CUDA out of memory" in text:
        said = text.splitlines()[0] if text else "no more memory"
        return f"Out of memory ({said}); take a smaller batch_size, or a smaller model"
    if "DataLoader worker" in text and "killed by signal" in text:
        return f"{text.splitlines()[0]} It may have been short of memory; take fewer num_workers"
    return ""


def _is_no_metric(error: BaseException) -> bool:
    """Whether a callback of Lightning watches a score that is not there."""
    return isinstance(error, RuntimeError) and _raised_in(error) in LIGHTNING and "metric" in str(error)


def _raised_in(error: BaseException) -> str:
    """The package whose code raised an error, such as `mner` or `torch`; empty where it is unknown."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    file = Path(frames[-1].filename)
    if _within(file, Path(mner.__file__).parent):
        return "mner"
    return next((file.relative_to(site).parts[0] for site in _sites() if _within(file, site)), "")


def _is_ours(error: BaseException) -> bool:
    """Whether no code of the user's took part: a class of their own, that a config names."""
    known = [Path(mner.__file__).parent, Path(sysconfig.get_path("stdlib")), *_sites()]
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return all(file.startswith("<") or any(_within(file, place) for place in known) for file in files)


def _sites() -> list[Path]:
    """Where packages are: of this environment, of the user, of the system, of another environment on the path."""
    here = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    return [*here, *(Path(place) for place in sys.path if Path(place).name in ("site-packages", "dist-packages"))]


def _within(file: str | Path, folder: Path) -> bool:
    return Path(file).is_relative_to(folder)


def _where_to_report() -> str:
    try:
        links = metadata.metadata("mner").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:  # run from a checkout
        links = []
    pages = [link.partition(",")[2].strip() for link in links if link.lower().startswith(("issue", "bug"))]
    place = pages[0] if pages else "CONTRIBUTING.md says where"
    return f"This is a fault of mner {mner.__version__}, not of your input; please report it with these lines: {place}"
