"""What was mistyped and what was meant: jsonargparse's answers in one line, with the nearest right names."""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from mner.errors import MNERError

_NOISE = (
    r"Parser key|Expected a path but|Does not validate|Subtypes:|Errors:|Expected a <class 'NoneType'>|Given value"
    r"|Problem with given class_path|Not a valid subclass|Subclass types expect|(an? (class path|dict)) "
)


class UsageError(MNERError):
    """The arguments of a command are wrong."""


class Suggesting(ArgumentParser):
    """A parser whose errors are one line that names the nearest right ones."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a `UsageError`; within the parser of a class's options, whose caller tells more, jsonargparse's own."""
        parser = getattr(ex, "subcommand_parser", None) or self
        short = shorten(message, parser)
        if self.exit_on_error:
            program = parser.prog.replace(" [options]", "")
            command = f" {self.args[0]}" if " " not in program and self.args else ""
            raise UsageError(f"{short} (`{program}{command} --help` lists the options)") from ex
        raise argparse.ArgumentError(None, short) from ex


def near(word: str, allowed: Iterable[str]) -> str:
    """`; did you mean a or b?`, or nothing where none is near."""
    spelled = {name.lower(): name for name in sorted(set(allowed))}
    close = difflib.get_close_matches(word.lower(), spelled, n=3, cutoff=0.6)
    likeness = {name: difflib.SequenceMatcher(None, name, word.lower()).ratio() for name in close}
    best = [spelled[name] for name in close if likeness[name] > max(likeness.values()) - 0.1]
    return f"; did you mean {' or '.join(best)}?" if best else ""


def shorten(message: str, parser: ArgumentParser) -> str:
    """The message of jsonargparse in one line.

    Args:
        message: What it says, in up to twelve lines.
        parser: What was parsed with; knows the options.
    """
    options = sorted({word.lstrip("-") for action in parser._actions for word in action.option_strings})
    if found := re.match(r"unrecognized arguments: (\S+)", message):
        word = found[1].partition("=")[0]
        if not word.startswith("-"):
            return f"unexpected argument {word!r}"
        return f"there is no option {word}" + near(word, [f"--{option}" for option in options])
    if found := re.search(r"(?:Option|does not accept option) '([\w.]+)'", message):
        return f"there is no option {found[1]!r}" + _near_key(found[1], options)
    if found := re.search(r"arguments are required: (.*)", message):
        names = [name.removeprefix(f"{parser.prog.split()[-1]}.") for name in found[1].split(", ")]
        said = "missing: " + ", ".join(re.sub(r"^(fit|validate|test|predict)\.", "--", name) for name in names)
        by_name = [name for name in names if f"--{name}" in (parser.args or ()) and name not in options]
        return said + "".join(f"; it is given by its place, without --{name}" for name in by_name)
    key = re.match(r'Parser key "([\w.]+)"', message)
    return (f"{_called(key[1], parser)}: " if key else "") + _reason(message)


def _called(key: str, parser: ArgumentParser) -> str:
    by_place = any(action.dest == key and not action.option_strings for action in parser._actions)
    return key if by_place else f"--{key}"


def _reason(message: str) -> str:
    given = re.search(r"(?:Given value|Got value): (.*)", message)
    value = given[1] if given else ""
    if found := re.search(r"there is no option .*", message):  # of a class, by its own parser
        return found[0]
    if found := re.search(r"given class_path '([\w.]+)':\s+module '[\w.]+' has no attribute", message):
        module, _, name = found[1].rpartition(".")
        return f"there is no class {found[1]}" + near(name, _public(module))
    if found := re.search(r"Expected a dot import path string: (.*)", message):
        base, known = _classes(message)
        others = f"; there are {', '.join(sorted(known))}" if known and len(known) <= 12 else ""
        return f"there is no {base} named {found[1]!r}" + (near(found[1], known) or others)
    choices = re.findall(r"Expected a typing\.Literal\[(.*?)\]", message)
    kinds = [kind for kind in re.findall(r"Expected a <class '([\w.]+)'>", message) if kind != "NoneType"]
    if choices or kinds:
        allowed = [choice.strip("'\"") for part in choices for choice in part.split(", ")]
        expected = ", ".join(dict.fromkeys([*allowed, *(_KINDS.get(kind, kind) for kind in kinds)]))
        return f"got {value}, expected {expected}" + near(value, allowed)
    lines = [re.sub(r'^Parser key "[\w.]+":', "", line).strip(" -") for line in message.splitlines()]
    told = [line for line in dict.fromkeys(lines) if line and not re.match(_NOISE, line)]
    classes = re.search(r"given class_path '([\w.]+)'", message)
    return (f"{classes[1]}: " if classes else "") + ("; ".join(told) or f"got {value}")


_KINDS = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false"}


def _near_key(key: str, options: list[str]) -> str:
    """Near names for a dotted key: of the whole, or of the first part that is wrong."""
    parts = key.split(".")
    for length in range(1, len(parts) + 1):
        head = ".".join(parts[:length])
        same_level = {".".join(option.split(".")[:length]) for option in options}
        if head not in same_level:
            return near(head, same_level)
    return ""


def _public(module: str) -> list[str]:
    try:
        return [name for name in dir(importlib.import_module(module)) if name[:1].isupper()]
    except ImportError:
        return []


def _classes(message: str) -> tuple[str, set[str]]:
    """The name of the expected class, and the short names of the known classes below it."""
    for path in re.findall(r"([\w.]+\.[\w.]+)", (re.search(r"Subtypes: (.*)", message) or [""])[0]):
        module, _, name = path.rpartition(".")
        try:
            cls: Any = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError):
            continue
        if inspect.isclass(cls):
            return name, set(_below(cls))
    return "class", set()


def _below(cls: Any) -> Iterator[str]:
    for child in cls.__subclasses__():
        if not inspect.isabstract(child) and not child.__name__.startswith("_"):
            yield child.__name__
        yield from _below(child)
