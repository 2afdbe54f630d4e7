"""The tagger against `mner predict`, in every way a model may have been trained."""

import pickle
import warnings
from io import BytesIO

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import mner
from mner.data import Twitter2017DataModule
from mner.data.formats.predictions import read_predictions
from mner.data.word_splitter import Word, split_words
from mner.errors import CheckpointError
from mner.fusion import CoAttention, FusionModule, TextOnly, VisualAttention
from mner.labels import spans
from mner.preprocessing.features import features
from mner.tagger.post import Post, Tagged
from mner.tagger.preprocessor import ImageWarning
from mner.tagger.tagger import Tagger
from mner.training import Trainer

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def train(folder, cls, root, bert, **options):
    """A checkpoint after two steps, and its data module."""
    names = ("images", "features", "context", "max_length")
    encoder = options.get("image_encoder")
    data = Twitter2017DataModule(
        str(root),
        batch_size=3,
        text_encoder=bert,
        image_encoder=encoder,
        image_size=64 if encoder else None,
        **{name: options.pop(name) for name in names if name in options},
    )
    pl.seed_everything(0, verbose=False)
    if cls.uses_image and data.region_width:
        options["region_width"] = data.region_width
    model = cls(data.labels, text_encoder=bert, **options)
    torch.nn.init.normal_(model.head.weight, std=1.0)  # so that there are entities, of many kinds
    trainer = Trainer(max_epochs=1, enable_checkpointing=False, **QUIET)
    trainer.fit(model, datamodule=data)
    path = folder / "model.ckpt"
    trainer.save_checkpoint(path)
    return path, data


def predicted(path, data, folder):
    """What `mner predict` says of the test split."""
    model = FusionModule.load_from_checkpoint(path)
    out = folder / "predictions.jsonl"
    Trainer(**QUIET).predict(model, datamodule=data, output=str(out), split="test")
    return read_predictions(out).posts


def same(tagged, post):
    assert list(tagged.tags) == list(post.pred)
    assert [(e.word_start, e.word_end, e.type) for e in tagged] == [(e.start, e.end, e.type) for e in post.entities]
    np.testing.assert_allclose([e.score for e in tagged], [e.score for e in post.entities], atol=1e-4)
    assert tagged.has_image == post.has_image


@pytest.fixture(scope="module")
def text_model(tmp_path_factory, posts_folder, bert_folder):
    return train(tmp_path_factory.mktemp("text"), TextOnly, posts_folder, bert_folder)


@pytest.fixture(scope="module")
def text_tagger(text_model):
    return Tagger.from_checkpoint(text_model[0], device="cpu")


@pytest.fixture(scope="module")
def image_model(tmp_path_factory, posts_folder, bert_folder):
    folder = tmp_path_factory.mktemp("image")
    return train(
        folder, CoAttention, posts_folder, bert_folder, image_encoder="test_resnet", image_weights=None, images="images"
    )


@pytest.fixture
def image_tagger(image_model):
    return Tagger.from_checkpoint(image_model[0], device="cpu")


def test_same_as_predict_on_text(text_model, text_tagger, tmp_path):
    posts = predicted(*text_model, tmp_path)
    assert any(post.entities for post in posts)  # else the comparison says nothing
    for post in posts:
        same(text_tagger(words=list(post.words)), post)
        text = " ".join(post.words)
        if len(split_words(text, text_tagger.prepare.style)) == len(post.words):
            same(text_tagger(text), post)
    for tagged, post in zip(text_tagger([list(post.words) for post in posts]), posts, strict=True):
        same(tagged, post)


def test_same_as_predict_with_images(image_model, image_tagger, posts_folder, tmp_path):
    posts = predicted(*image_model, tmp_path)
    images = [posts_folder / "images" / f"{post.image_id}.jpg" for post in posts]
    assert {post.has_image for post in posts} == {True, False}
    with pytest.warns(ImageWarning) as told:
        tagged = list(
            image_tagger.stream([Post(words=p.words, image=i) for p, i in zip(posts, images, strict=True)], 2)
        )
    assert sorted(str(warning.message) for warning in told) == [
        "An image was not used: missing",
        "An image was not used: not an image",
    ]
    for one, post in zip(tagged, posts, strict=True):
        same(one, post)
    assert [one.image_problem for one in tagged] == ["", "", "missing", "not an image", "", ""]
    # The same picture as bytes; without the picture, other scores.
    alone = image_tagger(words=list(posts[0].words), image=images[0].read_bytes())
    assert [(e.text, e.type) for e in alone] == [(e.text, e.type) for e in tagged[0]]
    # A batch of one sums in another order.
    assert [e.score for e in alone] == pytest.approx([e.score for e in tagged[0]], abs=1e-5)
    without = list(image_tagger.stream([list(post.words) for post in posts]))
    assert not any(one.has_image for one in without)
    assert [[e.score for e in one] for one in without] != [[e.score for e in one] for one in tagged]


@pytest.mark.parametrize("regions", ["none", "random"])
def test_same_as_predict_with_stored_features(regions, tmp_path, posts_folder, bert_folder):
    store = tmp_path / "store"
    options = {"encoder": "test_resnet", "weights": "random", "image_size": 64, "num_workers": 0, "device": "cpu"}
    features(posts_folder / "images", store, regions=regions, top_k=3, **options)
    path, data = train(tmp_path, VisualAttention, posts_folder, bert_folder, features=str(store))
    tagger = Tagger.from_checkpoint(path, device="cpu")
    posts = predicted(path, data, tmp_path)
    assert sum(post.has_image for post in posts) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageWarning)
        for post in posts:
            same(tagger(words=list(post.words), image=posts_folder / "images" / f"{post.image_id}.jpg"), post)


def test_features_that_cannot_be_made_are_named(tmp_path, posts_folder, bert_folder):
    store = tmp_path / "store"
    options = {"encoder": "test_resnet", "image_size": 64, "num_workers": 0, "device": "cpu"}
    features(posts_folder / "images", store, weights="random", seed=1, **options)
    path, _ = train(tmp_path, VisualAttention, posts_folder, bert_folder, features=str(store))
    tagger = Tagger.from_checkpoint(path, device="cpu")
    image = Image.new("RGB", (80, 60))
    with pytest.warns(ImageWarning, match="not those that made the features"):
        tagged = tagger("Anna visits", image)
    assert not tagged.has_image
    assert "not available" in tagged.image_problem
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tagger("Anna visits", image) == tagged == tagger("Anna visits")  # told once

    # The weights in a file, which the tagger is told of.
    from mner.encoders.image import ImageEncoder

    weights = tmp_path / "resnet.pth"
    torch.save(ImageEncoder("test_resnet").backbone.state_dict(), weights)
    store = tmp_path / "store2"
    features(posts_folder / "images", store, weights=str(weights), **options)
    path, _ = train(tmp_path, VisualAttention, posts_folder, bert_folder, features=str(store))
    with pytest.warns(ImageWarning, match=r"local file 'resnet.pth'.*image_weights"):
        assert not Tagger.from_checkpoint(path, device="cpu")("Anna visits", image).has_image
    assert Tagger.from_checkpoint(path, device="cpu", image_weights=weights)("Anna visits", image).has_image


class Captions:
    """Stands for a captioner: says how wide each picture is."""

    def __init__(self):
        self.asked = 0

    def __call__(self, images):
        self.asked += len(images)
        return [f"a picture of {image.width} things" for image in images]


@pytest.fixture(scope="module")
def context_model(tmp_path_factory, posts_folder, bert_folder):
    root = posts_folder
    (root / "tags.jsonl").write_text(
        '{"image_id": "20.jpg", "text": "dog cat"}\n'
        + '{"image_id": "10", "text": "x"}\n{"image_id": "00", "text": "x"}\n'
    )
    folder = tmp_path_factory.mktemp("context")
    return train(folder, TextOnly, root, bert_folder, context=["captions.jsonl", "tags.jsonl"])


def test_same_as_predict_with_context(context_model, tmp_path):
    path, data = context_model
    tagger = Tagger.from_checkpoint(path, device="cpu")
    assert tagger.sources == ["captions", "tags"]
    posts = predicted(path, data, tmp_path)
    examples = {example.id: example for example in data.datasets["test"].examples}
    assert examples["20"].context == ("a picture of 4 things", "dog cat")
    for post in posts:
        context = examples[post.id].context
        for form in (list(context), dict(zip(tagger.sources, context, strict=True))):
            tagged = tagger(words=list(post.words), context=form)
            assert list(tagged.tags) == list(post.pred)
            assert tagged.context == context
            np.testing.assert_allclose([e.score for e in tagged], [e.score for e in post.entities], atol=1e-4)
    one = tagger("Anna visits", context=" a dog ")
    assert one.context == ("a dog", "")
    with pytest.raises(ValueError, match=r"sources.*3 texts"):
        tagger("Anna", context=["a", "b", "c"])
    with pytest.raises(ValueError, match="nowhere"):
        tagger("Anna", context={"nowhere": "a"})


def test_captioner_makes_context_that_is_not_given(context_model):
    captions = Captions()
    tagger = Tagger.from_checkpoint(context_model[0], captioner=captions, device="cpu")
    image = Image.new("RGB", (8, 6))
    tagged = tagger([Post("Anna visits", image=image), Post("Anna", image=image, context="given"), Post("Bo")])
    assert [one.context[0] for one in tagged] == ["a picture of 8 things", "given", ""]
    assert captions.asked == 1
    assert not tagged[0].has_image  # the model itself sees none
    assert tagged[0].image_problem == ""  # and yet it was used
    assert "uses no image" in tagged[1].image_problem
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tagger("Anna visits", image)
        with pytest.warns(ImageWarning, match="not an image"):
            assert tagger("Anna visits", b"no image").image_problem == "not an image"
    tagger = Tagger.from_checkpoint(context_model[0], captioner=captions, caption_source="tags", device="cpu")
    assert tagger("Anna", image).context == ("", "a picture of 8 things")
    with pytest.raises(ValueError, match=r"caption_source.*captions"):
        Tagger.from_checkpoint(context_model[0], captioner=captions, caption_source="blip", device="cpu")


def test_missing_context_is_said_once(context_model):
    tagger = Tagger.from_checkpoint(context_model[0], device="cpu")
    with pytest.warns(UserWarning, match=r"trained with context \(captions, tags\)"):
        tagger("Anna visits")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tagger("Anna visits")


def test_context_and_images_that_the_model_does_not_read(text_model):
    tagger = Tagger.from_checkpoint(text_model[0], device="cpu")
    with pytest.warns(UserWarning, match="Context is not read"):
        tagged = tagger("Anna visits", context="a dog")
    assert tagged.context == ()
    with pytest.warns(ImageWarning, match="uses no image"):
        tagged = tagger("Anna visits", Image.new("RGB", (8, 8)))
    assert not tagged.has_image
    assert "uses no image" in tagged.image_problem
    with pytest.raises(ValueError, match="without context"):
        Tagger.from_checkpoint(text_model[0], captioner="some/model", device="cpu")


def test_places_in_the_text(text_tagger):
    text = "  Dr.\tSeuss\n  reads — Anna\u2019s \u201cOld Town\u201d!  \U0001f600 "
    text_tagger = Tagger(text_tagger.model, device="cpu")
    found = text_tagger(text)
    assert found.text == text
    for entity in found:
        assert text[entity.start : entity.end] == entity.text
        assert entity.start == found.words[entity.word_start].start
        assert entity.end == found.words[entity.word_end - 1].end
        assert 0 <= entity.score <= 1
    assert len(found.tags) == len(found.words)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters()) | st.text("Anna DrSeuss.@#\ud800\x00\ufe0f😀\n\u200b"))
def test_any_text_is_tagged_whole(text_tagger, text):
    found = text_tagger(text)
    assert len(found.tags) == len(found.words)
    assert [(e.word_start, e.word_end, e.type) for e in found] == [tuple(span) for span in spans(found.tags)]
    for entity in found:
        assert entity.text == text[entity.start : entity.end] != ""


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.text(st.characters(), min_size=1), max_size=8))
def test_any_words_are_tagged(text_tagger, words):
    found = next(text_tagger.stream([Post(words=words)]))
    assert [word.text for word in found.words] == words
    assert len(found.tags) == len(words)
    for entity in found:
        assert (
            entity.text == found.text[entity.start : entity.end] == " ".join(words[entity.word_start : entity.word_end])
        )


def test_forms_of_posts(text_tagger):
    one = text_tagger("Anna visits Old Town")
    assert isinstance(one, Tagged)
    assert text_tagger(words=["Anna", "visits", "Old", "Town"]) == one
    many = text_tagger(["Anna visits Old Town", "hi"])
    assert many[0] == one
    assert len(many) == 2
    assert text_tagger([{"text": "Anna visits Old Town"}, Post(words=["hi"])]) == many
    assert text_tagger(Post("Anna visits Old Town")) == one
    assert list(text_tagger.stream(["Anna visits Old Town", "hi"])) == many
    assert text_tagger("") == text_tagger(" \n") == []
    assert text_tagger([]) == []
    assert list(text_tagger.stream([])) == []
    assert mner.Tagger is Tagger
    assert pickle.loads(pickle.dumps(one)).tags == one.tags


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (3, TypeError, "Expected a post.*got a int"),
        ([["Anna", 3]], TypeError, "got a int among them"),
        ([["Anna", ""]], ValueError, "one is empty"),
        ([b"Anna"], TypeError, "got a bytes"),
        ([{"txt": "Anna"}], TypeError, "'txt'"),
        ([{"image": "a.jpg"}], ValueError, "neither"),
        ([{"text": "a", "words": ["a"]}], ValueError, "both"),
        ([{"text": 3}], TypeError, "a string, but got a int"),
        ([{"text": "a", "image": 3}], TypeError, "from PIL.*got a int"),
        ([{"text": "a", "context": 3}], TypeError, "`context`.*got a int"),
        ([{"text": "a", "context": {"captions": 3}}], TypeError, "`context`"),
    ],
)
def test_wrong_posts_are_refused(text_tagger, wrong, error, said):
    with pytest.raises(error, match=said):
        text_tagger(wrong)


def test_wrong_calls_are_refused(text_tagger):
    with pytest.raises(ValueError, match="inside of the posts"):
        text_tagger([Post("a")], Image.new("RGB", (4, 4)))
    with pytest.raises(ValueError, match="batch_size"):
        next(text_tagger.stream(["a"], batch_size=0))
    with pytest.raises(ValueError, match="batch_size"):
        Tagger(text_tagger.model, batch_size=0)
    with pytest.raises(TypeError, match="got a generator"):
        text_tagger(text for text in ["a b"])


def test_posts_read_ahead_share_batches_by_length(text_tagger, monkeypatch):
    widths = []
    emissions = text_tagger.model.emissions
    monkeypatch.setattr(
        text_tagger.model, "emissions", lambda batch: widths.append(batch["word_mask"].shape) or emissions(batch)
    )
    posts = [["word"] * length for length in (2, 9, 1, 8)]
    one_by_one = list(text_tagger.stream(posts, batch_size=2))
    assert widths == [(2, 9), (2, 8)]
    widths.clear()
    assert list(text_tagger.stream(posts, batch_size=2, ahead=2)) == one_by_one
    assert widths == [(2, 2), (2, 9)]
    with pytest.raises(ValueError, match="ahead"):
        next(text_tagger.stream(posts, ahead=0))


def test_no_more_pictures_are_held_than_a_batch_has(image_tagger, monkeypatch):
    sizes = []
    prepare = image_tagger.prepare
    monkeypatch.setattr(image_tagger, "prepare", lambda posts: sizes.append(len(posts)) or prepare(posts))
    posts = [Post(words=["a"], image=Image.new("RGB", (8, 8)) if number % 2 else None) for number in range(9)]
    assert len(list(image_tagger.stream(posts, batch_size=2, ahead=3))) == 9
    assert sizes == [4, 4, 1]


def test_stream_reads_no_further_than_a_batch(text_tagger):
    taken = []

    def posts():
        for number in range(1000):
            taken.append(number)
            yield f"Anna {number}"

    stream = text_tagger.stream(posts(), batch_size=4)
    next(stream)
    assert len(taken) == 4
    for _ in range(4):
        next(stream)
    assert len(taken) == 8


def test_own_words_and_style(text_model):
    path = text_model[0]
    assert Tagger.from_checkpoint(path, device="cpu").prepare.style == text_model[1].word_style.style  # of the data
    tagger = Tagger.from_checkpoint(path, words="twitter2015", device="cpu")
    assert [word.text for word in tagger("@Anna 1st").words] == ["@Anna", "1st"]
    tagger = Tagger.from_checkpoint(path, words=lambda text: [Word(text[1:3], 1, 3)], device="cpu")
    assert [word.text for word in tagger("@Anna 1st").words] == ["An"]


def test_checkpoints_that_are_none(tmp_path):
    with pytest.raises(CheckpointError, match="folder"):
        Tagger.from_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="No checkpoint at"):
        Tagger.from_checkpoint(tmp_path / "no.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(CheckpointError):
        Tagger.from_checkpoint(tmp_path / "text.ckpt")

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"state_dict": {}, "mner": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match="safely"):
        Tagger.from_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()


def test_checkpoint_without_data(bert_folder, text_tagger):
    labels = text_tagger.labels
    named = Tagger(TextOnly(labels, text_encoder=bert_folder), device="cpu")  # the tokeniser of the encoder
    assert len(named("Anna visits").tags) == 2
    model = TextOnly(labels, text_encoder=named.model.text_encoder.config)
    with pytest.raises(CheckpointError, match="tokenizer"):
        Tagger(model, device="cpu")
    assert len(Tagger(model, tokenizer=named.tokenizer, device="cpu")("Anna visits").tags) == 2
    unknown = Tagger(VisualAttention(labels, text_encoder=bert_folder, region_width=8), device="cpu")
    with pytest.warns(ImageWarning, match="does not say on which"):
        assert not unknown("Anna", Image.new("RGB", (8, 8))).has_image


def test_pictures_in_any_state(image_tagger, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    good = BytesIO()
    Image.fromarray(noise).save(good, "PNG")
    (tmp_path / "good.png").write_bytes(good.getvalue())
    (tmp_path / "folder.png").mkdir()
    bomb = BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    cut = Image.open(BytesIO(good.getvalue()[:5000]))
    cases = {
        "": [
            good.getvalue(),
            bytearray(good.getvalue()),
            str(tmp_path / "good.png"),
            Image.open(tmp_path / "good.png"),
            *(Image.fromarray(noise).convert(mode) for mode in ("L", "P", "CMYK", "HSV", "1", "RGBA", "F", "I")),
        ],
        "empty": [b"", Image.new("RGB", (0, 5))],
        "not an image": [b"no image", b"\x89PNG\r\n\x1a\n"],
        "truncated or damaged": [good.getvalue()[:5000], cut],
        "too large": [bomb.getvalue()],
        "missing": [tmp_path / "no.png", "", "no\ud800.png", "a\0b.png", "a" * 5000],
        "not a file": [tmp_path / "folder.png"],
        "a URL": ["https://example.org/a.jpg"],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for problem, given_ones in cases.items():
            for given_one in given_ones:
                tagged = image_tagger("Anna visits", given_one)
                assert tagged.has_image == (not problem), given_one
                assert tagged.image_problem.startswith(problem), given_one
                assert bool(tagged.image_problem) == bool(problem)


def test_model_trained_without_images_says_so(text_tagger, bert_folder):
    options = {"text_encoder": bert_folder, "image_encoder": "test_resnet", "image_weights": None}
    model = VisualAttention(text_tagger.labels, **options)
    model.restored = {"data": {"images": False}}
    with pytest.warns(ImageWarning, match="trained without images"):
        assert not Tagger(model, device="cpu")("Anna", Image.new("RGB", (8, 8))).has_image


@pytest.mark.parametrize("texts", [["北京欢迎你", "我爱上海"], ["Anna"], ("Anna", "Bo"), [Post(words=["Anna"]), "Bo"]])
def test_a_list_is_one_of_posts(text_tagger, texts):
    found = text_tagger(texts)
    assert type(found) is list
    assert [one.text for one in found] == [post.words[0] if isinstance(post, Post) else post for post in texts]
    assert len(text_tagger.render(texts).parts) == len(texts)


def test_words_of_one_post_are_given_as_such(text_tagger):
    found = text_tagger(words=["Anna", "O'Neill"])
    assert [word.text for word in found.words] == ["Anna", "O'Neill"]
    assert len(text_tagger.render(words=["Anna", "O'Neill"]).parts) == 1
    both = {"posts": "a", "words": ["a"]}
    for wrong in (both, {"posts": ["a"], "words": ["a"]}, {"posts": Post("a"), "image": b""}, {}):
        with pytest.raises(ValueError, match="Expected"):
            text_tagger(**wrong)
