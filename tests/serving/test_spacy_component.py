"""The component of spaCy: the tagger's entities on spaCy's tokens, in batches, on disk, in other processes."""

import pickle
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import spacy
from PIL import Image
from spacy.tokens import Doc, Span
from spacy.training import Example

from mner.errors import CheckpointError
from mner.fusion import CoAttention, TextOnly
from mner.serving import spacy_component
from mner.tagger.post import Entity, Tagged
from mner.tagger.tagger import Tagger
from tests.tagging import save_checkpoint

TEXTS = ["Anna visits Old Town", "nothing here", "", "Jo Doe's 7-star #Lagos"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, posts_folder, bert_folder):
    return str(save_checkpoint(tmp_path_factory.mktemp("spacy") / "text.ckpt", TextOnly, posts_folder, bert_folder))


@pytest.fixture(scope="module")
def tagger(checkpoint):
    return Tagger.from_checkpoint(checkpoint, device="cpu")


@pytest.fixture
def nlp(checkpoint):
    nlp = spacy.blank("en")
    nlp.add_pipe("mner", config={"checkpoint": checkpoint, "device": "cpu"})
    return nlp


def found(doc):
    return [(span.text, span.label_, span._.score) for span in doc.ents]


def test_the_entry_point_leads_to_the_factory():
    """As spaCy finds it once the package is installed."""
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    module, _, name = declared["project"]["entry-points"]["spacy_factories"]["mner"].partition(":")
    assert getattr(import_module(module), name) is spacy_component.make
    assert spacy.Language.has_factory("mner")


def test_the_taggers_entities(nlp, tagger):
    seen = 0
    for text in TEXTS:
        doc, tagged = nlp(text), tagger(text)
        assert doc.has_annotation("ENT_IOB")
        if not doc._.unaligned:
            assert found(doc) == [(e.text, e.type, e.score) for e in tagged]
            seen += len(tagged)
    assert seen > 2
    docs = list(nlp.pipe(TEXTS, batch_size=2))
    assert [[one[:2] for one in found(doc)] for doc in docs] == [[one[:2] for one in found(nlp(t))] for t in TEXTS]
    for doc, text in nlp.pipe([(text, text) for text in TEXTS], as_tuples=True):
        assert doc.text == text


def test_image_and_context(tmp_path, posts_folder, bert_folder):
    options = {"image_encoder": "test_resnet", "image_weights": None, "images": "images", "context": ["captions.jsonl"]}
    path = save_checkpoint(tmp_path / "image.ckpt", CoAttention, posts_folder, bert_folder, **options)
    Image.new("RGB", (70, 70), (200, 10, 10)).save(tmp_path / "a.png")
    nlp = spacy.blank("en")
    component = nlp.add_pipe("mner", config={"checkpoint": str(path), "device": "cpu"})
    tagger = component.tagger
    bare, full = nlp.make_doc(TEXTS[0]), nlp.make_doc(TEXTS[0])
    full._.image, full._.context = str(tmp_path / "a.png"), "a dog"
    given = [tagger(TEXTS[0]), tagger(TEXTS[0], image=str(tmp_path / "a.png"), context="a dog")]
    docs = list(nlp.pipe([bare, full]))
    for doc, tagged in zip(docs, given, strict=True):
        assert [one[:2] for one in found(doc)] == [(e.text, e.type) for e in tagged]
        assert [one[2] for one in found(doc)] == pytest.approx([e.score for e in tagged], abs=1e-4)
    assert [e.score for e in given[0]] != [e.score for e in given[1]]


class Fixed:
    """A tagger that finds what it is told."""

    batch_size = 2

    def __init__(self, *entities):
        self.entities = entities

    def __call__(self, posts):
        return [Tagged(self.entities, text=post.text) for post in posts]


def entity(text, part, type_, score):
    start = text.index(part)
    return Entity(part, type_, start, start + len(part), score, 0, 1)


def test_entities_that_cut_tokens(caplog):
    text = "in Old Town-ship now"
    cut = entity(text, "Old Town", "LOC", 0.9)
    nlp = spacy.blank("en")
    nlp.tokenizer = spacy.tokenizer.Tokenizer(nlp.vocab)  # at spaces
    expected = {"expand": ["Old Town-ship"], "contract": ["Old"], "strict": []}
    for alignment, texts in expected.items():
        component = spacy_component.Component(None, alignment)
        component._tagger = Fixed(cut)
        caplog.clear()
        doc = component(nlp.make_doc(text))
        assert [span.text for span in doc.ents] == texts
        assert [span._.score for span in doc.ents] == [0.9] * len(texts)
        assert doc._.unaligned == [(3, 11, "LOC", 0.9)]
        assert "'Old Town'" in caplog.text
        caplog.clear()
        component(nlp.make_doc(text))
        assert not caplog.text  # told once, counted always
        assert component.counts["cut tokens"] == 2
    two = spacy_component.Component(None)
    two._tagger = Fixed(entity(text, "Town", "LOC", 0.5), entity(text, "ship", "MISC", 0.8))
    doc = two(nlp.make_doc(text))
    assert found(doc) == [("Town-ship", "MISC", 0.8)]
    assert [one[2] for one in doc._.unaligned] == ["LOC", "MISC"]
    assert two.counts["overlapping, left out"] == 1
    with pytest.raises(ValueError, match="`alignment` to be one of"):
        spacy_component.Component(None, "loose")


def test_entities_that_are_there_before():
    text = "Anna in Lagos"
    doc = spacy.blank("en")(text)
    for overwrite, type_ in ((False, "OLD"), (True, "PER")):
        doc.set_ents([Span(doc, 0, 1, label="OLD")])
        component = spacy_component.Component(None, overwrite_ents=overwrite)
        component._tagger = Fixed(entity(text, "Anna", "PER", 0.9), entity(text, "Lagos", "LOC", 0.9))
        assert [one[:2] for one in found(component(doc))] == [("Anna", type_), ("Lagos", "LOC")]


def test_on_disk_in_bytes_and_pickled(tmp_path, nlp, checkpoint, caplog):
    before = found(nlp(TEXTS[0]))
    nlp.to_disk(tmp_path / "pipeline")
    config = tmp_path / "pipeline" / "config.cfg"
    config.write_text(config.read_text(encoding="utf-8").replace(checkpoint, "/gone.ckpt"), encoding="utf-8")
    assert found(spacy.load(tmp_path / "pipeline")(TEXTS[0])) == before
    assert "/gone.ckpt" in caplog.text
    other = spacy.blank("en")
    other.add_pipe("mner", config={"device": "cpu"})
    with pytest.raises(CheckpointError, match="the component has no model"):
        other.get_pipe("mner").tagger  # noqa: B018
    assert found(other.from_bytes(nlp.to_bytes())(TEXTS[0])) == before
    again = pickle.loads(pickle.dumps(nlp.get_pipe("mner")))
    assert found(again(nlp.make_doc(TEXTS[0]))) == before
    # Documents keep scores.
    doc = Doc(nlp.vocab).from_bytes(nlp(TEXTS[0]).to_bytes())
    assert found(doc) == before


@pytest.mark.slow
def test_in_two_processes(nlp):
    docs = list(nlp.pipe(TEXTS * 2, n_process=2, batch_size=2))
    assert [found(doc) for doc in docs] == [found(nlp(text)) for text in TEXTS * 2]


def test_scores_and_options(checkpoint, tagger):
    nlp = spacy.blank("en")
    nlp.add_pipe("mner", config={"checkpoint": checkpoint, "device": "cpu", "min_score": 1.0})
    assert len(nlp(TEXTS[0]).ents) <= sum(e.score >= 1 for e in tagger(TEXTS[0]))
    nlp = spacy.blank("en")
    nlp.add_pipe("mner", config={"checkpoint": checkpoint, "device": "cpu"})
    gold = nlp(TEXTS[0])
    examples = [Example(nlp.make_doc(TEXTS[0]), gold)]
    assert nlp.evaluate(examples)["ents_f"] == 1.0
