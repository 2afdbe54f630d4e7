"""Tables as people read them: percent, named columns, intervals in one cell; as Markdown, HTML or plain text."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pandas import DataFrame

PERCENT = {
    "precision": "precision (%)",
    "recall": "recall (%)",
    "f1": "F1 (%)",
    "sd": "sd over runs (points)",
    "gain": "gain (points)",
    "difference": "F1 difference (points)",
    "post_f1_difference": "difference of the mean F1 of a post (points)",
    "se_posts": "se, posts (points)",
    "se_seeds": "se, seeds (points)",
    "changed": "posts changed (%)",
}
COUNTS = ("gold", "predicted", "correct")  # not whole where they are averages over runs
INTERVALS = {("f1_low", "f1_high"): "F1, 95 % interval", ("low", "high"): "interval"}
P_VALUES = {
    "p": "p",
    "p_randomisation": "p of F1, randomisation over posts",
    "p_posts": "p of the mean F1 of a post, paired t-test",
    "p_seeds": "p of F1, paired t-test over seeds",
}
PLAIN = {
    "gold_type": "gold type",
    "predicted_type": "predicted type",
    "t_posts": "t, mean F1 of a post",
    "dz_posts": "dz, F1 of a post",
    "t_seeds": "t, seeds",
    "dz_seeds": "dz, seeds",
}


class Readable(NamedTuple):
    """A table in words: heads, rows of cells, how many leading columns name the row, and which columns are numbers."""

    heads: list[str]
    rows: list[list[str]]
    named: int
    numbers: list[bool]


def readable(frame: DataFrame) -> Readable:
    """The cells of a frame as people read them; the ends of an interval share a cell."""
    heads = [str(name) if name is not None else "" for name in frame.index.names]
    rows = [[str(part) for part in (key if isinstance(key, tuple) else (key,))] for key in frame.index]
    named, numbers = len(heads), [False] * len(heads)
    ends = {low: (low, high) for low, high in INTERVALS if {low, high} <= set(frame.columns)}
    for column in frame.columns:
        if any(column == high for _, high in ends.values()):
            continue
        if column in ends:
            heads.append(INTERVALS[ends[column]])
            pairs = zip(frame[column], frame[ends[column][1]], strict=True)
            cells = ["-" if low != low else f"{100 * low:.2f} to {100 * high:.2f}" for low, high in pairs]
        else:
            heads.append(_head(str(column)))
            cells = [_cell(str(column), value) for value in frame[column]]
        numbers.append(column in ends or frame[column].dtype.kind in "iuf")
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)
    return Readable(heads, rows, named, numbers)


def _head(column: str) -> str:
    if column.endswith("_holm"):
        return f"{P_VALUES.get(column.removesuffix('_holm'), column)}, Holm"
    return PERCENT.get(column) or P_VALUES.get(column) or PLAIN.get(column, column)


def _cell(column: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or value != value:
        return "-"
    if column in PERCENT:
        return f"{100 * value:+.2f}" if column in ("gain", "difference", "post_f1_difference") else f"{100 * value:.2f}"
    if column == "p" or column.startswith("p_"):
        return "< 0.0001" if value < 0.00005 else f"{value:.4f}"
    if column in COUNTS:
        return f"{value:.1f}" if isinstance(value, float) and not value.is_integer() else f"{value:.0f}"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.3f}"
    return f"{value:.0f}" if isinstance(value, float) and abs(value) < 1e15 else str(value)


def markdown(frame: DataFrame) -> str:
    """A Markdown table; `|` in cells is escaped."""
    heads, rows, _, numbers = readable(frame)
    lines = [heads, ["---:" if number else "---" for number in numbers], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def text(frame: DataFrame) -> str:
    """A table for the terminal."""
    heads, rows, _, numbers = readable(frame)
    widths = [max(len(line[place]) for line in [heads, *rows]) for place in range(len(heads))]
    lines = []
    for line in [heads, *rows]:
        padded = zip(line, widths, numbers, strict=True)
        cells = [cell.rjust(width) if number else cell.ljust(width) for cell, width, number in padded]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def html(frame: DataFrame) -> str:
    """An HTML table; everything in it is escaped. A name that the row above has too is not repeated."""
    heads, rows, named, numbers = readable(frame)
    side = [' class="n"' if number else "" for number in numbers]  # numbers to the right, digits in line
    top = "".join(f"<th{kind}>{escape(head)}</th>" for head, kind in zip(heads, side, strict=True))
    body = ""
    before: list[str] = []
    for row in rows:
        same = next((place for place in range(named) if row[: place + 1] != before[: place + 1]), named)
        body += "<tr>" if same else '<tr class="first">'
        for place, cell in enumerate(row):
            element = "th" if place < named else "td"
            shown = "" if place < min(same, named - 1) else escape(cell)
            body += f"<{element}{side[place]}>{shown}</{element}>"
        body += "</tr>"
        before = row
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
