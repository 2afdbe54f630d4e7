"""Posts longer than the encoder, and streams without end."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mner.tagger.preprocessor
import mner.tagger.results
from mner.data.tokenizer import MAX_WORD, PostTokenizer
from mner.data.windows import kept, windows
from mner.data.word_splitter import Word
from mner.fusion import Concatenation, TextOnly
from mner.labels import bio_labels
from mner.tagger.post import Post
from mner.tagger.sections import Section
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
def test_each_word_is_in_one_window(count, room):
    places = windows([1] * count, room)
    answered = kept(places)
    assert [word for begin, until in answered for word in range(begin, until)] == list(range(count))
    assert all(start <= begin < until <= end for (start, end), (begin, until) in zip(places, answered, strict=True))


def test_each_word_gets_a_tag(tagger):
    assert tagger.tokenizer.room == 10
    for count in (10, 11, 60):
        words = [f"w{number}" for number in range(count)]
        found = tagger(words=words)
        assert len(found.tags) == count
        assert set(found.tags) <= set(LABELS)


def test_emissions_of_windows_are_those_of_the_windows(tagger):
    words = [f"w{number % 7}" for number in range(23)]
    section = Section(0, [Word(word, 0, 2) for word in words])
    places = windows(tagger.tokenizer.piece_counts(words), tagger.tokenizer.room)
    assert len(places) > 2
    parts = []
    for (start, end), (begin, until) in zip(places, kept(places), strict=True):
        whole = tagger.decoder.items(Section(0, section.words[start:end]))  # all words of the window
        with torch.no_grad():
            parts.append(tagger.model.emissions(tagger.decoder.batch(whole))[0, begin - start : until - start])
    joined = torch.cat(parts)
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
    monkeypatch.setattr(mner.tagger.results, "SECTION", 15)
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
    items = tagger.decoder.items(Section(0, found.words, found.context))
    assert len(items) > 1
    assert all(item["post_length"] < len(item["token_ids"]) <= 12 for item in items)


def test_huge_words_cost_little(tagger, bert_folder):
    found = tagger("a" * 3_000_000 + " Anna")
    assert len(found.tags) == 2
    assert len(tagger.decoder.items(Section(0, found.words))[0]["example"].words[0]) == MAX_WORD
    characters = Tagger(Concatenation(LABELS, text_encoder=bert_folder, region_width=4), device="cpu")
    assert len(characters("a" * 1_000_000).tags) == 1


def test_learnt_words_are_forgotten(tagger, monkeypatch):
    monkeypatch.setattr(mner.tagger.preprocessor, "KNOWN_WORDS", 20)
    sizes = [len(tagger.tokenizer._known.words) for _ in tagger.stream((f"x{n} y{n}" for n in range(200)), 4)]
    assert max(sizes) <= 20 + 8


def test_mapping_with_words(tagger):
    assert tagger([{"words": ["a"] * 30}])[0].tags == next(tagger.stream([Post(words=["a"] * 30)])).tags
