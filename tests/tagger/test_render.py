"""HTML of tagged posts: whole, escaped, self-contained, with attention where the model looked."""

import base64
import json
import re
import warnings
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import mner.tagger.render
from mner.cli import main
from mner.cli.tagging import show
from mner.errors import DataNotFoundError
from mner.fusion import CoAttention, Concatenation, TextOnly, TransformerAttention, VisualAttention
from mner.html import MORE, colour_of, entities_html
from mner.nn.attention_maps import capture_attention
from mner.preprocessing.features import features
from mner.tagger.decoder import Section
from mner.tagger.post import Entity, Post
from mner.tagger.preprocessor import ImageWarning
from mner.tagger.render import pictures_of
from mner.tagger.tagger import Tagger
from tests.tagging import save_checkpoint

TEXT = "Anna visits <b>Old Town</b> & 'Bo'\nwith \"Dr. Seuss\" \U0001f600"


class Parsed(HTMLParser):
    """The text, tags and images of a page."""

    def __init__(self, page):
        super().__init__()
        self.text, self.tags, self.images, self.marks, self.captions = "", [], [], [], []
        self._open = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "img":
            head, _, content = dict(attrs)["src"].partition(",")
            assert head == "data:image/jpeg;base64"
            self.images.append(Image.open(BytesIO(base64.b64decode(content, validate=True))))
        elif tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" in self._open:
            return
        if "mark" in self._open and self._open[-1] == "mark":
            self.marks.append(data)
        if self._open and self._open[-1] == "figcaption":
            self.captions.append(data)
        if not {"b", "i"} & set(self._open):
            self.text += data


@pytest.fixture(scope="module")
def tagger(tmp_path_factory, posts_folder, bert_folder):
    """Words attend to an image each on their own."""
    path = tmp_path_factory.mktemp("show") / "a.ckpt"
    options = {"image_encoder": "test_resnet", "image_weights": None, "images": "images", "context": ["captions.jsonl"]}
    return Tagger.from_checkpoint(
        save_checkpoint(path, CoAttention, posts_folder, bert_folder, **options), device="cpu"
    )


@pytest.fixture(scope="module")
def image():
    pixels = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((600, 450), Image.Resampling.NEAREST)


def test_a_post(tagger, image, tmp_path):
    tagged = tagger(TEXT, image, "a <dog> & cat")
    assert tagged  # there is something to see
    rendering = tagger.render(TEXT, image, "a <dog> & cat")
    page = Parsed(rendering.save(tmp_path / "new" / "page.html").read_text(encoding="utf-8"))
    assert TEXT in page.text
    assert [mark for mark in page.marks if mark] == [entity.text for entity in tagged]
    assert "a <dog> & cat" in page.text
    titles = [attributes["title"] for tag, attributes in page.tags if tag == "mark"]
    assert titles == [f"{entity.type}, probability {entity.score:.3f}" for entity in tagged]
    assert not {"script", "iframe", "link", "dog", "object"} & {tag for tag, _ in page.tags}
    assert page.captions[0] == "image"
    for caption, entity in zip(page.captions[1:], tagged[:6], strict=True):
        assert caption.startswith(f"attention of “{entity.text}”: at most ")
        assert "25 % if spread evenly" in caption
    assert len(page.images) == len(page.captions)
    assert page.images[0].size == (320, 240)
    assert all(max(picture.size) <= 320 for picture in page.images)
    assert rendering._repr_html_() in rendering.page()
    # No address of anything outside.
    assert not re.search(r"(src|href)=['\"](?!data:)", rendering.page())
    assert "default-src 'none'" in rendering.page()
    assert len(tagger.render(TEXT, image, attention=False).parts[0]) < len(rendering.parts[0])


def test_maps_are_those_of_the_model(tagger, image, monkeypatch):
    (prepared,) = tagger.prepare([Post(TEXT, image=image, context="x")])
    (tagged,) = tagger.finish([prepared])
    drawn = []
    monkeypatch.setattr(mner.tagger.render, "_looked", lambda tagger, prepared, weights: drawn.append(weights) or image)
    pictures = pictures_of(tagger.decoder, tagger.sight, prepared, tagged)
    batch = tagger.decoder.batch(tagger.decoder.items(Section(0, prepared.words, prepared.context, prepared.seen)))
    with torch.no_grad(), capture_attention(tagger.model) as seen:
        tagger.model.emissions(batch)
    (weights,) = list(seen.maps.values())[-1]  # (w, r)
    assert len(drawn) == len(tagged[:6]) == len(pictures) - 1
    for entity, some in zip(tagged, drawn, strict=False):
        torch.testing.assert_close(some, weights[entity.word_start : entity.word_end].mean(0))


def test_maps_are_redder_where_attention_is(tagger):
    grey = Image.new("RGB", (128, 64), (128, 128, 128))
    (prepared,) = tagger.prepare([Post("Anna", image=grey, context="x")])
    assert tagger.sight.grid() == (2, 2)

    def redness(*weights):
        pixels = np.asarray(mner.tagger.render._looked(tagger.sight, prepared, torch.tensor(weights))).astype(int)
        assert pixels.shape == (64, 64, 3)
        red = pixels[..., 0] - pixels[..., 2]
        return [part.mean() for part in (red[:16, :16], red[:16, -16:], red[-16:, :16], red[-16:, -16:])]

    for place in range(4):
        found = redness(*(0.7 if number == place else 0.1 for number in range(4)))
        assert int(np.argmax(found)) == place
        assert max(found) > 3 * min(found)
    even = redness(0.25, 0.25, 0.25, 0.25)
    assert max(even) - min(even) < 3


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (TransformerAttention, "entities"),
        (VisualAttention, "whole"),
        (Concatenation, "none"),
        (TextOnly, "none"),
    ],
)
def test_other_models(cls, expected, tmp_path, posts_folder, bert_folder, image):
    options = {"image_encoder": "test_resnet", "image_weights": None, "images": "images"} if cls.uses_image else {}
    path = save_checkpoint(tmp_path / "a.ckpt", cls, posts_folder, bert_folder, **options)
    tagger = Tagger.from_checkpoint(path, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        page = Parsed(tagger.render(TEXT, image).page())
        tagged = tagger(TEXT, image)
    maps = {
        "entities": [f"attention of “{entity.text}”" for entity in tagged[:6]],
        "whole": ["attention of the whole post"],
        "none": [],
    }
    assert [caption.partition(":")[0] for caption in page.captions] == ["image", *maps[expected]]
    if cls is TextOnly:
        assert "uses no image" in page.text


def test_detected_regions_are_boxes(tmp_path, posts_folder, bert_folder, image):
    store = tmp_path / "store"
    features(posts_folder / "images", store, regions="random", top_k=3, num_workers=0, device="cpu")
    path = save_checkpoint(tmp_path / "a.ckpt", VisualAttention, posts_folder, bert_folder, features=str(store))
    tagger = Tagger.from_checkpoint(path, device="cpu")
    page = Parsed(tagger.render(TEXT, image).page())
    assert [caption.partition(":")[0] for caption in page.captions] == ["image", "attention of the whole post"]
    pixels = np.asarray(page.images[1]).astype(int)
    assert pixels.shape == (240, 320, 3)
    assert ((pixels[..., 0] - pixels[..., 2]) > 150).any()  # red lines on grey


def test_no_image_and_problems(tagger):
    page = Parsed(tagger.render(TEXT, context="x").page())
    assert page.images == []
    with pytest.warns(ImageWarning):
        page = Parsed(tagger.render(TEXT, b"no image", context="x").page())
    assert page.images == []
    assert "The image was not used: not an image" in page.text
    assert Parsed(tagger.render("", context="x").page()).marks == []


def test_long_posts_have_no_maps(tagger, image):
    page = Parsed(tagger.render("Anna " * 200, image, "x").page())
    assert page.captions == ["image"]
    assert page.text.count("Anna") == 200


def test_several_posts(tagger):
    rendering = tagger.render([Post("Anna one", context="x"), {"text": "Bo two", "context": "y"}])
    assert len(rendering.parts) == 2
    assert "Anna one" in Parsed(rendering.parts[0]).text
    assert "Bo two" in Parsed(tagger.render(words=["Bo", "two"], context="x").page()).text


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters()) | st.text("<>&'\"\x00\ud800/scriptimg =onerror"), st.text(min_size=1), st.floats(0, 1))
def test_any_text_is_escaped(text, type_, score):
    half = len(text) // 2
    page = Parsed(entities_html(text, [Entity(text[:half], type_, 0, half, score, 0, 1)]))
    assert [tag for tag, _ in page.tags] == ["style", "div", "div", "mark", "b", "i"]
    assert set(page.tags[3][1]) == {"style", "title"}
    plain = re.sub("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", "\ufffd", text)
    assert page.text == plain
    entities_html(text, []).encode()


def test_colours_are_fixed():
    assert colour_of("PER") == colour_of("PER") != colour_of("LOC")
    assert colour_of("film") in MORE


def test_notebooks_show_entities(tagger):
    tagged = tagger(TEXT, context="x")
    assert Parsed(tagged._repr_html_()).marks


def test_command(tmp_path, posts_folder, bert_folder, capsys):
    options = {"image_encoder": "test_resnet", "image_weights": None, "images": "images"}
    checkpoint = str(save_checkpoint(tmp_path / "a.ckpt", CoAttention, posts_folder, bert_folder, **options))
    posts = tmp_path / "posts.jsonl"
    records = [
        {"id": "<one>", "text": "Anna", "image": "00.jpg"},
        {"text": 3},
        {"id": "two", "text": "Bo", "image": "../captions.jsonl"},
        {"id": "three", "text": "Cy", "image": "03.jpg"},
        {"id": "four", "text": "Di"},
    ]
    posts.write_text("".join(json.dumps(record) + "\n" for record in records))
    out = tmp_path / "page.html"
    arguments = ["show", str(posts), "--checkpoint", checkpoint, "--output", str(out), "--count", "4"]
    assert main([*arguments, "--images", str(posts_folder / "images"), "--device", "cpu"]) == 0
    page = Parsed(out.read_text())
    for said in ("<one>", "Anna", "a number as 'text'", "outside of the folder", "not an image", "Cy"):
        assert said in page.text
    assert "Di" not in page.text
    assert page.captions[0] == "image"
    assert "4 posts drawn" in capsys.readouterr().err
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("Anna in a folder")
    Image.new("RGB", (70, 70)).save(folder / "a.png")
    assert show(str(folder), checkpoint, out, device="cpu") == 0
    assert Parsed(out.read_text()).captions[0] == "image"
    with pytest.raises(DataNotFoundError, match="--checkpoint"):
        show(str(folder))
    with pytest.raises(DataNotFoundError, match="file or folder"):
        show(str(tmp_path / "no"), checkpoint)
