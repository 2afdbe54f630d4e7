"""Posts as HTML, in the manner of displaCy: entities marked, the image, and where the model looked."""

from __future__ import annotations

import base64
import html
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mner.data.images import ImageTransform
from mner.decode import Section, readable
from mner.errors import DataNotFoundError
from mner.fusion.attention_maps import capture_attention, region_map
from mner.pictures import NOTHING
from mner.posts import Entity, Post, Tagged

if TYPE_CHECKING:
    from mner.prepare import Prepared
    from mner.tagger import Tagger

COLOURS = {"PER": "#aa9cfc", "LOC": "#ffb08a", "ORG": "#7aecec", "MISC": "#dddddd", "OTHER": "#dddddd"}
"""Grounds of the usual types, close to displaCy's; other types take the next of `MORE`."""

MORE = ("#bfeeb7", "#feca74", "#ff8197", "#e4e7d2", "#c887fb", "#bfe1d9", "#9cc9cc", "#f0d0ff")

SIDE = 320
"""Pixels of an image's longer side on the page."""

MOST_MAPS = 6
"""Entities of a post whose attention is drawn."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

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


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture for the page, and what it shows."""

    picture: Image.Image
    caption: str


class Rendering:
    """Posts as HTML. Notebooks show it.

    Args:
        parts: The HTML of each post.
    """

    def __init__(self, parts: Sequence[str]) -> None:
        self.parts = list(parts)

    def _repr_html_(self) -> str:
        return f"<style>{STYLE}</style>\n" + "\n".join(self.parts)

    def page(self, title: str = "mner") -> str:
        """A whole page, which needs no other file and runs nothing."""
        return PAGE.format(title=_text(title), body=self._repr_html_())

    def save(self, path: str | Path, title: str = "mner") -> Path:
        """Write the page to a file."""
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(self.page(title), encoding="utf-8")
        return place


def render(tagger: Tagger, posts: Iterable[Post], attention: bool = True) -> Rendering:
    """Tag posts and draw them.

    Args:
        tagger: The tagger.
        posts: The posts.
        attention: Draw attention over the image, where the model has some.
    """
    parts = []
    for post in posts:
        (prepared,) = tagger.prepare([post])
        (tagged,) = tagger.finish([prepared])
        parts.append(post_html(tagged, tagger.sources, pictures_of(tagger, prepared, tagged, attention)))
    return Rendering(parts)


def entities_html(text: str, entities: Sequence[Entity]) -> str:
    """A text with its entities marked, as HTML that brings its own style."""
    return f"<style>{STYLE}</style><div class='mner'>{_marked(text, entities)}</div>"


def post_html(tagged: Tagged, sources: Sequence[str], pictures: Sequence[Drawn] = ()) -> str:
    """A post with what is known of it."""
    parts = [_marked(tagged.text, tagged)]
    for source, text in zip(sources, tagged.context, strict=False):
        if text:
            parts.append(f"<div class='beside' dir='auto'><b>{_text(source)}</b> {_text(text)}</div>")
    if tagged.image_problem:
        parts.append(f"<div class='beside'>The image was not used: {_text(tagged.image_problem)}</div>")
    figures = [
        f"<figure><img src='{_data_uri(drawn.picture)}' alt='{_text(drawn.caption)}'>"
        f"<figcaption dir='auto'>{_text(drawn.caption)}</figcaption></figure>"
        for drawn in pictures
    ]
    if figures:
        parts.append(f"<div class='pictures'>{''.join(figures)}</div>")
    return "<div class='mner'>" + "\n".join(parts) + "</div>"


def pictures_of(tagger: Tagger, prepared: Prepared, tagged: Tagged, attention: bool = True) -> list[Drawn]:
    """The picture of a post, and where the model looked: one map an entity, or one where all words share it."""
    picture = prepared.opened.picture
    if picture is None:
        return []
    plain = Drawn(_small(picture), "image")
    if not attention or prepared.seen is NOTHING or not 0 < len(prepared.words) <= tagger.tokenizer.room:
        return [plain]
    section = Section(0, prepared.words, prepared.context, prepared.seen)
    with torch.no_grad(), capture_attention(tagger.model) as seen:
        tagger.model.label_scores(tagger.decoder.batch([tagger.decoder.item(section)]))
    if not seen.maps:
        return [plain]
    weights = list(seen.maps.values())[-1][0].cpu()  # (queries, r)
    if len(weights) == 1:
        asked = [("the whole post", weights[0])]
    else:
        asked = [
            (f"“{entity.text}”", weights[entity.word_start : entity.word_end].mean(0)) for entity in tagged[:MOST_MAPS]
        ]
    return [
        plain,
        *(Drawn(_looked(tagger, prepared, some), f"attention of {who}: {_told(some)}") for who, some in asked),
    ]


def _told(weights: torch.Tensor) -> str:
    """How much attention there is in numbers, since a map only compares places."""
    return f"at most {100 * float(weights.max()):.0f} % on one region, {100 / len(weights):.0f} % if spread evenly"


def _looked(tagger: Tagger, prepared: Prepared, weights: torch.Tensor) -> Image.Image:
    picture = prepared.opened.picture
    if picture is None:
        raise ValueError("Expected a picture to draw on, but there is none")
    grid, transform = tagger.sight.grid(), tagger.sight.transform
    if grid is not None and isinstance(transform, ImageTransform):
        shown = _part_seen(picture, transform)
        side = min(_small(picture).size)  # as large as the picture that stands beside it
        return _heated(shown, region_map(weights, grid, shown.shape[:2])).resize((side, side))
    boxes = prepared.seen.boxes
    return _small(picture) if boxes is None else _boxed(picture, boxes, weights.numpy())


def _part_seen(picture: Image.Image, transform: ImageTransform) -> NDArray[np.float32]:
    """What the model saw, (s, s, 3) from 0 to 1: a grid of attention lies over that, not over the whole picture."""
    pixels = transform(picture).permute(1, 2, 0).numpy() * np.array(transform.std) + np.array(transform.mean)
    shown: NDArray[np.float32] = np.clip(pixels, 0, 1).astype(np.float32)
    return shown


def _heated(shown: NDArray[np.float32], heat: NDArray[np.float32]) -> Image.Image:
    """Grey where the model did not look; the more it looked, the redder. Spread evenly it is half red everywhere."""
    share = (heat / max(float(heat.max()), 2 * float(heat.mean()), 1e-12))[..., None]  # (s, s, 1)
    grey = shown.mean(axis=2, keepdims=True) * 0.75 + 0.1
    red = np.concatenate([np.ones_like(share), 0.75 - 0.65 * share, np.zeros_like(share)], axis=2)
    mixed = grey * (1 - 0.7 * share) + red * 0.7 * share
    return Image.fromarray((mixed.clip(0, 1) * 255).astype(np.uint8))


def _boxed(picture: Image.Image, boxes: NDArray[np.float32], weights: NDArray[np.float32]) -> Image.Image:
    """Detected regions as boxes, the wider and redder the more attention they got."""
    drawn = _small(picture.convert("L").convert("RGB"))
    scale = drawn.width / picture.width
    pen = ImageDraw.Draw(drawn)
    shares = weights[: len(boxes)] / max(float(weights.max()), 1e-12)
    for place in np.argsort(shares):
        share = float(shares[place])
        left, top, right, bottom = (float(value) * scale for value in boxes[place])
        colour = (255, int(200 - 180 * share), 0)
        pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=1 + round(4 * share))
    return drawn


def _small(picture: Image.Image) -> Image.Image:
    if max(picture.size) > SIDE:
        picture = picture.copy()
        picture.thumbnail((SIDE, SIDE))
    return picture.convert("RGB")


def _marked(text: str, entities: Sequence[Entity]) -> str:
    parts, end = [], 0
    for entity in entities:
        ground = colour_of(entity.type)
        parts.append(_text(text[end : entity.start]))
        parts.append(
            f"<mark style='background: {ground}' title='{_text(entity.type)}, probability {entity.score:.3f}'>"
            f"{_text(entity.text)}<b>{_text(entity.type)}</b><i>{100 * entity.score:.0f}&nbsp;%</i></mark>"
        )
        end = entity.end
    parts.append(_text(text[end:]))
    return f"<div class='text' dir='auto'>{''.join(parts)}</div>"


def colour_of(type_: str) -> str:
    """The ground of a type; always the same one."""
    return COLOURS.get(type_, MORE[sum(type_.encode(errors="replace")) % len(MORE)])


def _text(value: str) -> str:
    """Text for HTML: nothing in it is a tag, an attribute's end, or a character that HTML forbids."""
    return html.escape(_CONTROL.sub("\ufffd", readable(value)), quote=True)


def _data_uri(picture: Image.Image) -> str:
    file = BytesIO()
    picture.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def show(
    input: str,
    checkpoint: str | None = None,
    output: Path = Path("entities.html"),
    images: Path | None = None,
    context: list[str] | None = None,
    captioner: str | None = None,
    image_weights: Path | None = None,
    count: int = 50,
    attention: bool = True,
    device: str = "auto",
) -> int:
    """Draw posts with their entities, images and attention as a page that needs no other file.

    Args:
        input: File of JSON lines or a folder, as for `mner tag`.
        checkpoint: The checkpoint that `mner fit` wrote, or the folder or Hub name of a shared model.
        output: The page.
        images: Folder with the images that the input names.
        context: Files of context texts, one for each source of the model, in order of training.
        captioner: Image-to-text model for posts without context.
        image_weights: File of the weights of what made the model's image features.
        count: Most posts on the page.
        attention: Draw attention over the images.
        device: `auto`, `cpu`, `cuda`, ...

    Returns:
        Exit code 0.

    Raises:
        DataNotFoundError: If there is no input.
        CheckpointError: If the model cannot be used.
    """
    from mner.given import Images, from_folder, from_lines, sources_of
    from mner.tagger import ImageWarning, Tagger

    source = Path(input)
    if checkpoint is None or not source.exists():
        missing = "--checkpoint" if checkpoint is None else f"a file or folder at {input}"
        raise DataNotFoundError(f"Expected {missing}, but got none")
    options: dict[str, Any] = {"captioner": captioner, "image_weights": image_weights, "device": device}
    tagger = Tagger.load(checkpoint, **options)
    texts = sources_of(context or ())
    parts: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageWarning)  # each is on the page
        if source.is_dir():
            given = from_folder(source, Images(images or source), texts)
            parts = _drawn(tagger, islice(given, count), attention)
        else:
            with source.open("rb") as stream:
                parts = _drawn(tagger, islice(from_lines(stream, input, Images(images), texts), count), attention)
    page = Rendering(parts).save(output, title=f"Entities of {source.name}")
    print(f"{len(parts)} posts drawn on {page}", file=sys.stderr)
    return 0


def _drawn(tagger: Tagger, given: Iterable[Any], attention: bool) -> list[str]:
    parts = []
    for one in given:
        head = f"<div class='beside'>{_text(str(one.id))}"
        if one.post is None:
            parts.append(f"<div class='mner'>{head}: {_text(one.error)}</div></div>")
            continue
        problem = f"<br>The image was not used: {_text(one.image_problem)}" if one.image_problem else ""
        parts.append(f"<div class='mner'>{head}{problem}</div>{render(tagger, [one.post], attention).parts[0]}</div>")
    return parts
