"""Posts as HTML, in the manner of displaCy: entities marked, the image, and where the model looked."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mner.data.transforms import ImageTransform
from mner.files import HTML_MARK, write_text
from mner.html import PAGE, STYLE, escaped, marked
from mner.nn.attention_maps import capture_attention, region_map
from mner.tagger.decoder import Decoder, Section
from mner.tagger.image_processor import NOTHING, Seen, Sight
from mner.tagger.post import Tagged

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
        """A whole page, which needs no other file and runs nothing."""
        return PAGE.format(title=escaped(title), body=self._repr_html_())

    def save(self, path: str | Path, title: str = "mner") -> Path:
        """Write the page to a file, which is new or such a page; `-` is the standard output.

        Raises:
            DataFormatError: If there is something else.
        """
        write_text(path, self.page(title), HTML_MARK)
        return Path(path)


def post_html(tagged: Tagged, sources: Sequence[str], pictures: Sequence[Drawn] = ()) -> str:
    """A post with what is known of it."""
    parts = [marked(tagged.text, tagged)]
    for source, text in zip(sources, tagged.context, strict=False):
        if text:
            parts.append(f"<div class='beside' dir='auto'><b>{escaped(source)}</b> {escaped(text)}</div>")
    if tagged.image_problem:
        parts.append(f"<div class='beside'>The image was not used: {escaped(tagged.image_problem)}</div>")
    figures = [
        f"<figure><img src='{_data_uri(drawn.picture)}' alt='{escaped(drawn.caption)}'>"
        f"<figcaption dir='auto'>{escaped(drawn.caption)}</figcaption></figure>"
        for drawn in pictures
    ]
    if figures:
        parts.append(f"<div class='pictures'>{''.join(figures)}</div>")
    return "<div class='mner'>" + "\n".join(parts) + "</div>"


def pictures_of(
    decoder: Decoder, sight: Sight, prepared: Prepared, tagged: Tagged, attention: bool = True
) -> list[Drawn]:
    """The picture of a post, and where the model looked: one map an entity, or one where all words share it."""
    picture = prepared.opened.picture
    if picture is None:
        return []
    plain = Drawn(_small(picture), "image")
    if not attention or prepared.seen is NOTHING or not 0 < len(prepared.words) <= decoder.tokenizer.room:
        return [plain]
    section = Section(
        0, prepared.words, prepared.context, prepared.seen, prepared.object_names, prepared.relation
    )
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


def _data_uri(picture: Image.Image) -> str:
    file = BytesIO()
    picture.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
