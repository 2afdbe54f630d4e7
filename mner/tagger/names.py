"""Names that are always, or never, entities of a type: lists in files, held to while tags are decoded.

A list restricts which labels a word may have, so that the best path and all probabilities are those of the CRF among
the tag sequences that keep to it. For a name that is always a T: `B-T` at its first word, `I-T` at the others, and no
`I-T` behind it. For one that is never a T: neither `B-T` nor `I-T` at any of its words, so that no longer entity of
this type covers it either. Where names overlap in a text the longest counts alone, of equally long ones the first.

A name is found where it begins and ends with words, written as in the list; white space counts as one space, and what
is not seen (zero-width signs) does not count. So in scripts without spaces it is found where words are characters or
the splitting agrees with it, and never inside of a word.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mner.data.formats.lines import read_lines, shown
from mner.data.word_pieces import FORMAT_CHARACTERS
from mner.data.word_splitter import Word
from mner.errors import DataFormatError, MNERError
from mner.labels import entity_types

ANY = "*"
"""Stands for all types in a rule with `never`."""
_RULES = ("always", "never")


class Rule(NamedTuple):
    """What a list says of a name, and where it says so."""

    name: str
    always: bool
    type: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{_RULES[not self.always]} {self.type}"


class Names:
    """Lists of names.

    Args:
        rules: All rules, in order.
        ignore_case: Whether `anna` is found for `Anna`; else names are found as they are written.

    Raises:
        DataFormatError: If two rules contradict each other; with both lines.
    """

    def __init__(self, rules: Sequence[Rule], ignore_case: bool = False) -> None:
        self.rules = tuple(rules)
        self.ignore_case = ignore_case
        self._of: dict[str, list[Rule]] = {}
        for rule in self.rules:
            known = self._of.setdefault(self._key(rule.name), [])
            other = next((one for one in known if _contradict(one, rule)), None)
            if other is not None:
                found = f"{rule.name!r} as {rule}, which is {other} in {other.file}:{other.line}"
                raise DataFormatError(rule.file, rule.line, found, "rules that hold together", "Remove one of the two.")
            known.append(rule)
        self._longest = max(map(len, self._of), default=0)

    @classmethod
    def read(cls, files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], ignore_case: bool = False) -> Self:
        """Read lists from files.

        A file has a name a line, a tab, `always` or `never`, a tab, and the type (`*` with `never`: any); without the
        middle column it is `always`. `PER=FILE` and `never:PER=FILE` are for plain lists of names of one type. Lines
        without tab that begin with `#` are comments in the former.

        Args:
            files: One or several.
            ignore_case: As for `Names`.

        Raises:
            DataNotFoundError: If there is no such file.
            DataFormatError: If a line is no rule, or contradicts another; with the line.
        """
        given = [files] if isinstance(files, (str, os.PathLike)) else files
        return cls([rule for one in given for rule in _read(os.fspath(one))], ignore_case)

    def check(self, labels: Sequence[str]) -> None:
        """Refuse types that a model does not have.

        Raises:
            DataFormatError: With the line.
        """
        types = entity_types(labels)
        for rule in self.rules:
            if rule.type not in types and rule.type != ANY:
                raise DataFormatError(rule.file, rule.line, f"the type {rule.type!r}", f"one of {', '.join(types)}")

    @property
    def digest(self) -> str:
        """What tells these rules from others."""
        return hashlib.sha256(repr([self.ignore_case, *map(tuple, self.rules)]).encode(errors="replace")).hexdigest()

    def also_as(self, split: Callable[[str], Sequence[Word]]) -> None:
        """Find names in posts that are given as words too: `U.S.` where its words are `U . S .`.

        Args:
            split: How words of the posts came about.
        """
        for key, rules in list(self._of.items()):
            joined = self._key(" ".join(word.text for word in split(rules[0].name)))
            if joined and joined != key:
                self._of.setdefault(joined, rules)
        self._longest = max(map(len, self._of), default=0)

    def find(self, words: Sequence[Word]) -> list[tuple[int, int, list[Rule]]]:
        """The names among the words of a text, from word up to word, and what is said of each; none overlap.

        >>> names = Names([Rule("Old Town", True, "LOC", "list", 1), Rule("Town", False, "LOC", "list", 2)])
        >>> words = [Word("Old", 0, 3), Word("Town", 4, 8), Word("Town", 9, 13)]
        >>> [(start, end, str(rules[0])) for start, end, rules in names.find(words)]
        [(0, 2, 'always LOC'), (2, 3, 'never LOC')]
        """
        folded = [self._key(word.text) for word in words]
        found: list[tuple[str, int, int]] = []  # as it is looked up, from, up to
        for start in range(len(words)):
            key, apart = "", False
            for end in range(start, len(words) if folded[start] else start):  # not from what is not seen
                apart |= end > start and words[end].start > words[end - 1].end
                if folded[end]:
                    key, apart = key + " " * apart + folded[end], False
                if len(key) > self._longest:
                    break
                if key in self._of:
                    found.append((key, start, end + 1))
        kept: list[tuple[int, int, list[Rule]]] = []
        free = [True] * len(words)
        for key, start, end in sorted(found, key=lambda one: (-len(one[0]), one[1])):
            if all(free[start:end]):
                free[start:end] = [False] * (end - start)
                kept.append((start, end, self._of[key]))
        return sorted(kept, key=lambda one: one[0])

    def allowed(self, texts: Sequence[Sequence[Word]], labels: Sequence[str], length: int) -> NDArray[np.bool_] | None:
        """Which labels each word may have (b, w, l), by the names alone; None where there is no name.

        Args:
            texts: The words of each text.
            labels: Names of the labels.
            length: w, of the longest or more.
        """
        found = [self.find(words) for words in texts]
        if not any(found):
            return None
        allowed = np.ones((len(texts), length, len(labels)), dtype=np.bool_)
        for row, of_text in zip(allowed, found, strict=True):
            for start, end, rules in of_text:
                for rule in rules:
                    _restrict(row, start, end, rule, labels)
        return allowed

    def _key(self, text: str) -> str:
        seen = unicodedata.normalize("NFC", " ".join(FORMAT_CHARACTERS.sub("", text).split()))
        return seen.casefold() if self.ignore_case else seen


def _restrict(row: NDArray[np.bool_], start: int, end: int, rule: Rule, labels: Sequence[str]) -> None:
    """Take labels from the words of one name; row (w, l)."""
    if not rule.always:
        for place, label in enumerate(labels):
            if label != "O" and rule.type in (ANY, label[2:]):
                row[start:end, place] = False
        return
    begin, inside = labels.index(f"B-{rule.type}"), labels.index(f"I-{rule.type}")
    row[start:end] = False
    row[start, begin] = True
    row[start + 1 : end, inside] = True
    row[end : end + 1, inside] = False


def _contradict(one: Rule, other: Rule) -> bool:
    if one.always and other.always:
        return one.type != other.type
    return one.always != other.always and (one.type == other.type or ANY in (one.type, other.type))


def _read(given: str) -> Iterator[Rule]:
    head, sign, rest = given.partition("=")
    if sign and not Path(given).exists():
        word, colon, type_ = head.rpartition(":")
        if (colon and word not in _RULES) or not type_:
            raise MNERError(f"Expected FILE, TYPE=FILE or never:TYPE=FILE for a list of names, but got {given!r}")
        yield from _plain(rest, word != "never", type_)
        return
    for number, line in enumerate(read_lines(given), start=1):
        if not line.strip() or (line.startswith("#") and "\t" not in line):
            continue
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) == 2:
            cells.insert(1, "always")
        if len(cells) != 3 or cells[1] not in _RULES or not all(cells) or (cells[1:] == ["always", ANY]):
            advice = "For a plain list of names say the type: PER=FILE, or never:PER=FILE."
            raise DataFormatError(given, number, shown(line), "NAME<TAB>always or never<TAB>TYPE", advice)
        yield _rule(cells[0], cells[1] == "always", cells[2], given, number)


def _plain(file: str, always: bool, type_: str) -> Iterator[Rule]:
    if always and type_ == ANY:
        raise MNERError(f"Expected the type of the names in {file}, but got {ANY!r}, which is for never:{ANY}=FILE")
    for number, line in enumerate(read_lines(file), start=1):
        if "\t" in line:
            raise DataFormatError(file, number, shown(line), "one name a line, without tabs")
        if line.strip():
            yield _rule(line.strip(), always, type_, file, number)


def _rule(name: str, always: bool, type_: str, file: str, number: int) -> Rule:
    if not FORMAT_CHARACTERS.sub("", name).strip():
        raise DataFormatError(file, number, "a name of which nothing is seen", "a name")
    return Rule(name, always, type_, file, number)


Given = Names | str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None


def names_for(given: Given, labels: Sequence[str], split: Callable[[str], Sequence[Word]]) -> Names | None:
    """The names of a tagger: given as such, or by files; fit for its labels and its way to split texts."""
    if given is None:
        return None
    names = given if isinstance(given, Names) else Names.read(given)
    names.check(labels)
    names.also_as(split)
    return names
