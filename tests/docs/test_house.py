"""The figure of the rooms is drawn from the code as it is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import matplotlib
from PIL import ImageFont

DOCS = Path(__file__).parents[2] / "docs"


def load():
    spec = importlib.util.spec_from_file_location("house", DOCS / "house.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


house = load()


def test_the_committed_figure_is_what_the_script_draws():
    assert house.FILE.read_text(encoding="utf-8") == house.svg(), "run `python docs/house.py`"


def test_every_room_is_drawn_once():
    places = [house.PLACES[room][:2] for room in house.rooms()]
    assert len(set(places)) == len(places) > 8


def test_flows_are_between_rooms_that_know_each_other():
    """But for what goes by a file, or by way of `fusion`."""
    by_file = {("training", "analysis"), ("training", "probing"), ("nn", "training")}
    used = house.imports()
    for start, end, what in house.FLOWS:
        known = end in used.get(start, ()) or start in used.get(end, ())
        assert known or (start, end) in by_file, f"{start} -> {end} ({what})"


def test_text_fits_its_box():
    path = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    for room, what in house.rooms().items():
        assert ImageFont.truetype(path, 12).getlength(what) < house.BOX - 8, (room, what)
