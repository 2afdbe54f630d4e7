"""Posts made ready for the model, one thing after the other, without a model."""

import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from mner.data.tokenizer import PostTokenizer
from mner.data.word_splitter import Word
from mner.errors import CheckpointError
from mner.preprocessing import captions
from mner.tagger.image_processor import NOTHING, Seen
from mner.tagger.post import Post
from mner.tagger.preprocessor import ImageWarning, Preparer, tokenizer_of

PICTURE = Image.new("RGB", (8, 6))


class Sight:
    """What a model sees of pictures: nothing, or the same of each."""

    size, device = None, torch.device("cpu")

    def __init__(self, needs=(), lacks="", what=NOTHING):
        self.needs, self.lacks, self.what = needs, lacks, what
        self.blind = bool(lacks)

    def see(self, pictures):
        return [NOTHING if picture is None else self.what for picture in pictures]


@pytest.fixture
def prepare(bert_folder):
    def made(data=None, sight=None, style="whitespace", **options):
        return Preparer(data or {}, PostTokenizer(bert_folder), sight or Sight(), style, **options)

    return made


def warned(prepare, *posts):
    """What is prepared, and what the user is told, with the line of theirs that it is told of."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = prepare(posts)
    return found, [(one.category, str(one.message)) for one in told]


def test_words_are_at_their_places(prepare):
    (given, text), told = warned(prepare(), Post(words=["Anna", "B."]), Post("Anna  B."))
    assert (given.text, given.words) == ("Anna B.", [Word("Anna", 0, 4), Word("B.", 5, 7)])
    assert (text.text, text.words) == ("Anna  B.", [Word("Anna", 0, 4), Word("B.", 6, 8)])
    assert told == []
    (own,), _ = warned(prepare(style=lambda text: [Word(text[:2], 0, 2)]), Post("Anna"))
    assert own.words == [Word("An", 0, 2)]


def test_a_relation_is_handed_on_and_asked_for_once(prepare):
    (given, none), told = warned(prepare(), Post("a", image=PICTURE, relation=0.25), Post("a"))
    assert given.relation == 0.25
    assert math.isnan(none.relation)
    assert told == []
    asks = prepare(sight=Sight(needs=("relation",), what=Seen(torch.zeros(3, 2, 2))))
    missing = "The model needs to know whether an image adds to its text: give `relation` of posts"
    posts = Post("a", image=PICTURE), Post("a", image=PICTURE), Post("a")
    assert warned(asks, *posts)[1] == [(UserWarning, missing)]
    assert warned(asks, *posts)[1] == []
    assert warned(prepare(sight=Sight(needs=("relation",))), Post("a"))[1] == []


def test_where_names_of_objects_come_from(prepare):
    needs = Sight(needs=("object_names",))
    (given,), _ = warned(prepare(sight=needs), Post("a", object_names=["dog", "old car"]))
    assert given.object_names == ("dog", "old car")
    (unread,), _ = warned(prepare(), Post("a", object_names=["dog"]))
    assert unread.object_names == ()
    tags = {"context": ["captions", "tags"], "object_names": "context"}
    (from_tags,), _ = warned(prepare(tags, needs), Post("a", context={"tags": "dog, old car"}))
    assert from_tags.object_names == ("dog", "old car")
    from_file = prepare({"object_names": "file"}, needs)
    missing = "The model needs the names of objects, read from a file in training: give `object_names`"
    assert warned(from_file, Post("a"), Post("b"))[1] == [(UserWarning, missing)]
    seen = Seen(known=SimpleNamespace(names=["cat"]))
    (detected,), _ = warned(prepare(sight=Sight(("object_names",), "", seen)), Post("a", image=PICTURE))
    assert detected.object_names == ("cat",)


def test_context_in_the_order_of_training(prepare):
    both = {"context": ["captions", "tags"]}
    found, told = warned(
        prepare(both),
        Post("a", context=" x "),
        Post("a", context=["x", "y"]),
        Post("a", context={"tags": "y"}),
        Post("a", context=[]),
    )
    assert [one.context for one in found] == [("x", ""), ("x", "y"), ("", "y"), ("", "")]
    assert told == []
    (none,), told = warned(prepare(both), Post("a"))
    assert none.context == ("", "")
    assert told == [
        (
            UserWarning,
            "The model was trained with context (captions, tags), but there are posts without: give their `context`, "
            "or a `captioner`, if it is captions",
        )
    ]
    (unread,), told = warned(prepare(), Post("a", context="x"))
    assert unread.context == ()
    assert told == [(UserWarning, "Context is not read: the model was trained without")]


def test_context_is_looked_at_so_far(prepare):
    (one,), _ = warned(prepare({"context": ["captions"]}), Post("a", context="x" * 100_000))
    assert one.context == ("x" * 100 * 128,)  # 100 characters a piece, 128 pieces


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"x": "a"}, r"Expected context of the sources ['captions'], but got ['x']"),
        (["a", "b"], "Expected a text for each of the sources ['captions'], as in training, but got 2 texts"),
    ],
)
def test_context_of_another_form_is_refused(prepare, context, message):
    with pytest.raises(ValueError, match="Expected") as caught:
        prepare({"context": ["captions"]})([Post("a", context=context)])
    assert str(caught.value) == message


def test_a_captioner_by_its_name_runs_where_the_model_does(prepare, monkeypatch):
    made = []

    def captioner(name, device):
        made.append((name, device))
        return lambda pictures: [f"{picture.width} wide" for picture in pictures]

    monkeypatch.setattr(captions, "Captioner", captioner)
    of = prepare({"context": ["tags", "captions"]}, Sight(lacks="x"), captioner="some/model", caption_source="captions")
    assert warned(of, Post("a"))[0][0].context == ("", "")
    assert made == []  # nothing to describe
    (first, second, given), told = warned(of, Post("a", image=PICTURE), Post("a"), Post("b", context="c"))
    assert (first.context, second.context, given.context) == (("", "8 wide"), ("", ""), ("c", ""))
    assert made == [("some/model", "cpu")]
    assert told == []
    with pytest.raises(ValueError, match="captioner") as caught:
        prepare(captioner="some/model")
    assert str(caught.value) == "Expected no `captioner`, since the model was trained without context, but got one"


def test_pictures_that_had_no_part_are_told(prepare):
    _, told = warned(prepare(sight=Sight(lacks="it reads text alone")), Post("a", image=PICTURE), Post("a"))
    assert told == [(ImageWarning, "Images are not looked at: it reads text alone")]
    assert warned(prepare(sight=Sight(lacks="it reads text alone")), Post("a"))[1] == []
    (one,), told = warned(prepare(), Post("a", image=PICTURE))
    assert one.opened.problem == "nothing was found in it"
    (broken,), told = warned(prepare(), Post("a", image=b"none"))
    assert told == [(ImageWarning, "An image was not used: not an image")]
    assert broken.opened == (None, "not an image")


def test_the_tokeniser_of_a_model(bert_folder):
    def model(limit=None, **hparams):
        return SimpleNamespace(hparams=hparams, text_encoder=SimpleNamespace(piece_limit=limit))

    named = tokenizer_of(model(text_encoder=bert_folder), {})
    assert named.max_length == 128
    assert tokenizer_of(model(64, text_encoder=bert_folder), {}).max_length == 64
    data = {"tokenizer": named.files(), "max_length": 100, "replace_urls": "url", "piece_limit": 90}
    own = tokenizer_of(model(), data)
    assert (own.max_length, own.replace_urls, own.fingerprint) == (90, "url", named.fingerprint)
    assert tokenizer_of(model(80), data).max_length == 80
    with pytest.raises(CheckpointError, match="holds no tokeniser"):
        tokenizer_of(model(), {})
