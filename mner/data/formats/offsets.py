"""What the offsets of a file count, found by the texts that it gives with its spans, and made character offsets."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import get_args

from mner.data.formats.lines import Source, shown
from mner.data.formats.records import Mark, Notes, Offsets, Record

UNITS: tuple[Offsets, ...] = get_args(Offsets)
_CALLED = {"utf-16": "UTF-16 units", "bytes": "bytes"}


def to_characters(source: Source, records: Sequence[Record], given: Offsets | None, notes: Notes) -> None:
    """Make the offsets of all records character offsets of their texts, in place.

    Tools in the browser count an emoji as two (UTF-16), others count bytes. A text may also be written another way than
    when it was marked: with escapes of HTML, or other line ends. The texts of the spans tell which it is, for the file.

    Args:
        source: The file.
        records: Its records; those without text or marks stay as they are.
        given: What the offsets count; None to find out.
        notes: Gets what was found.

    Raises:
        DataFormatError: If the offsets of a record fit its texts in no way.
    """
    marked = [record for record in records if record.text is not None and record.marks]
    units = UNITS if given is None else (given,)
    unit = _unit(marked, units)
    if unit is None and (unit := _unit([_longer(record) for record in marked], units)) is not None:
        for record in marked:
            record.marks = _longer(record).marks
        notes.add("spans given with their last character", sum(len(record.marks or ()) for record in marked))
    if unit is None:
        raise _misfit(source, next(record for record in marked if _fitting(record, units[0]) is None), units[0])
    moved = 0
    for record in marked:
        text = str(_fitting(record, unit))
        if text != record.text:
            escaped = text != (record.text or "").replace("\r\n", "\n").replace("\n", "\r\n")
            notes.add("texts with escapes of HTML, read as what they stand for" if escaped and "&" in str(record.text)
                      else "texts whose line ends count otherwise, read so")  # fmt: skip
        new = [_moved(text, mark, unit) for mark in record.marks or ()]
        if any(mark is None for mark in new):
            raise _misfit(source, record, unit)
        moved += sum(
            mark is not None and mark[:2] != old[:2] for mark, old in zip(new, record.marks or (), strict=True)
        )
        record.text, record.marks = text, [mark for mark in new if mark is not None]
    if unit != "characters":
        notes.add(f"spans moved: offsets count {_CALLED[unit]}", moved)
    elif given is None:
        _doubt(marked, notes)


def _unit(marked: Sequence[Record], units: Sequence[Offsets]) -> Offsets | None:
    """The first unit in which all spans fit."""
    return next((unit for unit in units if all(_fitting(record, unit) is not None for record in marked)), None)


def _longer(record: Record) -> Record:
    """A record whose spans end one further: some tools give the place of the last character."""
    return replace(record, marks=[mark._replace(end=mark.end + 1) for mark in record.marks or ()])


def _fitting(record: Record, unit: Offsets) -> str | None:
    """The text to which the marks fit by the texts that they bring; None if they do not."""
    given = record.text or ""
    tried = dict.fromkeys((given, html.unescape(given), given.replace("\r\n", "\n"), given.replace("\n", "\r\n")))
    for text in tried:
        if all(_fits(text, mark, unit) for mark in record.marks or ()):
            return text
    return None


def _fits(text: str, mark: Mark, unit: Offsets) -> bool:
    if mark.text is None:
        return True
    moved = _moved(text, mark, unit)
    own = mark.text, mark.text.replace("\\n", "\n")  # Label Studio writes line breaks so
    return moved is not None and _bare(text[moved.start : moved.end]) in map(_bare, own)


def _bare(text: str) -> str:
    return "".join(text.split())


def _moved(text: str, mark: Mark, unit: Offsets) -> Mark | None:
    """A mark in characters; None where an edge is within a character, or outside of the text."""
    if unit == "characters" or text.isascii():
        return mark if 0 <= mark.start <= mark.end <= len(text) else None
    encoding, width = ("utf-16-le", 2) if unit == "utf-16" else ("utf-8", 1)
    raw = text.encode(encoding, "surrogatepass")
    if not 0 <= mark.start <= mark.end or mark.end * width > len(raw):
        return None
    try:
        start = len(raw[: mark.start * width].decode(encoding))
        return mark._replace(start=start, end=start + len(raw[mark.start * width : mark.end * width].decode(encoding)))
    except UnicodeDecodeError:
        return None


def _misfit(source: Source, record: Record, unit: Offsets) -> ValueError:
    text = record.text or ""
    for mark in record.marks or ():
        if not _fits(text, mark, unit) or _moved(text, mark, unit) is None:
            there = shown(text[mark.start : mark.end], 30) if 0 <= mark.start <= mark.end <= len(text) else "no text"
            own = "" if mark.text is None else f", but its own text is {shown(mark.text, 30)}"
            found = f"{there} at {mark.start}..{mark.end} of {len(text)} characters, marked {mark.type}{own}"
            return source.fault(record.place, found, "offsets that fit the text, in characters, UTF-16 units or bytes")
    return source.fault(record.place, "offsets that fit its text in no way", "offsets in characters")


def _doubt(marked: Sequence[Record], notes: Notes) -> None:
    """Without texts of spans nothing tells for certain; but spans that cut words only as characters are a sign."""
    cuts = {"characters": 0, "utf-16": 0}
    for record in marked:
        text = record.text or ""
        if any(ord(character) > 0xFFFF for character in text):
            for mark in record.marks or ():
                for unit in ("characters", "utf-16"):
                    moved = _moved(text, mark, unit) if mark.text is None else None
                    if mark.text is None:
                        cuts[unit] += moved is None or any(_within(text, edge) for edge in (moved.start, moved.end))
    if cuts["utf-16"] < cuts["characters"]:
        notes.add(
            f"spans cut words in texts with emoji (as UTF-16 units {cuts['utf-16']:,} would): if the tool counts in "
            "the browser's way, give offsets='utf-16'",
            cuts["characters"],
        )


def _within(text: str, edge: int) -> bool:
    return 0 < edge < len(text) and text[edge - 1].isalnum() and text[edge].isalnum()


def utf16_lengths(words: Sequence[str]) -> Iterator[int]:
    """The length of each word in UTF-16 units."""
    return (len(word.encode("utf-16-le", "surrogatepass")) // 2 for word in words)
