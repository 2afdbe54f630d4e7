import itertools
import json
import sys

import pytest
from PIL import Image, ImageDraw, ImageFont

from mner.data.examples import Example
from mner.data.formats.context import attach, read_context
from mner.errors import DataFormatError, DataNotFoundError, MissingDependencyError
from mner.preprocessing.ocr import Line, TextReader, ocr, reading_order


def drawn(*texts, size=(320, 240)):
    """An image with texts at places: (left, top, text)."""
    image = Image.new("RGB", size, "white")
    for left, top, text in texts:
        ImageDraw.Draw(image).text((left, top), text, fill="black", font=ImageFont.load_default(size=34))
    return image


BLANK = Image.new("RGB", (200, 120), (90, 140, 200))
TWO = drawn((20, 20, "Hello Quillon"), (20, 110, "at Mirefield 2026"))


@pytest.fixture(scope="module")
def reader():
    return TextReader()


def test_drawn_text_is_read(reader):
    assert reader([TWO, BLANK, TWO]) == ["Hello Quillon at Mirefield 2026", "", "Hello Quillon at Mirefield 2026"]
    assert reader([]) == []
    lines = reader.lines(TWO)
    assert [line.text for line in lines] == ["Hello Quillon", "at Mirefield 2026"]
    left, top, right, bottom = lines[1].box
    assert left == pytest.approx(20, abs=12)
    assert 100 < top < 120 < 135 < bottom < 160
    assert 250 < right < 320


def test_colours_are_not_exchanged(reader, monkeypatch):
    """The engine takes arrays with blue first."""
    seen, engine = [], reader._engine
    monkeypatch.setattr(reader, "_engine", lambda pixels: seen.append(pixels) or engine(pixels))
    reader([Image.new("RGB", (60, 40), (255, 0, 0))])
    assert seen[0][0, 0].tolist() == [0, 0, 255]


def test_text_is_read_row_by_row(reader):
    image = drawn((20, 110, "third"), (180, 24, "second"), (20, 20, "first"), (180, 106, "fourth"))
    assert reader([image]) == ["first second third fourth"]


def test_the_order_does_not_depend_on_how_lines_come():
    lines = [Line(str(number), 1.0, box) for number, box in enumerate(
        [(0, 0, 40, 20), (50, 6, 90, 26), (100, 2, 140, 22), (0, 30, 200, 60), (5, 62, 20, 70), (30, 64, 60, 72)]
    )]  # fmt: skip
    for order in itertools.permutations(lines):
        assert reading_order(order) == lines
    assert reading_order([]) == []


def test_a_large_word_does_not_swallow_the_rows_beside_it():
    places = {"L": (0, 0, 40, 60), "a": (50, 2, 90, 16), "b": (50, 44, 90, 58)}
    large, above, below = (Line(text, 1.0, box) for text, box in places.items())
    assert [line.text for line in reading_order([large, below, above])] == ["a", "L", "b"]


def test_what_is_doubtful_is_left_out():
    image = TWO
    scores = [line.score for line in TextReader(0.0).lines(image)]
    assert len(scores) == 2
    between = sum(scores) / 2
    kept = TextReader(between).lines(image)
    assert [line.score for line in kept] == [max(scores)]
    for bad in (-0.1, 1.5):
        with pytest.raises(ValueError, match="`min_score` from 0 to 1"):
            TextReader(bad)


@pytest.mark.parametrize("size", [(1, 1), (1500, 5), (5, 1500), (29, 29)])
def test_images_of_any_shape_are_read(reader, size):
    assert reader([Image.new("RGB", size, "red")]) == [""]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    TWO.save(folder / "a.png")
    BLANK.save(folder / "b.png")
    Image.new("RGB", (50, 40)).save(folder / "c.png")
    (folder / "broken.jpg").write_text("no image")
    return folder


def test_a_folder_becomes_a_text_source(images, tmp_path, capsys):
    out = tmp_path / "new" / "ocr.jsonl"
    ocr(images, out, batch_size=2, num_workers=0)
    told = " ".join(capsys.readouterr().err.split())
    assert "3 images done" in told
    assert "1 of 4 images could not be read (not an image 1): broken.jpg" in told
    assert "2 of them have no text; their lines are empty" in told
    texts = read_context(out)
    assert dict(texts) == {"a": "Hello Quillon at Mirefield 2026", "b": "", "c": ""}
    posts = [Example(key, f"{key}.png", ("x",)) for key in "abc"]
    assert attach(posts, {"ocr": texts}).missing == {"ocr": 2}
    assert json.loads(out.read_text().splitlines()[0])["model"].startswith("rapidocr ")


def test_it_goes_on_where_it_stopped(images, tmp_path, capsys, monkeypatch):
    """What reads is taken from the test here: it takes seconds."""
    read = []

    def reader(score):
        return lambda opened: [read.append(image.size) or f"{image.width}" * (image.width > 50) for image in opened]

    monkeypatch.setattr("mner.preprocessing.ocr.TextReader", reader)
    out = tmp_path / "ocr.jsonl"
    ocr(images, out, num_workers=0)
    whole = out.read_bytes()
    assert read == [(320, 240), (200, 120), (50, 40)]
    for kept, again in ((len(whole), 0), (len(whole) - 5, 1), (whole.index(b"\n") + 1, 2), (3, 3)):
        read.clear()
        out.write_bytes(whole[:kept])
        ocr(images, out, num_workers=0)
        assert out.read_bytes() == whole
        assert len(read) == again
    with pytest.raises(DataFormatError, match=r"min_score 0.8, now 0.5"):
        ocr(images, out, min_score=0.5)
    capsys.readouterr()
    ocr(images, "-", num_workers=0)
    assert capsys.readouterr().out.encode() == whole


def test_what_is_missing_is_said_in_one_line(images, tmp_path, monkeypatch):
    (tmp_path / "none").mkdir()
    with pytest.raises(DataNotFoundError, match="No images in"):
        ocr(tmp_path / "none", tmp_path / "out.jsonl")
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(MissingDependencyError, match=r"pip install mner\[ocr\]"):
        ocr(images, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
