"""Figure 1: where a model looks in the image, beside gold and predicted entities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mner.analysis.presentation import COLOURS
from mner.labels import spans

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.figure import Figure
    from PIL.Image import Image

LABELLED_BOXES = 5


def plot_attention(
    image: Image | NDArray[Any],
    weights: ArrayLike,
    words: Sequence[str],
    gold: Sequence[str] | None,
    pred: Sequence[str],
    boxes: ArrayLike | None = None,
    query: str | None = None,
) -> Figure:
    """The image, the attention over it, and the post with its gold and its predicted entities.

    A grid of weights is laid over the image and smoothed (bicubic); regions with boxes are drawn as boxes, wider and
    redder the more attention they get, the first few with their share.

    Args:
        image: The picture: PIL, or an array (height, width, 3).
        weights: Attention: a grid (rows, columns), its cells in one row (a square number), or one number a box.
        words: The post.
        gold: Its gold tags, or None where unknown.
        pred: Its predicted tags.
        boxes: (r, 4) corners left, top, right, bottom in pixels of `image`.
        query: What attends, for the title: a word, or the post as a whole.
    """
    from matplotlib.figure import Figure

    picture = np.asarray(image)
    height, width = picture.shape[:2]
    side = 4.2  # inches that image and text are wide
    tall = min(max(side * height / width, 1.0), 5.6)
    lines = 2 + sum(len(word) + 1 for word in words) // 45
    below = 0.35 + 0.19 * lines
    total = below + tall + 0.35
    figure = Figure(figsize=(9.7, total), dpi=120)

    def place(left: float, bottom: float, wide: float, high: float) -> Axes:
        return figure.add_axes((left / 9.7, bottom / total, wide / 9.7, high / total))

    plain, looked = place(0.15, below, side, tall), place(4.55, below, side, tall)
    for axes in (plain, looked):
        axes.imshow(picture, extent=(0, width, height, 0))
        axes.set_axis_off()
    plain.set_title("image", fontsize=10)
    looked.set_title("attention" + (f" of “{printable(query)}”" if query else ""), fontsize=10, parse_math=False)
    values = np.asarray(weights, dtype=float)
    if boxes is None:
        cells, extent = _as_grid(values), (0, width, height, 0)
        top = cells.max() or 1
        shade = looked.imshow(
            cells, extent=extent, cmap="viridis", alpha=0.5, interpolation="bicubic", vmin=0, vmax=top
        )
        bar = figure.colorbar(shade, cax=place(8.85, below, 0.14, tall))
        bar.set_label(f"attention of a cell (share; spread evenly {1 / cells.size:.3f})", fontsize=8)
        bar.ax.tick_params(labelsize=8)
    else:
        _draw_boxes(looked, values, np.asarray(boxes, dtype=float), width, height)
    for left, name, tags in ((0.15, "gold", gold), (4.55, "predicted", pred)):
        axes = place(left, 0.05, side, below - 0.35)
        axes.set_axis_off()
        axes.set_title(name, fontsize=10, loc="left")
        if tags is None:
            axes.text(0, 0.95, "(no gold tags)", va="top", fontsize=10, color="grey")
        else:
            write_entities(axes, words, tags, _types(gold, pred))
    return figure


def write_entities(axes: Axes, words: Sequence[str], tags: Sequence[str], types: Sequence[str]) -> None:
    """The words in lines, each entity on a coloured ground with its type behind it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure: Any = axes.figure
    canvas: Any = FigureCanvasAgg(figure)
    renderer: RendererBase = canvas.get_renderer()
    box = axes.get_window_extent(renderer)
    x, y, space, line = 0.0, 1.0, 6 / box.width, 0.19 * figure.dpi / box.height
    entities = {span.start: span for span in spans(tags)}
    place = 0
    while place < len(words):
        span = entities.get(place)
        end = span.end if span is not None else place + 1
        text = printable(" ".join(words[place:end])) + (f" [{span.type}]" if span is not None else "")
        ground = {"facecolor": _tint(types.index(span.type)), "edgecolor": "none", "pad": 1.5} if span else None
        drawn = axes.text(x, y, text, va="top", fontsize=9, parse_math=False, bbox=ground)
        extent = drawn.get_window_extent(renderer).width / box.width
        if x > 0 and x + extent > 1:
            x, y = 0.0, y - line
            drawn.set_position((x, y))
        x += extent + space
        place = end


def printable(text: str) -> str:
    """`text` with a box for each character that the font lacks (emoji), which would only raise a warning."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    known = get_font(findfont(FontProperties())).get_charmap()
    return "".join(character if ord(character) in known else "▯" for character in text)


def _types(gold: Sequence[str] | None, pred: Sequence[str]) -> list[str]:
    return sorted({span.type for tags in (gold or (), pred) for span in spans(tags)})


def _tint(number: int) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    red, green, blue = (0.55 + 0.45 * part for part in to_rgb(COLOURS[number % (len(COLOURS) - 1)]))
    return red, green, blue


def _as_grid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if values.ndim == 2:
        return values
    side = math.isqrt(values.size)
    if values.ndim != 1 or side * side != values.size:
        raise ValueError(
            f"Expected attention as a grid (rows, columns) or a square number of cells, but got shape {values.shape}; "
            "for regions that are no grid give `boxes`"
        )
    return values.reshape(side, side)


def _draw_boxes(axes: Axes, values: NDArray[np.float64], boxes: NDArray[np.float64], width: int, height: int) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    if boxes.shape != (values.size, 4) or values.ndim != 1:
        raise ValueError(f"Expected boxes (r, 4) and one weight a box, but got {boxes.shape} and {values.shape}")
    share = values / (values.max() or 1)
    order = np.argsort(values)
    for place in order:  # the strongest last, on top
        left, top, right, bottom = boxes[place]
        colour = colormaps["YlOrRd"](0.25 + 0.75 * share[place])
        axes.add_patch(
            Rectangle(
                (left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=1 + 2.5 * share[place]
            )
        )
    taken: list[tuple[float, float]] = []
    for place in order[::-1][:LABELLED_BOXES]:
        left, top, right, bottom = boxes[place]
        # The first corner of the box where no other label is.
        for x, y in (
            (left, top),
            (right, top),
            (left, bottom),
            (right, bottom),
            ((left + right) / 2, (top + bottom) / 2),
        ):
            x, y = min(max(x, 0.05 * width), 0.95 * width), min(max(y, 0.04 * height), 0.96 * height)
            if all(abs(x - a) > 0.1 * width or abs(y - b) > 0.08 * height for a, b in taken):
                taken.append((x, y))
                ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1}
                axes.text(x, y, f"{100 * values[place]:.0f} %", fontsize=8, ha="center", va="center", bbox=ground)
                break
