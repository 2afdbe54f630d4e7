"""Posts longer than the encoder, and streams without end."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mner.tagger.preprocessor
import mner.tagger.tagger
from mner.data.tokenizer import PostTokenizer
from mner.data.windows import stitch, windows
from mner.data.word_splitter import Word
from mner.fusion import Concatenation, TextOnly
from mner.labels import bio_labels
from mner.tagger.decoder import MAX_WORD, Section
from mner.tagger.post import Post
from mner.tagger.tagger import Tagger

LABELS = bio_labels(["PER", "LOC"])


@pytest.fixture(scope="module")
def tagger(bert_folder):
    torch.manual_seed(0)
    model = TextOnly(LABELS, text_encoder=bert_folder)
    torch.nn.init.normal_(model.head.weight, std=3.0)
    return Tagger(model, tokenizer=PostTokenizer(bert_folder, max_length=12), device="cpu")


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=60), room=st.integers(1, 12))
def test_windows_hold_every_word_and_fit(sizes, room):
    places = windows(sizes, room)
    assert places[0][0] == 0
    assert places[-1][1] == len(sizes)
    for (start, end), (following, further) in pairwise(places):
        assert start < following <= end <= further
    for start, end in places:
        assert 0 < end - start <= room
        assert (
            len(places) == 1
            or end - start == 1
            or sum(min(size, max(1, room // 4)) for size in sizes[start:end]) <= room
        )


@given(count=st.integers(1, 60), room=st.integers(1, 12))
def test_stitching_gives_each_word_once(count, room):
    whole = torch.arange(2 * count).view(count, 2)
    places = windows([1] * count, room)
    assert torch.equal(stitch([whole[start:end] for start, end in places], places), whole)


def test_each_word_gets_a_tag(tagger):
    assert tagger.tokenizer.room == 10
    for count in (10, 11, 60):
        words = [f"w{number}" for number in range(count)]
        found = tagger(words=words)
        assert len(found.tags) == count
        assert set(found.tags) <= set(LABELS)


def test_emissions_of_windows_are_those_of_the_windows(tagger):
    words = [Word(f"w{number % 7}", 0, 2) for number in range(23)]
    section = Section(0, words)
    places = windows(tagger.tokenizer.piece_counts([word.text for word in words]), tagger.tokenizer.room)
    assert len(places) > 2
    parts = []
    for place in places:
        with torch.no_grad():
            parts.append(tagger.model.emissions(tagger.decoder.batch([tagger.decoder.item(section, place)]))[0])
    joined = stitch(parts, places)
    expected = [LABELS[index] for index in tagger.model.crf.decode(joined[None])[0]]
    assert tagger.decoder([section], 2)[0].tags == expected


def test_long_and_short_posts_together(tagger):
    posts = ["Anna", "b " * 40, "", "c d", "e " * 11]
    together = list(tagger.stream(posts, 5))
    for post, found in zip(posts, together, strict=True):
        alone = next(tagger.stream([post]))
        assert alone.tags == found.tags
        assert len(found.tags) == len(post.split())


def test_very_long_texts_are_cut_into_sections(tagger, monkeypatch):
    monkeypatch.setattr(mner.tagger.tagger, "SECTION", 15)
    text = " ".join(f"w{number}" for number in range(50))
    found = tagger(text)
    assert len(found.tags) == 50
    for entity in found:
        assert text[entity.start : entity.end] == entity.text
    first = tagger(" ".join(text.split()[:15]))
    assert found.tags[:15] == first.tags


def test_context_leaves_room_for_the_post(tagger, bert_folder):
    model = TextOnly(LABELS, text_encoder=bert_folder)
    model.restored = {"data": {"context": ["captions"]}}
    tagger = Tagger(model, tokenizer=PostTokenizer(bert_folder, max_length=12), device="cpu")
    found = tagger("a b c d e f g h i j k l m n", context="x " * 100_000)
    assert len(found.tags) == 14
    item = tagger.decoder.item(Section(0, found.words, found.context), (0, 5))
    assert item["post_length"] < len(item["token_ids"]) <= 12


def test_huge_words_cost_little(tagger, bert_folder):
    found = tagger("a" * 3_000_000 + " Anna")
    assert len(found.tags) == 2
    assert len(tagger.decoder.item(Section(0, found.words))["example"].words[0]) == MAX_WORD
    characters = Tagger(Concatenation(LABELS, text_encoder=bert_folder, region_width=4), device="cpu")
    assert len(characters("a" * 1_000_000).tags) == 1


def test_learnt_words_are_forgotten(tagger, monkeypatch):
    monkeypatch.setattr(mner.tagger.preprocessor, "KNOWN_WORDS", 20)
    sizes = [len(tagger.tokenizer._known.words) for _ in tagger.stream((f"x{n} y{n}" for n in range(200)), 4)]
    assert max(sizes) <= 20 + 8


def test_mapping_with_words(tagger):
    assert tagger([{"words": ["a"] * 30}])[0].tags == next(tagger.stream([Post(words=["a"] * 30)])).tags
