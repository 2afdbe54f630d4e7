"""The listings of the page on tagging that use a checkpoint run, and hold what the tagger finds."""

import re
from pathlib import Path

import pytest

from mner.fusion import TextOnly
from mner.serving import spacy_component  # noqa: F401  # as its entry point does once the package is installed
from mner.tagger.tagger import Tagger
from tests.tagging import save_checkpoint

PAGE = Path(__file__).parents[2] / "docs/tagging.md"
CHECKPOINT = "lightning_logs/version_0/checkpoints/best.ckpt"
TEXTS = ["so proud of Quillon today", "off to Golden Tessel"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, posts_folder, bert_folder):
    return str(save_checkpoint(tmp_path_factory.mktemp("docs") / "text.ckpt", TextOnly, posts_folder, bert_folder))


def run(word, checkpoint):
    """What the listing with this word leaves behind."""
    code = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    (listing,) = [block for block in code if word in block]
    assert CHECKPOINT in listing
    space = {"__name__": "docs"}
    exec(compile(listing.replace(CHECKPOINT, checkpoint), str(PAGE), "exec"), space)
    return space


@pytest.fixture(scope="module")
def expected(checkpoint):
    found = Tagger.load(checkpoint)(TEXTS)
    assert any(found)
    return found


def test_pandas(checkpoint, expected):
    frame = run("pandas", checkpoint)["frame"]
    assert frame["entities"].tolist() == [[(e.text, e.type, e.score) for e in es] for es in expected]


def test_polars(checkpoint, expected):
    pytest.importorskip("polars")
    entities = run("polars", checkpoint)["entities"]
    assert entities["text"].to_list() == [e.text for e in expected[0]]
    assert entities["post"].to_list() == [0] * len(expected[0])


def test_datasets(checkpoint, expected):
    posts = run("from datasets", checkpoint)["posts"]
    assert [[e["text"] for e in es] for es in posts["entities"]] == [[e.text for e in es] for es in expected]


def test_the_form_of_transformers_pipelines(checkpoint, expected):
    """The keys are those of transformers' own aggregated results."""
    from inspect import getsource

    from transformers import TokenClassificationPipeline

    pipe = run("class Pipeline", checkpoint)["pipe"]
    found = pipe(TEXTS)
    assert [[one["word"] for one in some] for some in found] == [[e.text for e in es] for es in expected]
    assert pipe(TEXTS[1]) == found[1]
    theirs = getsource(TokenClassificationPipeline)
    assert all(f'"{key}"' in theirs for some in found for one in some for key in one)


def test_spacy(checkpoint, expected):
    assert run("nlp.add_pipe", checkpoint)["found"] == [(e.text, e.type, e.score) for e in expected[0]]
