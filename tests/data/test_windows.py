"""Posts longer than the encoder: the same windows in training, evaluation and tagging."""

from itertools import pairwise

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertConfig, BertModel, RobertaConfig, RobertaModel

from mner.data import Twitter2017DataModule
from mner.data.batching import Collate
from mner.data.dataset import MNERDataset
from mner.data.encoder_limit import encoder_limit
from mner.data.examples import Example
from mner.data.tokenizer import PostTokenizer
from mner.data.verify import verify, verify_command
from mner.data.windows import kept, whole_posts, windows
from mner.encoders.text import TextEncoder
from mner.fusion import CoAttention, FusionModule, TextOnly
from mner.labels import bio_labels
from mner.tagger.tagger import Tagger
from mner.training import Trainer
from tests.conftest import save_bert, write_posts

LABELS = bio_labels(["PER", "LOC"])
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
LONG = [f"{'abcdefg'[n % 7]}{n % 10}" for n in range(90)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """24 places, of which its tokeniser says nothing."""
    folder = tmp_path_factory.mktemp("short")
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    save_bert(folder, BertConfig(vocab_size=91, max_position_embeddings=24, **size))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = int(1e30)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    for number, split in enumerate(("train", "valid", "test")):
        posts = [(f"{number}{row}", words, ["B-PER", *["O"] * (len(words) - 1)]) for row, words in
                 enumerate((LONG, ["anna"], LONG[:23], ["a", "b"]))]  # fmt: skip
        write_posts(folder / f"{split}.txt", posts)
    captions = "".join(f'{{"id": "{number}0", "caption": "a picture of things"}}\n' for number in range(3))
    (folder / "captions.jsonl").write_text(captions)
    return folder


def train(cls, root, encoder, tmp_path, **options):
    data = Twitter2017DataModule(str(root), batch_size=2, text_encoder=encoder, **options)
    pl.seed_everything(0, verbose=False)
    model = cls(data.labels, text_encoder=encoder, **({"region_width": 4} if cls.uses_image else {}))
    torch.nn.init.normal_(model.head.weight, std=2.0)
    trainer = Trainer(max_epochs=1, enable_checkpointing=False, **QUIET)
    return trainer, model, data


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=40),
    room=st.integers(1, 24),
    share=st.sampled_from([1.0, 0.75]),
)
def test_windows_are_as_long_as_fits_and_overlap_by_a_quarter(sizes, room, share):
    places = windows(sizes, room, share)
    if len(sizes) <= room:
        assert places == [(0, len(sizes))]
        return
    budget = max(1, int(room * share))
    counted = np.minimum(sizes, max(1, budget // 4))  # of a long word not more than a quarter of a window counts
    assert places[0][0] == 0
    assert places[-1][1] == len(sizes)
    for start, end in places:
        assert end == start + 1 or counted[start:end].sum() <= budget
        assert end == len(sizes) or counted[start : end + 1].sum() > budget
    for (start, end), (following, _) in pairwise(places):
        assert following == max(start + 1, end - (end - start) // 4)
    borders = kept(places)
    assert [word for start, end in borders for word in range(start, end)] == list(range(len(sizes)))
    for (start, end), (begin, until) in zip(places, borders, strict=True):
        assert start <= begin < until <= end
    for (first, second), (_, border) in zip(pairwise(places), borders[:-1], strict=True):
        assert abs((border - second[0]) - (first[1] - border)) <= 1  # each has its half of what both read


@pytest.mark.parametrize("context", [None, ["captions.jsonl"]])
def test_predict_and_tagger_agree(root, encoder, tmp_path, context):
    trainer, model, data = train(TextOnly, root, encoder, tmp_path, context=context)
    trainer.fit(model, datamodule=data)
    assert data.post_tokenizer.max_length == 24
    trainer.test(model, datamodule=data)  # counts agree with seqeval's, or it raises
    assert [len(tags) for tags, _ in model.tested] == [len(tags) for _, tags in model.tested]
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    posts = trainer.predict(model, datamodule=data, output=str(tmp_path / "p.jsonl"))
    assert [len(post.words) for post in posts] == [90, 1, 23, 2]
    assert [post.gold[0] for post in posts] == ["B-PER"] * 4
    tagger = Tagger.from_checkpoint(tmp_path / "m.ckpt", device="cpu")
    assert tagger.tokenizer.max_length == 24
    given = [
        {"words": list(post.words), "context": example.context[0] if context else None}
        for post, example in zip(posts, data.datasets["test"].examples, strict=True)
    ]
    for post, found in zip(posts, tagger(given), strict=True):
        assert list(found.tags) == list(post.pred)
        np.testing.assert_allclose([e.score for e in found], [e.score for e in post.entities], atol=1e-4)
    assert any(post.entities for post in posts[:1])
    restored = FusionModule.load_from_checkpoint(tmp_path / "m.ckpt")
    batch = next(iter(data.predict_dataloader()))
    assert sorted(map(len, restored(batch))) == sorted(map(len, batch_words(restored, batch)))


def batch_words(model, batch):
    return whole_posts(model.label_scores(batch), batch)[1]["words"]


def dataset(encoder, **options):
    tokenizer = PostTokenizer(encoder)
    tokenizer.limit_to(24)
    examples = [Example("long", "i", tuple(LONG), tuple(["B-PER", "I-PER"] * 45)), Example("b", "j", ("a",), ("O",))]
    return MNERDataset(examples, LABELS, tokenizer, **options)


def test_each_word_and_its_gold_are_in_one_row(encoder):
    data = dataset(encoder, regions={"i": np.ones((2, 4), dtype=np.float32)})
    assert len(data) == 2
    batch = Collate(region_width=4)([data[0], data[1]])
    *rows, last = batch["windows"][0], batch["windows"][1]
    assert rows[0] > 2
    assert last == 1
    assert len(data.lengths) == 2
    assert int(data.lengths[0]) == int(batch["token_mask"][:-1].sum(1).max()) <= 24
    words = [word for row in batch["words"][:-1] for word in row]
    assert tuple(words) == data.examples[0].words
    gold = batch["tags"][:-1][batch["word_mask"][:-1]].tolist()
    assert gold == [LABELS.index(tag) for tag in data.examples[0].tags]
    assert batch["has_image"].tolist() == [True] * rows[0] + [False]
    assert torch.equal(batch["regions"][0], batch["regions"][rows[0] - 1])
    scores, whole = whole_posts(torch.randn(*batch["word_mask"].shape, 3), batch)
    assert scores.shape == (2, 90, 3)
    assert whole["words"] == [tuple(LONG), ("a",)]
    assert whole["word_mask"].sum(1).tolist() == [90, 1]
    assert "windows" not in Collate(region_width=4)([data[1]])


@pytest.mark.parametrize("context", [(), ("a picture",)])
def test_each_word_has_its_pieces(encoder, context):
    """In whole posts and in windows, where pieces of words beside, special pieces and context are in no word."""
    tokenizer = PostTokenizer(encoder)
    tokenizer.limit_to(24)
    posts = [LONG, ["anna"], LONG[:23], ["a", "b"], ["abcdefghijklmnopqrstuvwxyz", "ab"]]
    examples = [Example(str(n), None, tuple(words), None, context) for n, words in enumerate(posts)]
    data = MNERDataset(examples, LABELS, tokenizer)
    batch = Collate()([data[row] for row in range(len(data))])
    assert len(batch["words"]) > len(posts), "there are windows"
    seen = 0
    for row, words in enumerate(batch["words"]):
        for place, word in enumerate(words):
            start, end = int(batch["word_starts"][row, place]), int(batch["word_ends"][row, place])
            pieces, whole = tuple(batch["token_ids"][row, start:end].tolist()), tokenizer.learn([word]).words[word]
            assert pieces == whole[: len(pieces)]  # of a post with too many, each word keeps some
            assert len(pieces) == len(whole) or sum(map(len, map(tokenizer.learn([]).words.get, words))) > 20
            seen += 1
    assert seen == sum(map(len, posts))
    assert not batch["word_ends"][~batch["word_mask"]].any()


def test_windows_read_the_words_beside_theirs(encoder):
    batch = Collate()([dataset(encoder)[0]])
    pieces, starts = batch["token_mask"].sum(1), batch["word_mask"].sum(1)
    assert bool((batch["word_starts"][1:, 0] > 1).all())  # words before the first that is scored
    assert int(pieces.sum()) > int(starts.sum()) * 2


def test_strategies_with_images_train_on_long_posts(encoder):
    torch.manual_seed(0)
    model = CoAttention(LABELS, text_encoder=encoder, region_width=4)
    batch = Collate(region_width=4)([dataset(encoder)[0], dataset(encoder)[1]])
    loss = torch.stack(list(model.losses(batch).values())).sum()
    loss.backward()
    assert torch.isfinite(loss)


def test_context_is_dropped_from_all_windows(encoder):
    tokenizer = PostTokenizer(encoder, max_length=24)
    post = Example("1", None, tuple(LONG), None, ("a picture",))
    bare = MNERDataset([post], LABELS, tokenizer, context_dropout=1.0)[0]
    full = MNERDataset([post], LABELS, tokenizer)[0]
    for item in (bare, *bare["rest"]):
        assert len(item["token_ids"]) == item["post_length"]
    for item in (full, *full["rest"]):
        assert len(item["token_ids"]) > item["post_length"]


WORDS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5), min_size=1, max_size=60)


@given(words=WORDS, room=st.integers(6, 20))
def test_any_words_are_scored_once(encoder, words, room):
    tokenizer = PostTokenizer(encoder, max_length=room)
    data = MNERDataset([Example("1", None, tuple(words))], LABELS, tokenizer)
    batch = Collate()([data[0]])
    assert batch["token_ids"].shape[1] <= room
    scores = torch.zeros(*batch["word_mask"].shape, 3)
    joined, whole = whole_posts(scores, batch)
    assert joined.shape[1] == len(words)
    assert whole["words"] == [tuple(words)]
    taken = batch["token_mask"].gather(1, batch["word_starts"])[batch["word_mask"]]
    assert bool(taken.all())


def test_limits_of_configurations_are_those_of_encoders(tmp_path):
    size = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    for cls, config in ((BertModel, BertConfig), (RobertaModel, RobertaConfig)):
        made = config(max_position_embeddings=40, **size)
        cls(made).save_pretrained(tmp_path)
        assert encoder_limit(made.to_dict()) == TextEncoder(str(tmp_path)).piece_limit
    assert encoder_limit({}) is None


def test_verify_says_how_many_are_long(root, encoder, capsys):
    post = Example("1", "1", ("a",) * 511, ("O",) * 511)
    said = "train: 1 post has more words than fit into an encoder of 512 pieces (most: 511)"
    assert any(said in warning for warning in verify({"train": [post]}).warnings)
    verify_command(root, text_encoder=encoder)
    assert "2 posts have more words than fit into an encoder of 24 pieces (most: 90)" in capsys.readouterr().out
