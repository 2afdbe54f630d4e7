"""One self-contained HTML page with every table and figure that prediction files allow."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import mner
from mner.analysis import report_sections as sections
from mner.analysis.presentation import COLOURS, html
from mner.analysis.report_sections import Part, Section, Systems
from mner.data.examples import Example
from mner.data.formats.predictions import Prediction
from mner.files import output_folder
from mner.labels import Mode, spans

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --letters: #1a1a1a; --link: #0a4bff; --wrong: #b00020 }
@media (prefers-color-scheme: dark) {
  :root { --ground: #131416; --letters: #cfd0d0; --link: #3d94ff; --wrong: #ff8a9a }
}
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--letters); background: var(--ground);
  --faint: color-mix(in srgb, currentColor 12%, transparent); --line: color-mix(in srgb, currentColor 30%, transparent);
  --quiet: color-mix(in srgb, currentColor 75%, transparent) }
a { color: var(--link) }
h1 { font-size: 1.6rem }
h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--faint) }
thead th { border-bottom: 2px solid var(--line) }
tbody th { font-weight: normal; color: var(--quiet) }
.n { text-align: right }
td.n { white-space: nowrap }
tr.first > * { border-top: 1px solid var(--line) }
.wide { overflow-x: auto }
figure { margin: 1.2rem 0 }
figcaption { font-weight: 600; margin-bottom: .4rem }
img { max-width: 100%; height: auto; border-radius: .3rem }
nav a { display: inline-block; margin-right: 1rem }
footer { margin-top: 3rem; color: var(--quiet); font-size: .85rem }
.post { margin: .8rem 0; padding-left: .8rem; border-left: 3px solid var(--faint) }
.post > div { display: flex }
.who { flex: 0 0 7rem; color: var(--quiet); overflow-wrap: anywhere }
.wrong .who { color: var(--wrong) }
mark { padding: 0 .2rem; border-radius: .2rem; color: inherit }
mark small { color: var(--quiet) }
"""


def build_sections(
    systems: Systems,
    train: Sequence[Example] | None = None,
    mode: Mode = "lenient",
    force: bool = False,
    shown: int = 40,
    seed: int = 0,
) -> list[Section]:
    """All sections that the systems and the training posts allow.

    Args:
        systems: Runs by the name of the system. The first is the one that the others are held against.
        train: The training posts, for what is seen and what is ambiguous.
        mode: Reading of tag sequences.
        force: Compare although posts or gold differ.
        shown: Number of example posts.
        seed: Seed of their draw.

    Raises:
        NotComparableError: If several systems were not run on the same posts with the same gold, unless forced.
    """
    several = len(systems) > 1
    return [
        sections.about(systems, train),
        sections.scores(systems, mode),
        *([sections.comparison(systems, mode, force)] if several else []),
        sections.overlap(systems, train, mode),
        sections.ambiguity(systems, train, mode),
        sections.length(systems, mode),
        sections.mistakes(systems, mode),
        *([sections.parting(systems, mode, force)] if several else []),
        sections.examples(systems, mode, shown, seed),
    ]


def page(found: Sequence[Section], title: str) -> str:
    """The sections as one HTML page without outside parts. All text is escaped."""
    links = "".join(f'<a href="#s{number}">{escape(section.title)}</a>' for number, section in enumerate(found))
    body = "".join(_section(number, section) for number, section in enumerate(found))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1><nav>{links}</nav>{body}"
        f"<footer>Made by mner {escape(mner.__version__)}. “The paper” is Chen et al., “Can images help recognize "
        "entities? A study of the role of images for Multimodal NER”, W-NUT 2021.</footer></body></html>\n"
    )


def write_report(found: Sequence[Section], out: Path, title: str) -> Path:
    """Write `index.html`, and beside it each table as CSV and each figure as PNG.

    Returns:
        The page.
    """
    with output_folder(out) as place:
        (place / "tables").mkdir()
        (place / "figures").mkdir()
        for part in (part for section in found for part in section.parts):
            if part.table is not None:
                part.table.to_csv(place / "tables" / f"{part.name}.csv")
            if part.figure is not None:
                part.figure.savefig(place / "figures" / f"{part.name}.png", dpi=200)
        (place / "index.html").write_text(page(found, title), encoding="utf-8")
    return out / "index.html"


def _section(number: int, section: Section) -> str:
    text = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in section.text)
    parts = "".join(_part(part) for part in section.parts)
    return f'<section id="s{number}"><h2>{escape(section.title)}</h2>{text}{parts}</section>'


def _part(part: Part) -> str:
    inside = ""
    if part.table is not None:
        inside += f'<div class="wide">{html(part.table)}</div>' if len(part.table) else "<p>Nothing to show.</p>"
    if part.figure is not None:
        width = round(96 * part.figure.get_figwidth())
        source = f"data:image/png;base64,{_png(part.figure)}"
        inside += f'<img alt="{escape(part.caption)}" width="{width}" src="{source}">'
    tags = [tags for post, systems in part.posts for tags in (post.gold or (), *systems.values())]
    types = sorted({span.type for of_post in tags for span in spans(of_post)})  # one colour a type on the whole page
    inside += "".join(_post(post, systems, types) for post, systems in part.posts)
    return f"<figure><figcaption>{escape(part.caption)}</figcaption>{inside}</figure>"


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return base64.b64encode(buffer.getvalue()).decode()


def _post(post: Prediction, systems: dict[str, Sequence[str]], types: Sequence[str]) -> str:
    gold = post.gold or ()
    lines = [f'<div><span class="who">gold</span><span>{coloured(post.words, gold, types)}</span></div>']
    for name, tags in systems.items():
        mark = "" if spans(tags) == spans(gold) else ' class="wrong"'
        shown = coloured(post.words, tags, types)
        lines.append(f'<div{mark}><span class="who">{escape(name)}</span><span>{shown}</span></div>')
    return f'<div class="post" title="{escape(post.id)}">{"".join(lines)}</div>'


def coloured(words: Sequence[str], tags: Sequence[str], types: Sequence[str]) -> str:
    """The words as HTML, each entity marked and followed by its type."""
    parts, done = [], 0
    for span in spans(tags):
        parts += [escape(word) for word in words[done : span.start]]
        colour = COLOURS[types.index(span.type) % len(COLOURS)]
        inside = escape(" ".join(words[span.start : span.end]))
        parts.append(f'<mark style="background:{colour}33">{inside} <small>{escape(span.type)}</small></mark>')
        done = span.end
    return " ".join([*parts, *(escape(word) for word in words[done:])])
