"""Doubts as a page to look at, and as a table to decide in."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from mner.curation.doubts import Doubt
from mner.data.examples import Example
from mner.data.formats.images import ImageFolder
from mner.errors import DataFormatError
from mner.files import output_folder
from mner.html import PAGE, colour_of, escaped
from mner.labels import Span, spans

PAGE_NAME, TABLE_NAME = "doubts.html", "doubts.csv"
TABLE = (
    *("decision", "rank", "kind", "words", "type", "new_words", "new_type", "label_score", "new_score", "confident"),
    *("post", "start", "end", "new_start", "new_end", "text"),
)
STYLE_HERE = """
h1 { font: 600 1.4em system-ui, sans-serif; }
.mner h2 { font-size: 1em; margin: 0.4em 0; }
.mner h2 small { font-weight: normal; opacity: 0.75; margin-left: 0.5em; }
.mner mark.doubted { outline: 3px solid #c2410c; outline-offset: 1px; }
.mner mark.new { outline: 3px dashed #1d4ed8; outline-offset: 1px; }
.mner table { border-collapse: collapse; margin: 0.3em 0; }
.mner th { text-align: start; font-weight: normal; opacity: 0.75; padding: 0.1em 0.8em 0.1em 0; vertical-align: top; }
.mner td { padding: 0.1em 0.8em 0.1em 0; overflow-wrap: anywhere; }
@media (prefers-color-scheme: dark) {
  .mner mark.doubted { outline-color: #fb923c; }
  .mner mark.new { outline-color: #93c5fd; }
}
"""


def write_doubts(
    doubts: Sequence[Doubt],
    posts: Sequence[Example],
    out: Path,
    source: Path,
    images: Path | None = None,
    count: int = 200,
) -> None:
    """Write the page and the table, and say what is in them.

    Args:
        doubts: The most doubtful first.
        posts: The posts that they are of.
        out: Folder to write to.
        source: The file of the posts, which is named.
        images: Folder of their images.
        count: Doubts on the page.

    Raises:
        DataFormatError: If there are files that mner did not write, or a table that somebody has decided in.
    """
    of_post = {post.id: post for post in posts}
    with output_folder(out) as folder:
        (folder / PAGE_NAME).write_text(page(doubts[:count], of_post, source.name, images), encoding="utf-8")
        (folder / TABLE_NAME).write_text(table(doubts, of_post), encoding="utf-8-sig", newline="")
    total = sum(len(spans(post.tags or ())) for post in posts)
    kinds = Counter(doubt.kind for doubt in doubts)
    told = ", ".join(f"{number:,} {kind}" for kind, number in kinds.most_common())
    print(f"{len(doubts):,} doubts about {total:,} labels of {len(posts):,} posts ({told or 'none'})")
    print(f"{sum(doubt.confident for doubt in doubts):,} of them reach the thresholds of confident learning")
    print(f"To look at: {out / PAGE_NAME}, the first {min(count, len(doubts)):,}")
    print(f"To decide in: {out / TABLE_NAME}; then: mner data apply {source} {out / TABLE_NAME} --out COPY")


def table(doubts: Sequence[Doubt], posts: dict[str, Example]) -> str:
    """A row a doubt, with an empty column for the decision."""
    stream = StringIO(newline="")
    out = csv.DictWriter(stream, TABLE, lineterminator="\n")
    out.writeheader()
    for rank, doubt in enumerate(doubts, start=1):
        post = posts[doubt.post]
        row: dict[str, object] = {"rank": rank, "kind": doubt.kind, "post": doubt.post}
        for prefix, span in (("", doubt.label), ("new_", doubt.proposal)):
            if span is not None:
                row |= {f"{prefix}start": span.start, f"{prefix}end": span.end, f"{prefix}type": span.type}
                row[f"{prefix}words"] = _cell(_words(post, span))
        row |= {"label_score": f"{doubt.label_score:.3f}", "new_score": f"{doubt.proposal_score:.3f}"}
        row |= {"confident": "yes" if doubt.confident else "no", "text": _cell(" ".join(post.words))}
        out.writerow(row)
    return stream.getvalue()


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula; `apply` does not read it."""
    return f"'{text}" if text[:1] in tuple("=+-@\t\r") else text


def page(doubts: Sequence[Doubt], posts: dict[str, Example], name: str, images: Path | None = None) -> str:
    """The page; it needs no other file and runs nothing."""
    folder = None if images is None else ImageFolder(images)
    legend = (
        "<div class='mner'>Labels that may be wrong, the most doubtful first. "
        "<mark class='doubted' style='background: #ddd'>Solid</mark> is the label in doubt, "
        "<mark class='new' style='background: #ddd'>dashed</mark> what the models "
        "say where nothing is labelled. Models that were not trained on a post said what they think of it.</div>"
    )
    parts = [_card(rank, doubt, posts[doubt.post], folder) for rank, doubt in enumerate(doubts, start=1)]
    title = f"Doubts about {name}"
    return PAGE.format(
        title=escaped(title),
        body=f"<style>{STYLE_HERE}</style>\n<h1>{escaped(title)}</h1>\n{legend}\n" + "\n".join(parts),
    )


def _card(rank: int, doubt: Doubt, post: Example, folder: ImageFolder | None) -> str:
    rows = [
        ("label", _chip(post, doubt.label), doubt.label_score),
        ("models", _chip(post, doubt.proposal), doubt.proposal_score),
    ]
    lines = "".join(
        f"<tr><th>{who}</th><td>{what}</td><td>{100 * share:.0f}&nbsp;%</td></tr>" for who, what, share in rows
    )
    return (
        f"<div class='mner'><h2>{rank}. {_TITLES[doubt.kind]}<small>{escaped(post.id)}</small></h2>"
        f"<div class='text' dir='auto'>{_text(post, doubt)}</div><table>{lines}</table>"
        f"<div class='beside'>{escaped(why(doubt, post))}</div>{_pictures(post, folder)}</div>"
    )


_TITLES = {"type": "Type", "edge": "Edge", "no entity": "No entity?", "missing": "Missing?"}


def why(doubt: Doubt, post: Example) -> str:
    """Why there is a doubt, in a sentence."""
    label, new = doubt.label, doubt.proposal
    share, own = f"{100 * doubt.proposal_score:.0f} %", f"{100 * doubt.label_score:.0f} %"
    if label is None and new is not None:
        said = f"Nothing is labelled here; the models give {new.type} a probability of {share}"
    elif label is not None and new is None:
        said = f"The models see no entity here, with {share}; {label.type} has {own}"
    elif label is not None and new is not None and doubt.kind == "type":
        said = f"The same words are {new.type} to the models with {share}, {label.type} with {own}"
    else:
        assert new is not None
        said = f"The models have other edges, with {share}: “{_words(post, new)}”"
        said += f" as {new.type}" if label is not None and label.type != new.type else ""
    return said + ("." if doubt.confident else "; that is less sure than they usually are.")


def _chip(post: Example, span: Span | None) -> str:
    if span is None:
        return "no entity"
    return _mark(post, span)


def _mark(post: Example, span: Span, kind: str = "") -> str:
    ground = f"<mark class='{kind}' style='background: {colour_of(span.type)}'>"
    return f"{ground}{escaped(_words(post, span))}<b>{escaped(span.type)}</b></mark>"


def _text(post: Example, doubt: Doubt) -> str:
    """The words with all labels, the doubted one outlined, or what is missing."""
    shown = {span: "doubted" if span == doubt.label else "plain" for span in spans(post.tags or ())}
    if doubt.label is None and doubt.proposal is not None:
        shown[doubt.proposal] = "new"
    parts, end = [], 0
    for span in sorted(shown):
        parts += [escaped(word) for word in post.words[end : span.start]]
        parts.append(_mark(post, span, shown[span]))
        end = span.end
    return " ".join([*parts, *(escaped(word) for word in post.words[end:])])


def _words(post: Example, span: Span) -> str:
    return " ".join(post.words[span.start : span.end])


def _pictures(post: Example, folder: ImageFolder | None) -> str:
    if folder is None or not post.image_ids:
        return ""
    from mner.tagger.render import data_uri, small

    figures = []
    for id_ in post.image_ids:
        try:
            picture = folder.open(id_)
        except DataFormatError:  # one of several files; `mner data verify` names them
            picture = None
        if picture is None:
            figures.append(f"<div class='beside'>no image {escaped(id_)}</div>")
        else:
            figures.append(f"<figure><img src='{data_uri(small(picture))}' alt='image {escaped(id_)}'></figure>")
    return f"<div class='pictures'>{''.join(figures)}</div>"
