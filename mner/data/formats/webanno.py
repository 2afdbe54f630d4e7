r"""WebAnno TSV 3, the format of INCEpTION and WebAnno: a token a line with its offsets, a post for each sentence.

Source: https://inception-project.github.io/releases/34.0/docs/user-guide.html#sect_formats_webannotsv3
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mner.data.examples import Example
from mner.data.formats.joined import joined
from mner.data.formats.lines import Source, shown
from mner.data.formats.offsets import utf16_lengths
from mner.data.formats.records import UNTYPED, Mark, Notes, Reading, Record
from mner.errors import MNERError
from mner.labels import spans

HEAD = "#FORMAT=WebAnno TSV 3"
ENTITY = "de.tudarmstadt.ukp.dkpro.core.api.ner.type.NamedEntity"
_TOKEN = re.compile(r"(\d+)-(\d+)(\.\d+)?$")
_VALUE = re.compile(r"((?:\\.|[^\\|\[])*)(?:\[(\d+)\])?(?:\||$)", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)")


class _Layer(NamedTuple):
    name: str
    features: list[str]
    first: int


def fits_webanno(source: Source) -> bool:
    """Whether a file says so in its first line."""
    return source.text.startswith("#FORMAT=WebAnno TSV")


def read_webanno(source: Source, reading: Reading, notes: Notes) -> list[Record]:
    """A record for each sentence.

    The layer of named entities is read, or the only one of spans; `fields={"spans": "layer|feature"}` names another.
    Offsets are UTF-16 units, as Java counts.
    """
    if not source.text.startswith(HEAD):
        raise source.fault(1, shown(source.lines[0]), f"{HEAD}.x", "Export as WebAnno TSV v3.")
    column = _column(source, list(_layers(source)), reading, notes)
    records, text, rows, ids = [], [], [], [""]
    for number, line in enumerate([*source.lines, ""], start=1):
        if line.startswith("#Text="):
            text.append(_plain(line.removeprefix("#Text=")))
        elif line.startswith("#Sentence.id="):
            ids[0] = line.partition("=")[2]
        elif _TOKEN.match(line.split("\t")[0]):
            rows.append((number, line.split("\t")))
        elif line and not line.startswith("#"):
            raise source.fault(number, shown(line), "a token: number, offsets, word and annotations with tabs between")
        elif not line and rows:
            records.append(_sentence(source, "\n".join(text), rows, column, notes))
            records[-1].id, ids[0] = ids[0] or None, ""
            text, rows = [], []
    return records


def _layers(source: Source) -> Iterator[_Layer]:
    column = 3
    for line in source.lines:
        kind, _, rest = line.partition("=")
        if kind not in ("#T_SP", "#T_RL", "#T_CH"):
            continue
        name, *features = rest.split("|")
        yield _Layer(name if kind == "#T_SP" else "", features, column)
        column += max(1, len(features)) if kind != "#T_CH" else 2


def _column(source: Source, layers: list[_Layer], reading: Reading, notes: Notes) -> int:
    spans_ = [layer for layer in layers if layer.name]
    wanted, _, feature = (reading.fields.get("spans") or "").partition("|")
    chosen = [
        layer for layer in spans_ if wanted and layer.name.rsplit(".", 1)[-1] in (wanted, wanted.rsplit(".", 1)[-1])
    ]
    if not wanted:
        chosen = [layer for layer in spans_ if layer.name.endswith("NamedEntity")] or spans_
    if len(chosen) != 1:
        named = ", ".join(layer.name for layer in spans_) or "none"
        advice = "Name one: fields={'spans': 'LAYER|FEATURE'}."
        raise source.fault(1, f"the span layers {named}", f"one of named entities, or {wanted or 'one'}", advice)
    (layer,) = chosen
    usual = feature or next((name for name in ("value", "label", "type") if name in layer.features), "")
    if len(layer.features) == 1 and not feature:
        usual = layer.features[0]
    if usual not in layer.features:
        advice = "Name one: fields={'spans': 'LAYER|FEATURE'}."
        raise source.fault(1, f"the features {layer.features} of {layer.name}", "one with the type", advice)
    for other in layers:
        notes.add(f"layer {other.name or 'of relations'}, not read", other is not layer)
    return layer.first + layer.features.index(usual)


def _sentence(source: Source, text: str, rows: list[tuple[int, list[str]]], column: int, notes: Notes) -> Record:
    number, cells = rows[0]
    begin, _ = _offsets(source, number, cells)
    first = text.find(_plain(cells[2]))
    base = begin - sum(utf16_lengths([text[: max(0, first)]]))
    places: list[tuple[int, int]] = []
    marks: list[Mark] = []
    open_: dict[str, Mark] = {}
    for number, cells in rows:
        begin, end = [_characters(text, edge - base) for edge in _offsets(source, number, cells)]
        if text[begin:end] != _plain(cells[2]):
            found = f"{shown(text[begin:end])} at the offsets of {shown(cells[2])}"
            raise source.fault(number, found, "offsets in UTF-16 units that fit the sentence's #Text")
        if "." not in cells[0]:
            places.append((begin, end))
        if column >= len(cells):
            raise source.fault(number, f"{len(cells)} columns", f"at least {column + 1}")
        for value, key in _values(cells[column]):
            if key and key in open_ and open_[key].type == value:
                open_[key] = open_[key]._replace(end=end)
            elif key:
                open_[key] = Mark(begin, end, value)
            else:
                marks.append(Mark(begin, end, value))
    closed = [*marks, *open_.values()]
    notes.add(UNTYPED, sum(mark.type in ("*", "") for mark in closed))
    kept = [mark for mark in closed if mark.type not in ("*", "")]
    return Record(rows[0][0], text=text, words=[text[a:b] for a, b in places], places=places, marks=kept)


def _offsets(source: Source, number: int, cells: list[str]) -> tuple[int, int]:
    begin, _, end = cells[1].partition("-") if len(cells) > 2 else ("", "", "")
    if not (begin.isdigit() and end.isdigit()):
        raise source.fault(
            number, f"{len(cells)} columns, offsets {shown(':'.join(cells[1:2]))}", "offsets such as 0-4"
        )
    return int(begin), int(end)


def _characters(text: str, units: int) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")[: 2 * max(0, units)].decode("utf-16-le", "ignore"))


def _values(cell: str) -> Iterator[tuple[str, str]]:
    """The stacked values of a cell, each with the number that tells it from others; `_` is none."""
    if cell == "_":
        return
    for match in _VALUE.finditer(cell):
        if match.group():
            yield _plain(match[1]), match[2] or ""


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda match: {"t": "\t", "n": "\n", "r": "\r"}.get(match[1], match[1]), text)


def _escaped(text: str) -> str:
    return re.sub(r"->|[\\|\[\]_;*]", r"\\\g<0>", text)


def webanno(posts: Iterable[Example]) -> str:
    """Posts as sentences of one document with the layer of named entities."""
    lines = [f"{HEAD}.3", f"#T_SP={ENTITY}|value", "", ""]
    base = key = 0
    for number, post in enumerate(posts, start=1):
        text, _ = joined(post)
        if post.tags is None:
            raise MNERError(f"Post {post.id!r} has no gold; in WebAnno TSV it would be a post without entities")
        cells = ["_"] * len(post.words)
        for span in spans(post.tags or ()):
            key += 1
            for place in range(span.start, span.end):
                cells[place] = f"{_escaped(span.type)}[{key}]"
        lines += [f"#Sentence.id={post.id}", "#Text=" + text.replace("\\", "\\\\")]
        start = base
        for place, (word, length) in enumerate(zip(post.words, utf16_lengths(post.words), strict=True), start=1):
            token = f"{number}-{place}\t{start}-{start + length}\t{_escaped(word)}\t{cells[place - 1]}\t"
            lines.append(token)
            start += length + 1
        lines.append("")
        base = start
    return "\n".join(lines) + "\n"
