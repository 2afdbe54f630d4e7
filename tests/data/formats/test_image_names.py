"""Which image an id names, against a plain search over all names."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mner.data.formats.image_names import SUFFIXES, ImageNames, fold, image_key, split_name, unusable
from mner.data.formats.images import _formats
from mner.errors import DataFormatError

LETTERS = "aAbB.1_\u00fcu\u0308\u00df\u1e9esS\u0130i\u212bK\u212a\U0001f600"
STEMS = st.text(st.sampled_from(LETTERS), min_size=1, max_size=4)
NAMES = st.builds("{}{}".format, STEMS, st.sampled_from(["", ".jpg", ".JPG", ".png", ".jpeg", ".avif", ".jpg_large"]))


def search(names, image_id):
    """The rule, in the words of the documentation, one step after the other."""
    stem, suffix = split_name(image_id)
    nfc = lambda name: unicodedata.normalize("NFC", name)  # noqa: E731
    steps = [[name for name in names if name == image_id]]
    if not suffix:
        steps.append([name for name in names if split_name(name)[0] == stem])
    alike = [name for name in names if fold(split_name(name)[0]) == fold(stem)]
    same = [name for name in alike if fold(name) == fold(image_id)]
    steps.append([name for name in same if nfc(name) == nfc(image_id)])
    steps.append(same)
    steps.append([name for name in names if split_name(name)[0] == stem])
    steps.append([name for name in names if suffix and split_name(name)[0] == image_id])
    steps.append(alike)
    return next((step for step in steps if step), [])


@given(st.sets(NAMES, max_size=8), NAMES)
def test_equals_a_search(names, image_id):
    index = ImageNames(sorted(names), "folder")
    assert sorted(index) == sorted(names)
    expected = search(sorted(names), image_id)
    if len(expected) > 1:
        with pytest.raises(DataFormatError) as told:
            index.find(image_id)
        assert all(name in str(told.value) for name in expected if name.isascii())
    else:
        assert index.find(image_id) == (expected[0] if expected else None)
    for name in names:
        assert index.find(name) == name


def test_letters_that_are_one():
    assert fold("K") == fold("k") == fold("\u212a")  # the sign of Kelvin
    assert fold("STRASSE") == fold("stra\u00dfe") == fold("Stra\u1e9ee")
    assert fold("\u212b") == fold("a\u030a") == fold("\u00c5")
    assert fold("i") != fold("\u0131")


@given(st.text())
def test_fold_and_split(text):
    assert fold(fold(text)) == fold(text)
    assert fold(unicodedata.normalize("NFC", text)) == fold(unicodedata.normalize("NFD", text)) == fold(text)
    stem, suffix = split_name(text)
    assert stem + suffix == text
    assert suffix.lower() in ("", *SUFFIXES)
    assert bool(text) == bool(stem)
    assert image_key(text) == stem
    if not unusable(text):
        text.encode()


def test_suffixes_are_those_of_the_pictures_that_are_opened():
    """Pillow's for its formats, what browsers (MDN, image file types) and Twitter's downloads call the same."""
    pillows = {suffix for suffix, format in Image.registered_extensions().items() if format in _formats()}
    browsers = {".avif", ".jpg", ".jpeg", ".jfif", ".pjpeg", ".pjp", ".png", ".apng", ".gif", ".webp", ".bmp", ".ico"}
    twitters = {f"{of}_{size}" for of in (".jpg", ".png") for size in ("large", "orig")}
    assert pillows | browsers | twitters <= {*SUFFIXES}
    for suffix in SUFFIXES:
        assert split_name(f"a.b{suffix}") == ("a.b", suffix)


def test_what_is_told_of_names():
    names = ImageNames(["1.jpg", "1.png", *(f"{letter}.jpg" for letter in "abcdefg")], "folder")
    with pytest.raises(DataFormatError) as caught:
        names.find("1")
    assert str(caught.value) == (
        "folder: found 1.jpg and 1.png for the image '1'; expected one file. "
        "Give the id with its suffix, or move one away."
    )
    assert names.report() == ""
    for letter in "ABCDEF":
        names.find(letter)
    start = "6 images were found under another suffix, letter case or form: A as a.jpg, B as b.jpg"
    assert names.report(2) == f"{start}, ..."
    assert names.report() == f"{start}, C as c.jpg, D as d.jpg, E as e.jpg, ..."
    assert names.report(6) == f"{start}, C as c.jpg, D as d.jpg, E as e.jpg, F as f.jpg"


@pytest.mark.parametrize("name", ["", ".jpg", ".JPEG", "a\tb.jpg", "a\nb", "a\x7fb", "a\x1fb", "a\ud800", "\udfffa"])
def test_names_that_no_index_holds(name):
    assert unusable(name)


@pytest.mark.parametrize("name", [".jpg.jpg", "a", ".a", "a b.jpg", "\u0080", "\ud7ff", "\ue000", "\U0001f600.png"])
def test_names_that_an_index_holds(name):
    assert not unusable(name)


def test_a_million_names_weigh_little():
    import tracemalloc

    tracemalloc.start()
    names = ImageNames((f"17_06_{number}.jpg" for number in range(20_000)), "folder")
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert names.find("17_06_7") == "17_06_7.jpg"
    assert size / 20_000 < 180  # two strings a name and a dict took 200
