"""Figures of the analyses. Each takes a table and returns a matplotlib `Figure`, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame


# Okabe and Ito's colours, which people with any kind of colour vision tell apart; the marker differs too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"


def plot_length(tables: Mapping[str, DataFrame]) -> Figure:
    """Figure 2: F1 by length of the post, with bootstrap intervals, a line a system.

    Args:
        tables: `by_length` of each system, all with the same edges.
    """
    figure, axes = _figure(7, 4.2)
    first = next(iter(tables.values()))
    for number, (name, table) in enumerate(tables.items()):
        places = np.arange(len(table)) + _dodge(number, len(tables))
        _line(axes, places, table["f1"], table.get("f1_low"), table.get("f1_high"), name, number)
    ticks = [f"{bucket}\n{posts} posts" for bucket, posts in zip(first.index, first["posts"], strict=True)]
    axes.set_xticks(range(len(first)), ticks)
    axes.set_xlim(-0.5, len(first) - 0.5)  # buckets without posts have their place too
    _finish(axes, "Length of the post (words)", "F1 (%)", len(tables) > 1)
    return figure


def plot_learning_curve(table: DataFrame) -> Figure:
    """Figure 3: F1 by size of the training set, mean and standard deviation over runs, a line a system.

    Args:
        table: `learning_curve`. Sizes up to 1 are taken as shares of the training set, others as posts.
    """
    figure, axes = _figure(7, 4.2)
    sizes = sorted({size for _, size in table.index})
    share = sizes[-1] <= 1
    systems = list(dict.fromkeys(system for system, _ in table.index))
    for number, system in enumerate(systems):
        rows = table.loc[system]
        x = rows.index.to_numpy(dtype=float) * (100 if share else 1) * (1 + _dodge(number, len(systems), 0.03))
        spread = rows["sd"].fillna(0)
        _line(axes, x, rows["f1"], rows["f1"] - spread, rows["f1"] + spread, system, number)
    axes.set_xscale("log")
    axes.set_xticks([size * (100 if share else 1) for size in sizes])
    axes.set_xticklabels([f"{size * (100 if share else 1):g}" for size in sizes])
    axes.minorticks_off()
    _finish(
        axes,
        "Training set (% of its posts, log scale)" if share else "Training set (posts, log scale)",
        "F1 (%)",
        len(systems) > 1,
    )
    if table["runs"].max() > 1:
        axes.set_title("mean and standard deviation over runs", fontsize=9, loc="left")
    return figure


def plot_subsets(tables: Mapping[str, DataFrame], label: str) -> Figure:
    """F1 of each row of score tables (types, seen and unseen, …) with bootstrap intervals, a marker a system.

    Args:
        tables: A score table of each system, all with the same rows.
        label: What the rows are, for the axis.
    """
    # Rows without gold have nothing to find: an F1 of 0 there would only stretch the axis.
    rows = list(dict.fromkeys(row for table in tables.values() for row in table.index[table["gold"] > 0]))
    figure, axes = _figure(7, 1.3 + 0.42 * len(rows) * max(1, 0.6 * len(tables)))
    for number, (name, table) in enumerate(tables.items()):
        table = table.reindex(rows)
        y = np.arange(len(rows)) + _dodge(number, len(tables), 0.6)
        f1 = 100 * table["f1"].to_numpy(dtype=float)
        if "f1_low" in table:
            ends = 100 * table[["f1_low", "f1_high"]].to_numpy(dtype=float)
            axes.hlines(y, ends[:, 0], ends[:, 1], colors=_colour(number), linewidth=1.5)
        axes.plot(f1, y, MARKERS[number % len(MARKERS)], color=_colour(number), label=name)
    gold = next(iter(tables.values())).reindex(rows)["gold"].fillna(0).astype(int)
    axes.set_yticks(range(len(rows)), [f"{row} ({count} gold)" for row, count in zip(rows, gold, strict=True)])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    _finish(axes, "F1 (%), with its 95 % bootstrap interval over posts", label, len(tables) > 1, grid="x")
    return figure


def plot_confusion(table: DataFrame) -> Figure:
    """Counts of gold types (rows) met by predicted types (columns), shaded by the share of the row.

    Args:
        table: `errors(...).confusion`.
    """
    counts = table.to_numpy()
    figure, axes = _figure(1.8 + 0.85 * len(table), 1.5 + 0.6 * len(table))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        if row == column == len(table) - 1:
            continue  # what is neither gold nor predicted has no number
        axes.text(
            column, row, str(count), ha="center", va="center", color="white" if share[row, column] > 0.6 else "black"
        )
    axes.set_xticks(range(len(table)), [str(name) for name in table.columns])
    axes.set_yticks(range(len(table)), [str(name) for name in table.index])
    axes.set_xlabel("Predicted type (entities)")
    axes.set_ylabel("Gold type (entities)")
    return figure


def plot_calibration(table: DataFrame) -> Figure:
    """Share of correct entities by confidence, on the diagonal where confidence can be taken at its word.

    Args:
        table: `errors(...).calibration`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 5.2), dpi=120, layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
    axes.plot([0, 100], [0, 100], "--", color="grey", linewidth=1, label="perfectly calibrated")
    axes.plot(100 * table["confidence"], 100 * table["correct"], "o-", color=_colour(0), label="predicted entities")
    _finish(axes, "", "Correct entities (%)", legend=True)
    edges = [float(end) for name in table.index for end in str(name).split("-")]
    low, high = 100 * np.array(edges[::2]), 100 * np.array(edges[1::2])
    below.bar(low, table["entities"], width=high - low, align="edge", color=_colour(0), edgecolor="white")
    _finish(below, "Confidence of the entity (%)", "Entities", legend=False)
    return figure


def plot_comparison(scores: DataFrame, tests: DataFrame) -> Figure:
    """F1 of each system, and the difference of each pair, with the intervals of `compare`.

    Args:
        scores: `compare(...).scores`.
        tests: `compare(...).tests`.
    """
    from matplotlib.figure import Figure

    height = 1.6 + 0.38 * (len(scores) + len(tests))
    figure = Figure(figsize=(7.4, height + 0.8), dpi=120, layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[len(scores) + 0.6, len(tests) + 0.6])
    for axes, table, column, names in (
        (above, scores, "f1", [str(name) for name in scores.index]),
        (below, tests, "difference", [f"{second} minus {first}" for first, second in tests.index]),
    ):
        places = np.arange(len(table))
        axes.hlines(places, 100 * table["low"], 100 * table["high"], colors=_colour(0), linewidth=2)
        axes.plot(100 * table[column], places, "o", color=_colour(0))
        axes.set_yticks(places, names)
        axes.set_ylim(len(table) - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    below.axvline(0, color="grey", linewidth=1, linestyle="--")
    above.set_xlabel("F1 (%), mean over runs, with its 95 % interval")
    below.set_xlabel("Difference of F1 (points), with its 95 % interval")
    above.set_ylabel("System")
    below.set_ylabel("Pair")
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    return figure, figure.subplots()


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _dodge(number: int, of: int, width: float = 0.3) -> float:
    """Sideways shift that keeps the intervals of several systems apart."""
    return 0.0 if of == 1 else width * (number / (of - 1) - 0.5)


def _line(axes: Axes, x: Any, f1: Any, low: Any, high: Any, name: str, number: int) -> None:
    f1 = 100 * np.asarray(f1, dtype=float)
    style: dict[str, Any] = {"color": _colour(number), "marker": MARKERS[number % len(MARKERS)], "label": name}
    if low is None:
        axes.plot(x, f1, **style)
        return
    low, high = 100 * np.asarray(low, dtype=float), 100 * np.asarray(high, dtype=float)
    axes.errorbar(x, f1, yerr=[np.maximum(f1 - low, 0), np.maximum(high - f1, 0)], capsize=3, linewidth=1.5, **style)


def _finish(axes: Axes, x: str, y: str, legend: bool, grid: Literal["x", "y"] = "y") -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis=grid, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        names = axes.get_legend_handles_labels()[1]
        axes.figure.legend(loc="outside upper center", ncols=min(3, len(names)), frameon=False)


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
