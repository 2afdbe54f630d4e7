"""Entities marked in HTML, filters over them, and the style sheet of the pages."""

from __future__ import annotations

import html
import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLOURS = {"PER": "#aa9cfc", "LOC": "#ffb08a", "ORG": "#7aecec", "MISC": "#dddddd", "OTHER": "#dddddd"}
"""Grounds of the usual types, close to displaCy's; other types take the next of `MORE`."""
MORE = ("#bfeeb7", "#feca74", "#ff8197", "#e4e7d2", "#c887fb", "#bfe1d9", "#9cc9cc", "#f0d0ff")
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
"""The style sheet, which the documentation has too."""
_RULES = re.findall(r"\{ (--ground:[^}]*)", STYLE)
COLOURS_OF_PAGE = tuple(dict(re.findall(r"--(\w+): (#\w+)", rule)) for rule in _RULES)
"""What the style sheet makes pages of, light and dark: `ground`, `raised`, `letters`, `link`."""
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
STYLE</style>
</head>
<body class="mner-page">
{body}
</body>
</html>
""".replace("STYLE", STYLE.replace("{", "{{").replace("}", "}}"))
"""A page, which brings its style and runs nothing."""
DOUBTS = (95, 80, 50)
"""A probability below one of these, in percent, is doubtful."""
_MARK = re.compile(r"<mark class='of-(\w{8})([^']*)'[^>]*>[^<]*<b>([^<]*)</b>")
_RULE = """.mner-page:has(#of-{key}:checked) .mner-post:not(:has(.of-{key})) {{ display: none; }}
.mner-page:has(#of-{key}:checked) mark:not(.of-{key}) {{ background: none !important; color: inherit !important;
  padding: 0; outline: none; }}
.mner-page:has(#of-{key}:checked) mark:not(.of-{key}) > * {{ display: none; }}"""
_BOTH = """.mner-page:has(#of-{key}:checked):has(#{button}:checked)
  .mner-post:not(:has(.of-{key}.{name})) {{ display: none; }}"""
"""Of a type and of something else: one entity has to be both, since those of other types are not seen."""


def entities_html(text: str, entities: Sequence[Any]) -> str:
    """A text with its entities (`mner.tagger.Entity`) marked, as HTML that brings its own style."""
    return f"<style>{STYLE}</style><div class='mner'>{marked(text, entities)}</div>"


def marked(text: str, entities: Sequence[Any], remarks: Sequence[str] = ()) -> str:
    """A text with its entities marked, as HTML whose style is `STYLE`.

    Args:
        text: The text.
        entities: Its entities; one whose score is NaN is gold, and has no probability.
        remarks: What is to be said of each, such as in what it differs from gold; "" for nothing.
    """
    parts, end = [], 0
    for number, entity in enumerate(entities):
        remark = remarks[number] if remarks else ""
        sure = 1.0 if math.isnan(entity.score) else entity.score
        classes = [f"of-{_key(entity.type)}", *(f"under{limit}" for limit in DOUBTS if 100 * sure < limit)]
        classes += ["other"] if remark else []
        said = "gold" if math.isnan(entity.score) else f"probability {entity.score:.3f}"
        share = "" if math.isnan(entity.score) else f"<i>{100 * entity.score:.0f}&nbsp;%</i>"
        parts.append(escaped(text[end : entity.start]))
        parts.append(
            f"<mark class='{' '.join(classes)}' style='background: {colour_of(entity.type)}' "
            f"title='{escaped(entity.type)}, {said}'>{escaped(entity.text)}<b>{escaped(entity.type)}</b>{share}"
            f"{f'<i>{escaped(remark)}</i>' if remark else ''}</mark>"
        )
        end = entity.end
    parts.append(escaped(text[end:]))
    return f"<div class='text' dir='auto'>{''.join(parts)}</div>"


def filters(body: str) -> str:
    """Buttons over posts that show those with a type, with doubtful entities, or that differ from gold, with counts.

    They are radio buttons, for the pointer and for the keyboard alike, and rules of style: no script.

    Args:
        body: HTML of posts, each an `<article class='mner-post'>`, with entities by `marked`.
    """
    posts = body.split("<article class='mner-post'")[1:]
    found = [_MARK.findall(post) for post in posts]
    types = Counter(one for marks in found for one in {(key, type_) for key, _, type_ in marks})
    doubts = Counter(one for marks in found for one in {word for _, classes, _ in marks for word in classes.split()})
    others = [(f"under{limit}", f"under{limit}") for limit in DOUBTS] + [("differs", "other")]
    rules = "\n".join(
        rule
        for key, _ in types
        for rule in (_RULE.format(key=key), *(_BOTH.format(key=key, button=b, name=n) for b, n in others if doubts[n]))
    )
    groups = {
        "type": ("Type", [
            _choice("type", f"of-{key}", type_, count, f" style='background: {colour_of(html.unescape(type_))}'")
            for (key, type_), count in sorted(types.items(), key=lambda item: item[0][1])
        ]),
        "doubt": ("Doubt", [
            _choice("doubt", f"under{limit}", f"below {limit}&nbsp;%", doubts[f"under{limit}"])
            for limit in DOUBTS if doubts[f"under{limit}"]
        ]),
        "gold": ("Gold", [
            _choice("gold", name, name, count)
            for name in ("differs", "agrees")
            if (count := sum(f"<div class='line {name}'>" in post for post in posts))
        ]),
    }  # fmt: skip
    shown = "".join(
        f"<fieldset><legend>{legend}</legend>{_choice(name, f'all-{name}', 'all', len(posts), ' checked')}"
        f"{''.join(choices)}</fieldset>"
        for name, (legend, choices) in groups.items()
        if choices
    )
    return f"<style>{rules}</style><div class='mner-filters'>{shown}</div>" if shown else ""


def _choice(group: str, id_: str, said: str, count: int, more: str = "") -> str:
    style, checked = ("", more) if more == " checked" else (more, "")
    button = f"<input type='radio' name='{group}' id='{id_}'{checked}>"
    return f"{button}<label for='{id_}'{style}>{said} <small>{count}</small></label>"


def _key(type_: str) -> str:
    """A name of a type for classes, where any letter may stand in the type."""
    return f"{zlib.crc32(type_.encode(errors='replace')):08x}"


def colour_of(type_: str) -> str:
    """The ground of a type; always the same one."""
    return COLOURS.get(type_, MORE[sum(type_.encode(errors="replace")) % len(MORE)])


def escaped(value: str) -> str:
    """Text for HTML: nothing in it is a tag, an attribute's end, or a character that HTML forbids."""
    return html.escape(_FORBIDDEN.sub("\ufffd", value), quote=True)
