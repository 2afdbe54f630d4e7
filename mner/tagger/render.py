"""Posts as HTML, in the manner of displaCy: entities marked, the image, and where the model looked."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import nn

from mner.data.transforms import ImageTransform
from mner.files import HTML_MARK, write_text
from mner.html import PAGE, STYLE, escaped, filters, marked
from mner.labels import spans
from mner.nn.attention_maps import capture_attention, region_map
from mner.tagger.image_processor import NOTHING, Seen, Sight
from mner.tagger.post import Entity, Tagged
from mner.tagger.sections import Section, SectionDecoder

if TYPE_CHECKING:
    from mner.tagger.preprocessor import Prepared

SIDE = 320
"""Pixels of an image's longer side on the page."""
MOST_MAPS = 6
"""Entities of a post whose attention is drawn."""


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
        """A whole page, which needs no other file and runs nothing; of several posts with filters over them."""
        posts = "\n".join(f"<article class='mner-post'>{part}</article>" for part in self.parts)
        head = f"<h1>{escaped(title)}</h1>\n{filters(posts) if len(self.parts) > 1 else ''}\n"
        return PAGE.format(title=escaped(title), body=head + posts)

    def save(self, path: str | Path, title: str = "mner") -> Path:
        """Write the page to a file, which is new or such a page; `-` is the standard output.

        Raises:
            DataFormatError: If there is something else.
        """
        write_text(path, self.page(title), HTML_MARK)
        return Path(path)


def post_html(
    tagged: Tagged, sources: Sequence[str], pictures: Sequence[Drawn] = (), gold: Sequence[Entity] | None = None
) -> str:
    """A post with what is known of it; with `gold`, whether it differs from that, and in what."""
    parts = [marked(tagged.text, tagged)] if gold is None else _beside_gold(tagged, gold)
    for source, text in zip(sources, tagged.context, strict=False):
        if text:
            parts.append(f"<div class='beside' dir='auto'><b>{escaped(source)}</b> {escaped(text)}</div>")
    if tagged.image_problem:
        parts.append(f"<div class='beside'>The image was not used: {escaped(tagged.image_problem)}</div>")
    figures = [
        f"<figure><img src='{data_uri(drawn.picture)}' alt='{escaped(drawn.caption)}'>"
        f"<figcaption dir='auto'>{escaped(drawn.caption)}</figcaption></figure>"
        for drawn in pictures
    ]
    if figures:
        parts.append(f"<div class='pictures'>{''.join(figures)}</div>")
    return "<div class='mner'>" + "\n".join(parts) + "</div>"


def gold_of(prepared: Prepared, labels: Sequence[Any]) -> list[Entity]:
    """The entities that labels say of a post: BIO tags, one a word, or spans `[start, end, type]` of its characters.

    Their score is NaN.

    Raises:
        ValueError: If they do not fit the post, or spans overlap.
    """
    words, text, nan = prepared.words, prepared.text, float("nan")
    if labels and not isinstance(labels[0], str):
        found = [Entity(text[start:end], type_, start, end, nan, 0, 0) for start, end, type_ in sorted(labels)]
        ends = [0, *(one.end for one in found)]
        if any(not end <= one.start < one.end <= len(text) for end, one in zip(ends, found, strict=False)):
            raise ValueError("spans overlap, or lie outside of the text")
        return found
    if len(labels) != len(words):
        raise ValueError(f"there are {len(labels)} labels for {len(words)} words")
    found = []
    for span in spans(labels):
        first, last = words[span.start].start, words[span.end - 1].end
        found.append(Entity(text[first:last], span.type, first, last, nan, span.start, span.end))
    return found


def _beside_gold(tagged: Tagged, gold: Sequence[Entity]) -> list[str]:
    """A line of what was found and, where gold is another, a line of that; each entity that differs says in what."""
    found = [_remark(entity, gold, "not in gold", "in gold") for entity in tagged]
    missed = [_remark(entity, tagged, "not found", "found") for entity in gold]
    same = not any(found) and not any(missed)
    first = f"<span class='who'>{'as gold' if same else 'found'}</span>{marked(tagged.text, tagged, found)}"
    lines = [f"<div class='line {'agrees' if same else 'differs'}'>{first}</div>"]
    if not same:
        second = marked(tagged.text, gold, missed)
        lines.append(f"<div class='line gold'><span class='who'>gold</span>{second}</div>")
    return lines


def _remark(entity: Entity, others: Sequence[Entity], nowhere: str, there: str) -> str:
    """In what an entity differs from those on the other side; "" if it is among them."""
    same = [one.type for one in others if (one.start, one.end) == (entity.start, entity.end)]
    if entity.type in same:
        return ""
    if same:
        return f"{same[0]} {there}"
    overlaps = any(one.start < entity.end and entity.start < one.end for one in others)
    return f"other edges {there}" if overlaps else nowhere


def pictures_of(
    decoder: SectionDecoder, sight: Sight, prepared: Prepared, tagged: Tagged, attention: bool = True
) -> list[Drawn]:
    """The picture of a post, and where the model looked: one map an entity, or one where all words share it."""
    picture = prepared.opened.picture
    if picture is None:
        return []
    plain = Drawn(small(picture), "image")
    known = isinstance(decoder.model, nn.Module) and prepared.seen is not NOTHING  # of a graph nothing is known
    if not attention or not known or not 0 < len(prepared.words) <= decoder.tokenizer.room:
        return [plain]
    section = Section(0, prepared.words, prepared.context, prepared.seen, prepared.object_names, prepared.relation)
    with torch.no_grad(), capture_attention(decoder.model) as seen:
        decoder.model.label_scores(decoder.batch(decoder.items(section)))
    if not seen.maps:
        return [plain]
    weights = _of_first_picture(list(seen.maps.values())[-1][0].cpu(), prepared.seen)  # (queries, r)
    if len(weights) == 1:
        asked = [("the whole post", weights[0])]
    else:
        asked = [
            (f"“{entity.text}”", weights[entity.word_start : entity.word_end].mean(0)) for entity in tagged[:MOST_MAPS]
        ]
    return [
        plain,
        *(Drawn(_looked(sight, prepared, some), f"attention of {who}: {_told(some)}") for who, some in asked),
    ]


def _of_first_picture(weights: torch.Tensor, seen: Seen) -> torch.Tensor:
    """The attention (queries, r) on the regions of the picture that is drawn, where a post has several."""
    if seen.image_mask is not None:
        cells, first = weights.shape[-1] // len(seen.image_mask), int(seen.image_mask.argmax())
        return weights[:, first * cells : (first + 1) * cells]
    return weights[:, : seen.first]


def _told(weights: torch.Tensor) -> str:
    """How much attention there is in numbers, since a map only compares places."""
    return f"at most {100 * float(weights.max()):.0f} % on one region, {100 / len(weights):.0f} % if spread evenly"


def _looked(sight: Sight, prepared: Prepared, weights: torch.Tensor) -> Image.Image:
    picture = prepared.opened.picture
    if picture is None:
        raise ValueError("Expected a picture to draw on, but there is none")
    grid, transform = sight.grid(), sight.transform
    if grid is not None and isinstance(transform, ImageTransform):
        shown = _part_seen(picture, transform)
        side = min(small(picture).size)  # as large as the picture that stands beside it
        return _heated(shown, region_map(weights, grid, shown.shape[:2])).resize((side, side))
    boxes = prepared.seen.boxes
    return small(picture) if boxes is None else _boxed(picture, boxes, weights.numpy())


def _part_seen(picture: Image.Image, transform: ImageTransform) -> NDArray[np.float32]:
    """What the model saw, (s, s, 3) from 0 to 1: a grid of attention lies over that, not over the whole picture."""
    pixels = transform(picture).permute(1, 2, 0).numpy() * np.array(transform.std) + np.array(transform.mean)
    shown: NDArray[np.float32] = np.clip(pixels, 0, 1).astype(np.float32)
    return shown


def _heated(shown: NDArray[np.float32], heat: NDArray[np.float32]) -> Image.Image:
    """The picture in grey under viridis: the brighter, the more the model looked there, in print too.

    Attention that is spread evenly is half as bright as the scale goes everywhere.
    """
    share = heat / max(float(heat.max()), 2 * float(heat.mean()), 1e-12)  # (s, s)
    grey = shown.mean(axis=2, keepdims=True)
    mixed = 0.7 * _colours(share) + 0.3 * grey
    return Image.fromarray((mixed.clip(0, 1) * 255).astype(np.uint8))


def _colours(share: NDArray[Any]) -> NDArray[Any]:
    """Colours (…, 3) of shares from 0 to 1, evenly spaced to the eye, and in grey."""
    from matplotlib import colormaps

    colours: NDArray[Any] = colormaps["viridis"](share)[..., :3]
    return colours


def _boxed(picture: Image.Image, boxes: NDArray[np.float32], weights: NDArray[np.float32]) -> Image.Image:
    """Detected regions as boxes on the darkened picture, the wider and brighter the more attention they got."""
    drawn = small(picture.convert("L").point(lambda value: value // 2).convert("RGB"))
    scale = drawn.width / picture.width
    pen = ImageDraw.Draw(drawn)
    shares = weights[: len(boxes)] / max(float(weights.max()), 1e-12)
    for place in np.argsort(shares):
        share = float(shares[place])
        left, top, right, bottom = (float(value) * scale for value in boxes[place])
        red, green, blue = (int(255 * part) for part in _colours(np.array([0.25 + 0.75 * share]))[0])
        box = (left, top, max(left, right), max(top, bottom))
        pen.rectangle(box, outline=(red, green, blue), width=1 + round(4 * share))
    return drawn


def small(picture: Image.Image) -> Image.Image:
    """A picture as large as it is on a page."""
    if max(picture.size) > SIDE:
        picture = picture.copy()
        picture.thumbnail((SIDE, SIDE))
    return picture.convert("RGB")


def data_uri(picture: Image.Image) -> str:
    """A picture as the address of an `img`, so that a page needs no other file."""
    file = BytesIO()
    picture.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
