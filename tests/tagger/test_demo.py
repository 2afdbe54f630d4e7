"""The local page: what it answers, and that it is made; docs/tagging.md tells of the look at it in a browser."""

import sys

import pytest
from PIL import Image

from mner.errors import MissingDependencyError
from mner.fusion import CoAttention
from mner.html import COLOURS_OF_PAGE, STYLE
from mner.tagger.demo import MAX_TEXT, answer, build, demo, look
from mner.tagger.tagger import Tagger
from tests.tagging import save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, posts_folder, bert_folder):
    path = tmp_path_factory.mktemp("demo") / "a.ckpt"
    options = {"image_encoder": "test_resnet", "image_weights": None, "images": "images", "context": ["captions.jsonl"]}
    return save_checkpoint(path, CoAttention, posts_folder, bert_folder, **options)


@pytest.fixture(scope="module")
def tagger(checkpoint):
    return Tagger.from_checkpoint(checkpoint, device="cpu")


def test_answer(tagger, tmp_path):
    Image.new("RGB", (80, 60), (200, 10, 10)).save(tmp_path / "a.png")
    text = "Anna <b> visits Old Town"
    page, rows = answer(tagger, text, str(tmp_path / "a.png"), "a dog")
    assert rows == [
        [entity.text, entity.type, round(entity.score, 4), entity.start, entity.end]
        for entity in tagger(text, tmp_path / "a.png", "a dog")
    ]
    assert rows
    assert "&lt;" in page  # whichever words the model marks
    assert page.count("<img") == 1 + min(len(rows), 6)
    assert "a dog" in page


def test_answers_to_nothing_and_too_much(tagger, tmp_path):
    with pytest.warns(UserWarning, match="posts without"):
        page, rows = answer(tagger, None, None, None)
    assert rows == []
    (tmp_path / "a.png").write_bytes(b"no image")
    page, _ = answer(tagger, "Anna", str(tmp_path / "a.png"), "")
    assert "not an image" in page
    page, _ = answer(tagger, "a " * MAX_TEXT, None, "x")
    assert len(page) < 100 * MAX_TEXT


def test_page_is_built(tagger):
    gradio = pytest.importorskip("gradio", reason="gradio is an optional extra (mner[demo])")
    page = build(tagger, "a model")
    assert isinstance(page, gradio.Blocks)
    labels = [component.get("props", {}).get("label") for component in page.get_config_file()["components"]]
    assert {"Post", "Image", "Context: captions", "Entities"} <= set(labels)


def test_colours_are_those_of_the_style_sheet():
    pytest.importorskip("gradio", reason="gradio is an optional extra (mner[demo])")
    light, dark = COLOURS_OF_PAGE
    assert set(light) == set(dark) == {"ground", "raised", "letters", "link"}
    assert all(STYLE.count(f"{colour};") for colour in (*light.values(), *dark.values()))
    theme = look()["theme"]
    assert (theme.body_background_fill, theme.body_background_fill_dark) == (light["ground"], dark["ground"])
    assert (theme.body_text_color, theme.body_text_color_dark) == (light["letters"], dark["letters"])
    assert theme.button_primary_background_fill_dark == dark["link"]
    assert dark["letters"] in theme.border_color_primary_dark


def test_missing_gradio_is_named(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingDependencyError, match=r"mner\[demo\]"):
        demo(str(checkpoint), device="cpu")


def test_served_to_this_machine_alone(checkpoint, monkeypatch):
    served = {}

    class Page:
        def launch(self, **options):
            served.update(options)

    monkeypatch.setattr("mner.tagger.demo.build", lambda tagger, title: served.update(title=title) or Page())
    monkeypatch.setattr("mner.tagger.demo.look", lambda: {"theme": "ours"})
    assert demo(str(checkpoint), device="cpu", port=1234) == 0
    assert served["theme"] == "ours"
    assert served["server_name"] == "127.0.0.1"
    assert (served["server_port"], served["share"], served["title"]) == (1234, False, "a.ckpt")
