"""Entities marked in HTML, and the style sheet of the pages."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

COLOURS = {"PER": "#aa9cfc", "LOC": "#ffb08a", "ORG": "#7aecec", "MISC": "#dddddd", "OTHER": "#dddddd"}
"""Grounds of the usual types, close to displaCy's; other types take the next of `MORE`."""
MORE = ("#bfeeb7", "#feca74", "#ff8197", "#e4e7d2", "#c887fb", "#bfe1d9", "#9cc9cc", "#f0d0ff")
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
# Letters and ground are those of the page around, light or dark. Marks bring their own, whatever that page's rules.
STYLE = """
.mner { font: 16px/1.9 system-ui, sans-serif; max-width: 60em; padding: 0.5em 0; }
.mner + .mner { border-top: 1px solid #8888; }
.mner .text { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
.mner mark, .mner mark * { color: #1a1a1a !important; }
.mner mark { padding: 0.2em 0.45em; margin: 0 0.15em; border-radius: 0.35em; unicode-bidi: plaintext;
  box-decoration-break: clone; -webkit-box-decoration-break: clone; }
.mner mark b { font-size: 0.7em; margin-left: 0.5em; vertical-align: middle; }
.mner mark b, .mner mark i { direction: ltr; unicode-bidi: isolate; }
.mner mark i { font-size: 0.7em; font-style: normal; margin-left: 0.35em; vertical-align: middle; }
.mner .beside { font-size: 0.85em; line-height: 1.4; opacity: 0.75; margin: 0.3em 0; overflow-wrap: anywhere; }
.mner .pictures { display: flex; flex-wrap: wrap; gap: 0.8em; margin-top: 0.5em; }
.mner figure { margin: 0; width: min-content; min-width: 12em; }
.mner img { display: block; max-width: min(320px, 90vw); }
.mner figcaption { font-size: 0.8em; line-height: 1.4; opacity: 0.75; overflow-wrap: anywhere; }
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="mner">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 1em auto; padding: 0 1em; max-width: 62em; background: Canvas; color: CanvasText; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def entities_html(text: str, entities: Sequence[Any]) -> str:
    """A text with its entities (`mner.tagger.Entity`) marked, as HTML that brings its own style."""
    return f"<style>{STYLE}</style><div class='mner'>{marked(text, entities)}</div>"


def marked(text: str, entities: Sequence[Any]) -> str:
    """A text with its entities marked, as HTML whose style is `STYLE`."""
    parts, end = [], 0
    for entity in entities:
        ground = colour_of(entity.type)
        parts.append(escaped(text[end : entity.start]))
        parts.append(
            f"<mark style='background: {ground}' title='{escaped(entity.type)}, probability {entity.score:.3f}'>"
            f"{escaped(entity.text)}<b>{escaped(entity.type)}</b><i>{100 * entity.score:.0f}&nbsp;%</i></mark>"
        )
        end = entity.end
    parts.append(escaped(text[end:]))
    return f"<div class='text' dir='auto'>{''.join(parts)}</div>"


def colour_of(type_: str) -> str:
    """The ground of a type; always the same one."""
    return COLOURS.get(type_, MORE[sum(type_.encode(errors="replace")) % len(MORE)])


def escaped(value: str) -> str:
    """Text for HTML: nothing in it is a tag, an attribute's end, or a character that HTML forbids."""
    return html.escape(_FORBIDDEN.sub("\ufffd", value), quote=True)
