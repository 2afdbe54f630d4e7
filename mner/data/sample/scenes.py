"""Small pictures of simple scenes, drawn by code: what a post of the sample data shows.

Each entity type has its kinds of picture: a person, a place, a shop or logo, a thing or animal. Colours, positions and
sizes vary, and indoor and outdoor backgrounds are shared, so that the shape has to be seen.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
from PIL import Image

from mner.data.sample.canvas import Colour, Draw, Scene, Thing, letters, pick, vary

SIZE = 96
_CANVAS = 2 * SIZE  # drawn large and reduced, which smooths the edges

_HAIR: dict[str, Colour] = {
    "dark": (40, 30, 28),
    "brown": (105, 65, 35),
    "blond": (225, 190, 110),
    "grey": (165, 165, 165),
}
_SKIN: list[Colour] = [(250, 215, 185), (225, 175, 135), (175, 120, 85), (110, 72, 50)]


def draw_scene(type_: str, seed: str) -> tuple[Image.Image, str]:
    """A picture that fits an entity of `type_` (PER, LOC, ORG or MISC), and its caption; the same for the same seed.

    Raises:
        ValueError: If no picture is known for `type_`.
    """
    return draw_objects(type_, seed)[:2]


def draw_objects(type_: str, seed: str) -> Scene:
    """As `draw_scene`, with the boxes and names of what is drawn.

    Raises:
        ValueError: If no picture is known for `type_`.
    """
    if type_ not in _SCENES:
        raise ValueError(f"Expected argument `type_` to be one of {list(_SCENES)}, but got {type_!r}")
    rng = random.Random(f"{seed} {type_}")
    image = Image.new("RGB", (_CANVAS, _CANVAS))
    draw = Draw(image)
    caption = rng.choice(_SCENES[type_])(draw, rng)
    boxes = [thing.box for thing in draw.things]
    if rng.random() < 0.5:
        boxes = [(_CANVAS - right, top, _CANVAS - left, bottom) for left, top, right, bottom in boxes]
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(image.reduce(2), dtype=np.float64)
    grain = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(3, 9), pixels.shape)
    pixels = pixels * rng.uniform(0.75, 1.1) + grain  # light of the day, and grain
    halves = [(left / 2, top / 2, right / 2, bottom / 2) for left, top, right, bottom in boxes]
    things = [Thing(thing.name, box) for thing, box in zip(draw.things, halves, strict=True)]
    return Scene(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), caption, things)


def _sky(draw: Draw, rng: random.Random) -> str:
    """A sky over the whole canvas, and how the caption calls it."""
    name, top, low = rng.choice(
        [
            ("a blue sky", (70, 140, 220), (190, 220, 245)),
            ("a grey sky", (130, 140, 150), (205, 208, 212)),
            ("a red evening sky", (90, 60, 120), (250, 150, 90)),
            ("a dark night sky", (15, 18, 50), (60, 60, 110)),
        ]
    )
    for y in range(_CANVAS):
        share = y / _CANVAS
        draw.line([(0, y), (_CANVAS, y)], tuple(round(a + (b - a) * share) for a, b in zip(top, low, strict=True)))
    return name


def _background(draw: Draw, rng: random.Random) -> str:
    """Indoors or outdoors, whatever stands before it."""
    if rng.random() < 0.5:
        _sky(draw, rng)
        horizon = rng.randint(110, 150)
        draw.rectangle([0, horizon, _CANVAS, _CANVAS], vary((95, 150, 70), rng))
        draw.begin()
        return "on the grass"
    _, wall = pick(rng)
    draw.rectangle([0, 0, _CANVAS, _CANVAS], tuple((part + 2 * 235) // 3 for part in wall))
    draw.rectangle([0, rng.randint(135, 165), _CANVAS, _CANVAS], vary((120, 85, 60), rng))
    draw.begin()
    return "in a room"


def _portrait(draw: Draw, rng: random.Random) -> str:
    place = _background(draw, rng)
    x, y, radius = rng.randint(70, 122), rng.randint(68, 88), rng.randint(30, 40)
    hair_name, hair = rng.choice(list(_HAIR.items()))
    shirt_name, shirt = pick(rng)
    skin = rng.choice(_SKIN)
    long_hair = rng.random() < 0.5
    hair_end = y + radius * (1.7 if long_hair else 0.1)
    draw.ellipse([x - 1.15 * radius, y - 1.45 * radius, x + 1.15 * radius, y + 0.6 * radius], hair)
    draw.rectangle([x - 1.15 * radius, y - 0.4 * radius, x + 1.15 * radius, hair_end], hair)
    draw.rectangle([x - 0.35 * radius, y + 0.7 * radius, x + 0.35 * radius, y + 1.8 * radius], skin)
    draw.ellipse([x - 2.0 * radius, y + 1.4 * radius, x + 2.0 * radius, y + 5 * radius], shirt)
    draw.ellipse([x - 0.9 * radius, y - 1.1 * radius, x + 0.9 * radius, y + 1.15 * radius], skin)
    draw.chord([x - 1.0 * radius, y - 1.3 * radius, x + 1.0 * radius, y + 0.5 * radius], 195, 345, hair)
    for side in (-1, 1):
        eye = x + side * 0.38 * radius
        draw.ellipse([eye - 4, y - 5, eye + 4, y + 3], (250, 250, 250))
        draw.ellipse([eye - 3, y - 4, eye + 3, y + 3], (30, 30, 30))
    draw.arc([x - 0.4 * radius, y + 0.1 * radius, x + 0.4 * radius, y + 0.75 * radius], 20, 160, (150, 40, 50), width=4)
    draw.drew("person")
    return f"a {'woman' if long_hair else 'man'} with {hair_name} hair in a {shirt_name} shirt {place}"


def _figures(draw: Draw, rng: random.Random) -> str:
    place = _background(draw, rng)
    count = rng.choice([1, 2])
    height, middle = rng.randint(120, 145), rng.randint(80, 112)
    shirt_name = ""
    for number in range(count):
        x = middle + (number * 70 - 35 if count == 2 else 0)
        top = _CANVAS - 18 - height + rng.randint(-6, 6)
        head, skin = height // 9, rng.choice(_SKIN)
        shirt_name, shirt = pick(rng)
        trousers = vary(rng.choice([(40, 50, 90), (50, 50, 50), (120, 100, 75)]), rng, 12)
        shoulder, hip, foot = top + 2.4 * head, top + 5 * head, top + height
        for side in (-1, 1):
            draw.line([(x + side * 12, hip - 6), (x + side * 16, foot)], trousers, width=16)
            draw.line([(x + side * 17, shoulder + 6), (x + side * rng.randint(28, 40), hip)], skin, width=9)
        draw.rounded_rectangle([x - 22, shoulder, x + 22, hip], 9, shirt)
        draw.rectangle([x - 5, top + head, x + 5, shoulder], skin)
        draw.ellipse([x - head, top, x + head, top + 2.2 * head], skin)
        draw.chord([x - head - 2, top - 3, x + head + 2, top + 2 * head], 180, 360, rng.choice(list(_HAIR.values())))
        draw.drew("person")
    return f"two people standing {place}" if count == 2 else f"a person in a {shirt_name} shirt standing {place}"


def _mountains(draw: Draw, rng: random.Random) -> str:
    sky = _sky(draw, rng)
    shore = rng.randint(120, 145)
    rock = vary((95, 100, 115), rng)
    draw.begin()
    for _ in range(rng.randint(3, 5)):
        x, height, half = rng.randint(0, _CANVAS), rng.randint(50, 105), rng.randint(45, 80)
        shade = vary(rock, rng, 15)
        draw.polygon([(x - half, shore), (x, shore - height), (x + half, shore)], shade)
        cap = 0.3
        draw.polygon(
            [
                (x - cap * half, shore - (1 - cap) * height),
                (x, shore - height),
                (x + cap * half, shore - (1 - cap) * height),
            ],
            (240, 245, 250),
        )
        draw.drew("mountain")
    water = rng.random() < 0.5
    draw.rectangle([0, shore, _CANVAS, _CANVAS], vary((50, 110, 160) if water else (80, 130, 60), rng))
    if not water:
        draw.begin()  # the ground is no object, the lake is one
    for _ in range(14):
        x, y = rng.randint(0, _CANVAS), rng.randint(shore + 6, _CANVAS)
        if water:
            draw.line([(x, y), (x + 22, y)], (140, 185, 215), width=2)
        else:
            draw.polygon([(x - 7, y), (x, y - 24), (x + 7, y)], vary((35, 90, 45), rng, 12))
    draw.drew("lake" if water else "trees")
    return f"mountains {'behind a lake' if water else 'and trees'} under {sky}"


def _skyline(draw: Draw, rng: random.Random) -> str:
    sky = _sky(draw, rng)
    ground = rng.randint(155, 178)
    x = -rng.randint(0, 15)
    draw.begin()
    while x < _CANVAS:
        width, height = rng.randint(22, 42), rng.randint(50, 145)
        wall = vary(rng.choice([(90, 95, 110), (140, 120, 105), (60, 75, 100), (165, 160, 155)]), rng, 12)
        draw.rectangle([x, ground - height, x + width, ground], wall)
        for row in range(ground - height + 6, ground - 8, 13):
            for column in range(x + 4, x + width - 5, 9):
                draw.rectangle([column, row, column + 4, row + 6], rng.choice([(250, 235, 150), (45, 50, 65)]))
        draw.drew("building")
        x += width + rng.choice([0, 0, 3])
    draw.rectangle([0, ground, _CANVAS, _CANVAS], vary((70, 70, 75), rng, 12))
    return f"the tall buildings of a city under {sky}"


def _beach(draw: Draw, rng: random.Random) -> str:
    sky = _sky(draw, rng)
    sun_x, sun_y, horizon = rng.randint(20, 172), rng.randint(20, 60), rng.randint(85, 105)
    draw.begin()
    draw.ellipse([sun_x - 16, sun_y - 16, sun_x + 16, sun_y + 16], (255, 235, 140))
    draw.drew("sun")
    draw.rectangle([0, horizon, _CANVAS, _CANVAS], vary((40, 130, 175), rng))
    draw.polygon(
        [(0, rng.randint(125, 150)), (_CANVAS, rng.randint(140, 165)), (_CANVAS, _CANVAS), (0, _CANVAS)],
        vary((230, 205, 150), rng, 15),
    )
    draw.begin()
    foot, top = rng.randint(40, 150), rng.randint(50, 75)
    head = foot + rng.randint(-20, 20)
    draw.line([(foot, 165), (head, top)], (110, 75, 45), width=8)
    for degrees in range(0, 360, 45):
        x, y = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        draw.line([(head, top), (head + 36 * x, top + 22 * y + 8)], (40, 125, 55), width=8)
    draw.drew("palm tree")
    return f"a palm tree on a beach under {sky}"


def _shop(draw: Draw, rng: random.Random) -> str:
    _, wall = pick(rng)
    draw.rectangle([0, 0, _CANVAS, _CANVAS], tuple((part + 150) // 2 for part in wall))
    draw.begin()
    name, stripe = pick(rng)
    left, right, top = rng.randint(4, 22), rng.randint(170, 188), rng.randint(18, 36)
    pale, dark = (248, 243, 233), (30, 35, 45)
    sign, lettering = rng.choice([(dark, pale), (stripe, pale), (pale, dark)])
    draw.rectangle([left, top, right, top + 38], sign, outline=(20, 20, 20), width=3)
    letters(draw, rng, (left + 12, top + 9, right - 12, top + 29), lettering)
    low = top + 42
    steps = 8
    step = (right - left) / steps
    for number in range(steps):
        x = left + number * step
        draw.rectangle([x, low, x + step, low + 28], stripe if number % 2 else (245, 245, 240))
        draw.pieslice([x, low + 18, x + step, low + 38], 0, 180, stripe if number % 2 else (245, 245, 240))
    draw.rectangle([left + 8, low + 44, left + 98, 166], vary((170, 205, 220), rng, 15))
    draw.rectangle([left + 8, low + 44, left + 98, 166], outline=(60, 50, 45), width=4)
    draw.rectangle([left + 112, low + 42, right - 8, 178], vary((110, 70, 45), rng))
    draw.drew("shop")
    draw.rectangle([0, 178, _CANVAS, _CANVAS], (115, 115, 115))
    return f"the front of a shop with a {name} and white awning"


def _logo(draw: Draw, rng: random.Random) -> str:
    name, colour = pick(rng)
    _, other = pick(rng)
    tint = tuple((part + 2 * 250) // 3 for part in other)
    ground = rng.choice([(248, 248, 248), (235, 230, 220), (35, 35, 40), tint])
    draw.rectangle([0, 0, _CANVAS, _CANVAS], ground)
    draw.begin()
    x, y, radius = rng.randint(80, 112), rng.randint(66, 82), rng.randint(40, 52)
    shape, sides = rng.choice([("round", 0), ("square", 4), ("six-sided", 6)])
    if sides:
        draw.regular_polygon((x, y, radius), sides, fill=colour)
    else:
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], colour)
        draw.ellipse([x - radius + 7, y - radius + 7, x + radius - 7, y + radius - 7], outline=(250, 250, 250), width=4)
    letters(draw, rng, (x - 0.36 * radius, y - 0.5 * radius, x + 0.36 * radius, y + 0.5 * radius), (250, 250, 250))
    letters(draw, rng, (24, 146, 168, 168), colour)
    draw.drew("logo")
    return f"a {shape} {name} logo with letters"


def _dog(draw: Draw, rng: random.Random) -> str:
    place = _background(draw, rng)
    name, coat = rng.choice(
        [("brown", (140, 90, 50)), ("black", (45, 42, 42)), ("white", (235, 230, 220)), ("golden", (215, 165, 85))]
    )
    coat = vary(coat, rng, 8)
    dark = tuple(part * 2 // 3 for part in coat)
    x, y = rng.randint(78, 100), rng.randint(105, 125)
    for leg in (-38, -22, 22, 38):
        draw.rectangle([x + leg - 6, y + 10, x + leg + 6, y + 56], dark if leg in (-22, 22) else coat)
    draw.line([(x - 46, y), (x - 72, y - 36)], coat, width=10)
    draw.ellipse([x - 54, y - 24, x + 54, y + 28], coat)
    head_x, head_y = x + 52, y - 34
    draw.ellipse([head_x - 28, head_y - 26, head_x + 26, head_y + 26], coat)
    draw.ellipse([head_x + 2, head_y - 6, head_x + 46, head_y + 22], coat)
    draw.ellipse([head_x + 34, head_y - 2, head_x + 47, head_y + 9], (20, 20, 20))
    draw.ellipse([head_x + 4, head_y - 12, head_x + 12, head_y - 4], (20, 20, 20))
    draw.ellipse([head_x - 34, head_y - 24, head_x - 12, head_y + 26], dark)
    draw.drew("dog")
    return f"a {name} dog {place}"


def _trophy(draw: Draw, rng: random.Random) -> str:
    place = _background(draw, rng)
    name, metal = rng.choice([("golden", (225, 180, 50)), ("silver", (195, 200, 210)), ("bronze", (180, 115, 60))])
    metal = vary(metal, rng, 12)
    x, top, half = rng.randint(70, 122), rng.randint(24, 44), rng.randint(34, 44)
    for side in (-1, 1):
        handle = x + side * half
        draw.ellipse([handle - 20, top + 6, handle + 20, top + 52], outline=metal, width=8)
    draw.pieslice([x - half, top - 78, x + half, top + 78], 0, 180, metal)
    draw.ellipse([x - half, top - 8, x + half, top + 8], tuple(part * 3 // 4 for part in metal))
    draw.line([(x - half // 2, top + 14), (x - half // 3, top + 50)], (255, 250, 225), width=7)
    draw.rectangle([x - 6, top + 74, x + 6, top + 104], metal)
    draw.rectangle([x - 24, top + 100, x + 24, top + 110], metal)
    draw.rectangle([x - 34, top + 110, x + 34, top + 136], (60, 42, 35))
    draw.drew("cup")
    return f"a {name} cup {place}"


def _record(draw: Draw, rng: random.Random) -> str:
    place = _background(draw, rng)
    name, label = pick(rng)
    x, y, radius = rng.randint(80, 112), rng.randint(80, 112), rng.randint(58, 74)
    _, sleeve = pick(rng)
    draw.rectangle([x - radius - 16, y - radius, x + radius // 2, y + radius], sleeve)
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], (22, 22, 24))
    for groove in range(radius // 2, radius - 4, 6):
        draw.ellipse([x - groove, y - groove, x + groove, y + groove], outline=(75, 75, 80), width=1)
    draw.ellipse([x - radius * 0.36, y - radius * 0.36, x + radius * 0.36, y + radius * 0.36], label)
    draw.ellipse([x - 4, y - 4, x + 4, y + 4], (240, 240, 240))
    draw.drew("record")
    return f"a black record with a {name} label {place}"


_SCENES: dict[str, list[Callable[[Draw, random.Random], str]]] = {
    "PER": [_portrait, _figures],
    "LOC": [_mountains, _skyline, _beach],
    "ORG": [_shop, _logo],
    "MISC": [_dog, _trophy, _record],
}
