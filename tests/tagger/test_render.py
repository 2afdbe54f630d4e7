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
from mner.tagger.post import Entity, Post, Tagged
from mner.tagger.preprocessor import ImageWarning
from mner.tagger.render import Rendering, gold_of, pictures_of, post_html
from mner.tagger.sections import Section
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
        elif tag not in ("meta", "br", "input"):
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
    assert not {"form", "button"} & {tag for tag, _ in page.tags}
    for caption, entity in zip(page.captions[1:], tagged[:6], strict=True):
        assert caption.startswith(f"attention of “{entity.text}”: at most ")
        assert "25 % if spread evenly" in caption
    assert len(page.images) == len(page.captions)
    assert page.images[0].size == (320, 240)
    assert all(max(picture.size) <= 320 for picture in page.images)
    assert rendering.parts[0] in rendering.page()
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


def test_maps_are_brighter_where_attention_is_in_grey_too(tagger):
    grey = Image.new("RGB", (128, 64), (128, 128, 128))
    (prepared,) = tagger.prepare([Post("Anna", image=grey, context="x")])
    assert tagger.sight.grid() == (2, 2)

    def brightness(*weights):
        drawn = mner.tagger.render._looked(tagger.sight, prepared, torch.tensor(weights))
        assert drawn.size == (64, 64)
        grey = np.asarray(drawn.convert("L")).astype(int)
        return [part.mean() for part in (grey[:16, :16], grey[:16, -16:], grey[-16:, :16], grey[-16:, -16:])]

    for place in range(4):
        found = brightness(*(0.7 if number == place else 0.1 for number in range(4)))
        assert int(np.argmax(found)) == place
        assert max(found) > 1.5 * min(found)
    even = brightness(0.25, 0.25, 0.25, 0.25)
    assert max(even) - min(even) < 3


def test_the_colours_of_maps_are_evenly_spaced_in_grey():
    lightness = mner.tagger.render._colours(np.linspace(0, 1, 11)) @ [0.299, 0.587, 0.114]
    steps = np.diff(lightness)
    assert (steps > 0.03).all()
    assert steps.max() < 3 * steps.min()


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
    assert ((pixels[..., 1] - pixels[..., 2]) > 100).any()  # bright lines on dark grey


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
    assert set(page.tags[3][1]) == {"class", "style", "title"}
    plain = re.sub("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", "\ufffd", text)
    assert page.text == plain
    entities_html(text, []).encode()


def test_colours_are_fixed():
    assert colour_of("PER") == colour_of("PER") != colour_of("LOC")
    assert colour_of("film") in MORE


def test_notebooks_show_entities(tagger):
    tagged = tagger(TEXT, context="x")
    assert Parsed(tagged._repr_html_()).marks


def entity(text, type_, start, end, score=float("nan")):
    return Entity(text[start:end], type_, start, end, score, 0, 1)


def test_differences_to_gold_are_told():
    text = "Anna visits Old Town with Bo today"
    gold = [entity(text, "PER", 0, 4), entity(text, "LOC", 12, 20), entity(text, "PER", 26, 28)]
    found = [entity(text, "ORG", 0, 4, 0.9), entity(text, "LOC", 12, 15, 0.7), entity(text, "MISC", 29, 34, 0.4)]
    page = post_html(Tagged(found, text=text), [], gold=gold)
    assert "<div class='line differs'>" in page
    marks = re.findall(r"<mark class='([^']*)'[^>]*title='[^']*'>([^<]*)<b>(\w+)</b>(.*?)</mark>", page)
    remarks = [(words, re.sub(r"<[^>]*>|\d+&nbsp;%", "", rest)) for _, words, _, rest in marks]
    assert remarks == [
        ("Anna", "PER in gold"), ("Old", "other edges in gold"), ("today", "not in gold"),
        ("Anna", "ORG found"), ("Old Town", "other edges found"), ("Bo", "not found"),
    ]  # fmt: skip
    assert all("other" in classes.split() for classes, *_ in marks)
    right = [entity(text, one.type, one.start, one.end, 1.0) for one in gold]
    same = post_html(Tagged(right, text=text), [], gold=gold)
    assert "<div class='line agrees'>" in same
    assert same.count("<mark") == 3  # once
    assert " other'" not in same


def test_filters_count_posts_and_have_a_rule_for_each_type():
    text = "Anna visits Lagos"
    posts = [
        [entity(text, "PER", 0, 4, 0.99), entity(text, "LOC", 12, 17, 0.4)],
        [entity(text, "PER", 0, 4, 0.9)],
        [entity(text, "a, 'b' <c>", 0, 4, 0.99)],
        [],
    ]
    parts = [post_html(Tagged(one, text=text), [], gold=one if one else None) for one in posts]
    page = Rendering(parts).page()
    Parsed(page)
    buttons = {
        re.sub(r"&nbsp;", " ", said): int(count)
        for said, count in re.findall(r"<label for='[\w-]+'[^>]*>([^<]*) <small>(\d+)</small>", page)
    }
    assert buttons == {
        "all": 4, "PER": 2, "LOC": 1, "a, &#x27;b&#x27; &lt;c&gt;": 1,
        "below 95 %": 2, "below 80 %": 1, "below 50 %": 1, "agrees": 3,
    }  # fmt: skip
    ids = re.findall(r"<input type='radio' name='\w+' id='([\w-]+)'", page)
    assert len(set(ids)) == len(ids)
    assert all(f"#{one}:checked" in page for one in ids if not one.startswith("all-"))
    assert "mner-filters'>" not in Rendering(parts[:1]).page()  # one post needs none


def test_a_type_and_a_doubt_are_of_one_entity():
    """A post with a sure person and a doubtful place is not one with a doubtful person."""
    text = "Anna visits Lagos"
    one = Tagged([entity(text, "PER", 0, 4, 0.99), entity(text, "LOC", 12, 17, 0.4)], text=text)
    page = Rendering([post_html(one, [], gold=[one[0]]), post_html(Tagged([], text=text), [])]).page()
    (person,) = re.findall(r"<label for='(of-\w+)'[^>]*>PER", page)
    for button, name in (("under95", "under95"), ("under50", "under50"), ("differs", "other")):
        assert (
            f".mner-page:has(#{person}:checked):has(#{button}:checked)\n  .mner-post:not(:has(.{person}.{name})) "
            "{ display: none; }"
        ) in page


def test_posts_alone_have_no_filters():
    assert "mner-filters'>" not in Rendering(["no posts", "with entities"]).page()


def test_gold_needs_a_label_a_word(tagger):
    (prepared,) = tagger.prepare([Post(words=["Anna", "visits", "Old", "Town"], context="x")])
    gold = gold_of(prepared, ["B-PER", "O", "B-LOC", "I-LOC"])
    found = [(one.text, one.type, one.start, one.end) for one in gold]
    assert found == [("Anna", "PER", 0, 4), ("Old Town", "LOC", 12, 20)]
    with pytest.raises(ValueError, match="1 labels for 4 words"):
        gold_of(prepared, ["O"])
    spans = gold_of(prepared, [[12, 20, "LOC"], [0, 4, "PER"]])
    assert [(one.text, one.type, one.start, one.end) for one in spans] == found
    for wrong in ([[0, 4, "PER"], [2, 6, "LOC"]], [[0, 90, "PER"]], [[3, 3, "PER"]]):
        with pytest.raises(ValueError, match="overlap"):
            gold_of(prepared, wrong)


def test_command(tmp_path, posts_folder, bert_folder, capsys):
    options = {"image_encoder": "test_resnet", "image_weights": None, "images": "images"}
    checkpoint = str(save_checkpoint(tmp_path / "a.ckpt", CoAttention, posts_folder, bert_folder, **options))
    posts = tmp_path / "posts.jsonl"
    records = [
        {"id": "<one>", "text": "Anna", "image": "00.jpg"},
        {"text": 3},
        {"id": "two", "text": "Bo", "image": "../captions.jsonl"},
        {"id": "three", "text": "Cy", "image": "03.jpg"},
        {"id": "five", "tokens": ["Ed", "sings"], "label": ["B-PER", "O"]},
        {"id": "six", "tokens": ["Flo", "sings"], "label": ["B-PER"]},
        {"id": "four", "text": "Di"},
    ]
    posts.write_text("".join(json.dumps(record) + "\n" for record in records))
    out = tmp_path / "page.html"
    arguments = ["show", str(posts), "--checkpoint", checkpoint, "--output", str(out), "--count", "6"]
    assert main([*arguments, "--images", str(posts_folder / "images"), "--device", "cpu"]) == 0
    page = Parsed(out.read_text(encoding="utf-8"))
    faults = ("a number as 'text'", "outside of the folder", "not an image", "1 labels for 2 words")
    for said in ("<one>", "Anna", "Cy", *faults):
        assert said in page.text
    assert "Di" not in page.text
    assert len([1 for tag, attributes in page.tags if (attributes.get("class") or "").startswith("line ")]) in (1, 2)
    assert page.captions[0] == "image"
    assert "6 posts drawn" in capsys.readouterr().err
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("Anna in a folder")
    Image.new("RGB", (70, 70)).save(folder / "a.png")
    assert show(str(folder), checkpoint, out, device="cpu") == 0
    assert Parsed(out.read_text(encoding="utf-8")).captions[0] == "image"
    with pytest.raises(DataNotFoundError, match="--checkpoint"):
        show(str(folder))
    with pytest.raises(DataNotFoundError, match="file or folder"):
        show(str(tmp_path / "no"), checkpoint)
