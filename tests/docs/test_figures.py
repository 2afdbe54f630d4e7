"""The figures of data flow are in step with their script, tell the shapes that the modules return, and hide no text."""

import importlib.util
import re
import sys
from itertools import combinations, pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import ImageFont

import mner.fusion
from mner.data.batching import Collate
from mner.data.dataset import MNERDataset
from mner.data.examples import Example
from mner.data.tokenizer import PostTokenizer
from mner.labels import bio_labels
from tests.conftest import WORDS

DOCS = Path(__file__).parents[2] / "docs"


def load_script():
    spec = importlib.util.spec_from_file_location("figures", DOCS / "figures.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["figures"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


figures = load_script()
every = pytest.mark.parametrize("name", figures.FIGURES)


@every
def test_the_committed_figure_is_what_the_script_draws(name):
    found = (figures.FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    assert found == figures.FIGURES[name].svg(), "run `python docs/figures.py`"
    assert len(found) < 10_000


@pytest.mark.parametrize("page", sorted((DOCS / "strategies").glob("[!i]*.md")), ids=lambda page: page.stem)
def test_every_strategy_has_its_figure(page):
    assert page.stem in figures.FIGURES
    assert re.search(rf"!\[\w.+\]\(\.\./_static/figures/{page.stem}\.svg\)", page.read_text(encoding="utf-8"))


@every
def test_text_fits_its_box(name):
    # DejaVu Sans, which matplotlib brings, is wider than most fonts that a reader may have.
    path = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    for box in figures.FIGURES[name].boxes.values():
        for text, size in ((box.text, 13), (box.shape, 12)):
            assert ImageFont.truetype(path, size).getlength(text) <= box.width - 8, text


@every
def test_boxes_are_apart_and_on_the_page(name):
    figure = figures.FIGURES[name]
    for box in figure.boxes.values():
        left, top, right, bottom = box.corners
        assert 0 < left < right < figures.WIDTH, box.text
        assert 0 < top < bottom < figure.height, box.text
    for one, other in combinations(figure.boxes.values(), 2):
        a, b = one.corners, other.corners
        assert a[2] + 10 <= b[0] or b[2] + 10 <= a[0] or a[3] + 10 <= b[1] or b[3] + 10 <= a[1], (one.text, other.text)


@every
def test_arrows_cross_no_box_and_connect_all(name):
    figure = figures.FIGURES[name]
    connected = set()
    for arrow, points in figure.paths():
        ends = {end.partition(".")[0] for end in arrow.split()[:2]}
        connected |= ends
        assert all(3 < x < figures.WIDTH - 3 for x, _ in points), arrow
        for start, end in pairwise(points):
            assert (start[0] == end[0]) != (start[1] == end[1]), f"{arrow} is not straight"
            for key, box in figure.boxes.items():
                left, top, right, bottom = box.corners
                apart = (
                    max(start[0], end[0]) <= left
                    or min(start[0], end[0]) >= right
                    or max(start[1], end[1]) <= top
                    or min(start[1], end[1]) >= bottom
                )
                assert apart, f"{arrow} runs through {key}"
    assert connected == set(figure.boxes)


def shape_of(text, sizes):
    """`"v̂ (b, t + r, 2d)"` as a tuple of numbers."""
    inner = re.search(r"\((.*)\)", text)[1].replace(" + ", " ")
    terms = [re.findall(r"(\d*)([a-z]?)", part) for part in inner.split(", ")]
    return tuple(sum(int(n or 1) * sizes.get(x, 1) for n, x in term if n or x) for term in terms)


def class_of(name):
    wanted = name.replace("_", "")
    return next(getattr(mner.fusion, cls) for cls in mner.fusion.__all__ if cls.lower() == wanted)


@every
def test_shapes_are_what_the_modules_return(name, bert_folder):
    figure, cls = figures.FIGURES[name], class_of(name)
    posts = [Example(str(row), f"i{row}", tuple(words), tuple(tags), ()) for row, (words, tags) in enumerate(WORDS[:3])]
    labels = bio_labels(["PER", "LOC", "ORG", "MISC"])
    store = {post.image_id: np.ones((7, 11), dtype=np.float32) for post in posts}
    dataset = MNERDataset(posts, labels, PostTokenizer(bert_folder), regions=store)
    batch = Collate(0, region_width=11)([dataset[row] for row in range(3)])
    options = {"region_width": 11} if cls.uses_image else {}
    options |= {"projected_width": 13} if name in ("concatenation", "modality_attention") else {}
    model = cls(labels, bert_folder, **options).eval()
    (b, t), w = batch["token_ids"].shape, batch["word_mask"].shape[1]
    batch["object_names"] = [["dog", "old car", "tree", "sky"]] * b
    sizes = {"b": b, "t": t, "w": w, "r": 7, "f": 11, "d": model.width, "l": len(labels), "p": 13, "o": 4}
    assert len(set(sizes.values())) == len(sizes), sizes  # or a letter could pass for another
    seen = {}

    def keep(key):
        def hook(module, args, output):
            output = output if torch.is_tensor(output) else output[0]  # a tuple, or what transformers returns
            seen.setdefault(key, tuple(output.shape))

        return hook

    named = {box.module: box.shape for box in figure.boxes.values() if box.module}
    for key in named:
        model.get_submodule(key).register_forward_hook(keep(key))
    model.emissions(batch)
    assert seen == {key: shape_of(shape, sizes) for key, shape in named.items()}
    assert len(named) >= 3
