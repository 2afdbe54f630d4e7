"""Draws the rooms of `mner/` and what flows between them, from the code: `python docs/house.py`.

The rooms are the folders of the package, each with the words that its own description begins with; which room imports
which is read from the source. `FLOWS` says what goes from one room to the next on a batch's way; a flow between rooms
that do not know each other, and a room without a place, are errors (tests/docs/test_house.py).
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from html import escape
from pathlib import Path

import mner

PACKAGE = Path(mner.__file__).parent
FILE = Path(__file__).parent / "_static" / "figures" / "house.svg"
INK, LINE = "#1b1f24", "#858c96"
GROUND = {"way": ("#cfe2f7", "#5b8bbf"), "makes": ("#d3edcb", "#6aa35a"), "uses": ("#fde0b5", "#cf9438")}
WIDTH, BOX, HEIGHT, ROW = 760, 240, 56, 100  # pixels: the page, a box, from one row to the next

# Column and row of each room, and what it is on a batch's way: on it, before it, or behind it.
PLACES = {
    "preprocessing": (0, 1, "makes"), "data": (1, 0, "way"), "encoders": (1, 1, "way"), "fusion": (1, 2, "way"),
    "nn": (1, 3, "way"), "training": (1, 4, "way"), "tagger": (0, 5, "uses"), "analysis": (1, 5, "uses"),
    "probing": (2, 5, "uses"), "cli": (0, 6, "uses"), "benchmark": (1, 6, "uses"), "serving": (2, 6, "uses"),
    "curation": (2, 4, "uses"),
}  # fmt: skip
FLOWS = (
    ("preprocessing", "data", "features, captions"),
    ("data", "encoders", "Batch: pieces (b, t), image or regions"),
    ("encoders", "fusion", "words (b, w, d), regions (b, r, d)"),
    ("fusion", "nn", "emissions (b, w, l)"),
    ("nn", "training", "loss; tags and probabilities"),
    ("training", "tagger", "checkpoint"),
    ("training", "probing", "checkpoint"),
    ("training", "analysis", "prediction files"),
    ("analysis", "benchmark", "comparisons"),
    ("tagger", "cli", "entities"),
)


def rooms() -> dict[str, str]:
    """Each folder of the package that holds code, and how its own description begins."""
    found = {}
    for file in sorted(PACKAGE.glob("*/__init__.py")):
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        found[file.parent.name] = re.split(r"[:.,;]", text.splitlines()[0].replace("`", ""))[0]
    return found


def imports() -> dict[str, set[str]]:
    """Which rooms each room imports from."""
    known, found = rooms(), defaultdict(set)
    for room in known:
        for file in (PACKAGE / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mner."):
                    found[room].add(node.module.split(".")[1])
    return {room: some & known.keys() - {room} for room, some in found.items()}


def centre(room: str) -> tuple[float, float]:
    column, row, _ = PLACES[room]
    return 4 + BOX / 2 + column * (WIDTH - 8 - BOX) / 2, 14 + HEIGHT / 2 + row * ROW


def svg() -> str:
    """The figure."""
    shown = rooms()
    missing = sorted(shown.keys() - PLACES.keys())
    if missing:
        raise ValueError(f"Expected a place for each room in PLACES, but {missing} have none")
    height = max(centre(room)[1] for room in shown) + HEIGHT / 2 + 14
    marker = '<marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" '
        'role="img" font-family="system-ui, -apple-system, Segoe UI, Roboto, sans-serif" font-size="13" '
        'text-anchor="middle">',
        "<title>The rooms of mner and what flows between them</title>",
        f'<defs>{marker}<path d="M0 0L8 4L0 8z" fill="{LINE}"/></marker></defs>',
    ]
    for start, end, what in FLOWS:
        if start in shown and end in shown:
            lines += _arrow(start, end, what)
    for room, what in shown.items():
        x, y = centre(room)
        ground, edge = GROUND[PLACES[room][2]]
        lines += [
            f'<rect x="{x - BOX / 2:g}" y="{y - HEIGHT / 2:g}" width="{BOX}" height="{HEIGHT}" rx="6" fill="{ground}" '
            f'stroke="{edge}"/>',
            f'<text x="{x:g}" y="{y - 4:g}" fill="{INK}" font-weight="600">mner/{room}/</text>',
            f'<text x="{x:g}" y="{y + 16:g}" fill="{INK}" font-size="12">{escape(what)}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _arrow(start: str, end: str, what: str) -> list[str]:
    (x1, y1), (x2, y2) = centre(start), centre(end)
    if x1 == x2:
        points, middle = [(x1, y1 + HEIGHT / 2), (x2, y2 - HEIGHT / 2)], (x1, (y1 + y2) / 2 + 4)
    elif y1 < y2:  # sideways, then down
        points = [(x1 + (BOX / 2 if x2 > x1 else -BOX / 2), y1), (x2, y1), (x2, y2 - HEIGHT / 2)]
        middle = x2, (y1 + y2) / 2 + 4
    else:  # up, then sideways
        points = [(x1, y1 - HEIGHT / 2), (x1, y2), (x2 + (BOX / 2 if x2 < x1 else -BOX / 2), y2)]
        middle = x1, (y1 + y2) / 2 + 4
    drawn = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
    halo = 'paint-order="stroke" stroke="#ffffff" stroke-width="5" stroke-linejoin="round"'
    return [
        f'<path d="{drawn}" fill="none" stroke="{LINE}" stroke-width="1.6" marker-end="url(#a)"/>',
        f'<text x="{middle[0]:g}" y="{middle[1]:g}" fill="{INK}" font-size="12" {halo}>{escape(what)}</text>',
    ]


if __name__ == "__main__":
    FILE.write_text(svg(), encoding="utf-8")
