"""Tag schemes: which one a file is in, and its tags as IOB2, which is all that the rest of mner knows.

::

    | scheme | an entity of three words | of one word | |
    |---|---|---|---|
    | IOB2 (BIO) | B I I | B | Tjong Kim Sang and Veenstra (1999) |
    | IOB1 | I I I | I | `B` only where an entity follows one of its own type at once |
    | IOBES (BIOES) | B I E | S | also with `M` for `I`: BMES |
    | BILOU | B I L | U | Ratinov and Roth (2009) |
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from os import PathLike
from sys import intern
from typing import Literal

from mner.data.examples import Example, Posts
from mner.errors import DataFormatError
from mner.labels import repair, split_tag

log = logging.getLogger(__name__)

Scheme = Literal["IOB2", "IOB1", "IOBES", "BILOU"]
SCHEMES: tuple[Scheme, ...] = ("IOB2", "IOB1", "IOBES", "BILOU")
_OWN: dict[str, Scheme] = {"E": "IOBES", "S": "IOBES", "M": "IOBES", "L": "BILOU", "U": "BILOU"}
_LAST, _SINGLE = "EL", "SU"


def split_any_tag(tag: str) -> tuple[str, str]:
    """As `mner.labels.split_tag`, for the letters of every scheme.

    >>> split_any_tag("E-PER"), split_any_tag("O")
    (('E', 'PER'), ('O', ''))

    Raises:
        ValueError: If `tag` is of no scheme.
    """
    letter, dash, type_ = tag.partition("-")
    return (letter, type_) if letter in _OWN and dash and type_ else split_tag(tag)


class SchemeOf:
    """The scheme of one file, from its tags as they are read.

    Args:
        source: The file, for messages.
    """

    def __init__(self, source: str | PathLike[str]) -> None:
        self.source = source
        self.scheme: Scheme | None = None
        self._first: tuple[str, int | str] = "", ""
        self._inner: tuple[str, int | str] | None = None
        self._known: set[str] = set()

    def check(self, number: int | str, tag: str, where: str = "") -> None:
        """Refuse what is no tag, or of another scheme than the tags before it. Each tag is looked at once.

        Args:
            number: The line, or the name of the row.
            tag: The tag.
            where: What to say of the place besides, such as a column.

        Raises:
            DataFormatError: With the line.
        """
        if tag in self._known:
            return
        try:
            letter, _ = split_any_tag(tag)
            good = not any(map(str.isspace, tag))
        except ValueError:
            good = False
        if not good:
            shown = repr(tag if len(tag) <= 60 else f"{tag[:59]}…")
            expected = "O, B-TYPE or I-TYPE (or E-, S-, M- as in IOBES, L-, U- as in BILOU)"
            raise self._fault(number, f"the tag {shown}{where}", expected, "Plain types have to become BIO tags first.")
        self._known.add(tag)
        scheme = _OWN.get(letter)
        if scheme is not None and self.scheme not in (None, scheme):
            self._clash(number, tag, self._first, where)
        if letter in ("M", "I"):
            if self._inner is not None and self._inner[0][0] != letter:
                self._clash(number, tag, self._inner, where)
            self._inner = self._inner or (tag, number)
        if scheme is not None and self.scheme is None:
            self.scheme, self._first = scheme, (tag, number)
        if self.scheme == "BILOU" and self._inner is not None and self._inner[0][0] == "M":
            self._clash(number, tag, self._inner, where)

    def _clash(self, number: int | str, tag: str, first: tuple[str, int | str], where: str) -> None:
        place = f"line {first[1]}" if isinstance(first[1], int) else first[1]
        expected = "tags of one scheme: IOB1, IOB2, IOBES (B I E S, or B M E S) or BILOU"
        advice = "Convert the parts to one scheme."
        raise self._fault(number, f"the tag {tag!r}{where}, after {first[0]!r} in {place}", expected, advice)

    def _fault(self, number: int | str, found: str, expected: str, advice: str) -> DataFormatError:
        if isinstance(number, int):
            return DataFormatError(self.source, number, found, expected, advice)
        return DataFormatError(f"{self.source}, {number}", None, found, expected, advice)

    def convert(self, sequences: Iterable[Sequence[str] | None]) -> tuple[Scheme, list[tuple[str, ...] | None]]:
        """The scheme of all tags, and the tags as IOB2."""
        given = list(sequences)
        scheme = self.scheme or ("IOB1" if is_iob1(tags for tags in given if tags) else "IOB2")
        if scheme != "IOB2":
            log.info("%s: tags in %s, read as IOB2", self.source, scheme)
        return scheme, [None if tags is None else to_iob2(tags, scheme) for tags in given]

    def posts(self, read: Sequence[Example]) -> Posts:
        """Posts with their tags as IOB2, and the scheme that they were in."""
        scheme, converted = self.convert(post.tags for post in read)
        if scheme == "IOB2":
            return Posts(read, scheme)
        return Posts((replace(post, tags=tags) for post, tags in zip(read, converted, strict=True)), scheme)


def is_iob1(sequences: Iterable[Sequence[str]]) -> bool:
    """Whether tags of `B`, `I`, `O` are IOB1: entities begin with `I-`, and each `B-` follows one of its own type.

    >>> is_iob1([["I-PER", "B-PER", "O", "I-LOC"]]), is_iob1([["I-PER", "O", "B-LOC"]]), is_iob1([["O"]])
    (True, False, False)
    """
    begun = False
    for tags in sequences:
        before = ""
        for tag in tags:
            letter, type_ = split_any_tag(tag)
            if letter == "B" and type_ != before:
                return False
            begun = begun or (letter == "I" and type_ != before)
            before = type_
    return begun


def to_iob2(tags: Sequence[str], scheme: Scheme) -> tuple[str, ...]:
    """Tags of a scheme as IOB2. What continues nothing stays an `I-`, as a stray one of IOB2 does.

    >>> to_iob2(["B-LOC", "I-LOC", "E-LOC", "S-PER"], "IOBES")
    ('B-LOC', 'I-LOC', 'I-LOC', 'B-PER')
    >>> to_iob2(["I-PER", "B-PER", "I-PER"], "IOB1")
    ('B-PER', 'B-PER', 'I-PER')
    """
    if scheme == "IOB2":
        return tuple(tags)
    if scheme == "IOB1":
        return tuple(map(intern, repair(tags)))
    found, closed = [], ""  # the type of the entity that ended right before
    for tag in tags:
        letter, type_ = split_any_tag(tag)
        if letter != "O":
            opens = letter == "B" or letter in _SINGLE or type_ == closed
            tag = intern(f"{'B' if opens else 'I'}-{type_}")
        closed = type_ if letter in _LAST or letter in _SINGLE else ""
        found.append(tag)
    return tuple(found)


def from_iob2(tags: Sequence[str], scheme: Scheme) -> tuple[str, ...]:
    """Well-formed IOB2 tags in another scheme.

    >>> from_iob2(["B-LOC", "I-LOC", "I-LOC", "B-PER"], "BILOU")
    ('B-LOC', 'I-LOC', 'L-LOC', 'U-PER')
    >>> from_iob2(["B-PER", "B-PER", "I-PER", "B-LOC"], "IOB1")
    ('I-PER', 'B-PER', 'I-PER', 'I-LOC')
    """
    if scheme not in SCHEMES:
        raise ValueError(f"Expected argument `scheme` to be one of {SCHEMES}, but got {scheme!r}")
    last, single = {"IOBES": ("E", "S"), "BILOU": ("L", "U")}.get(scheme, ("I", "B"))
    found = []
    before = ""
    for tag, following in zip(tags, [*tags[1:], "O"], strict=True):
        letter, type_ = split_tag(tag)
        ends = not (following.startswith("I-") and split_tag(following)[1] == type_)
        if scheme == "IOB1":
            letter = "I" if letter == "B" and type_ != before else letter
        elif ends and letter != "O":
            letter = single if letter == "B" else last
        found.append(f"{letter}-{type_}" if type_ else "O")
        before = type_
    return tuple(found)
