"""A canvas that notes the boxes of what is drawn on it; colours and letters."""

from __future__ import annotations

import random
from typing import NamedTuple

from PIL import Image, ImageChops, ImageDraw

OBJECTS = (
    *("person", "mountain", "lake", "trees", "building", "sun"),
    *("palm tree", "shop", "logo", "dog", "cup", "record"),
)
"""What is drawn."""

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]
COLOURS: dict[str, Colour] = {
    "red": (200, 50, 45),
    "orange": (230, 130, 40),
    "yellow": (235, 205, 70),
    "green": (60, 150, 80),
    "blue": (50, 95, 190),
    "purple": (120, 70, 160),
    "pink": (230, 130, 170),
    "grey": (130, 130, 135),
}

LETTERS = [  # A H M O T V X: five rows of three pixels, the same in a mirror
    "010101111101101",
    "101101111101101",
    "101111111101101",
    "111101101101111",
    "111010010010010",
    "101101101101010",
    "101101010101101",
]


class Thing(NamedTuple):
    """An object of a picture."""

    name: str  # one of OBJECTS
    box: Box  # left, top, right, bottom in the picture's pixels


class Scene(NamedTuple):
    """A picture, its caption and what is drawn in it, from back to front."""

    image: Image.Image
    caption: str
    things: list[Thing]


class Draw(ImageDraw.ImageDraw):
    """Takes note of what is drawn: the box of an object is that of the pixels that it changed.

    Args:
        image: The canvas.
    """

    def __init__(self, image: Image.Image) -> None:
        super().__init__(image)
        self.things: list[Thing] = []
        self._canvas = image
        self._before = image.copy()

    def begin(self) -> None:
        """What was drawn until now is background, or was named before."""
        self._before = self._canvas.copy()

    def drew(self, name: str) -> None:
        """What was drawn since is one object."""
        box = ImageChops.difference(self._before, self._canvas).getbbox()
        if box is not None:
            self.things.append(Thing(name, box))
        self.begin()


def vary(colour: Colour, rng: random.Random, amount: int = 25) -> Colour:
    """A colour nearby."""
    red, green, blue = (min(255, max(0, part + rng.randint(-amount, amount))) for part in colour)
    return red, green, blue


def pick(rng: random.Random) -> tuple[str, Colour]:
    """A colour and its name."""
    name = rng.choice(list(COLOURS))
    return name, vary(COLOURS[name], rng)


def letters(draw: Draw, rng: random.Random, box: tuple[float, float, float, float], colour: Colour) -> None:
    """Block letters that fill `box`; they spell nothing."""
    left, top, right, bottom = box
    pixel = (bottom - top) / 5
    count = max(1, int((right - left + pixel) // (4 * pixel)))
    left += (right - left - (4 * count - 1) * pixel) / 2
    for _ in range(count):
        for place, bit in enumerate(rng.choice(LETTERS)):
            x, y = left + place % 3 * pixel, top + place // 3 * pixel
            if bit == "1":
                draw.rectangle([x, y, x + pixel, y + pixel], colour)
        left += 4 * pixel
