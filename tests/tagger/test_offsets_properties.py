"""Split, tokenise, window, tag and map back, for any text."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mner.data.tokenizer import PostTokenizer
from mner.data.word_pieces import FORMAT_CHARACTERS
from mner.data.word_splitter import STYLES
from mner.fusion import TextOnly
from mner.labels import bio_labels, spans
from mner.tagger.tagger import Tagger

ODD = "aB1 .'@#-\n今กក😀👍🏽\u200b\u00ad\u200d\u200e\ufe0f\ud800\x00"
TEXT = st.text(st.characters(), max_size=60) | st.text(ODD, max_size=60)


@pytest.fixture(scope="module")
def taggers(bert_folder):
    torch.manual_seed(0)
    model = TextOnly(bio_labels(["PER", "LOC"]), text_encoder=bert_folder)
    torch.nn.init.normal_(model.head.weight, std=3.0)
    tokenizer = PostTokenizer(bert_folder, max_length=10)  # most texts are longer
    return {style: Tagger(model, tokenizer=tokenizer, words=style, device="cpu") for style in STYLES}


@pytest.mark.parametrize("style", STYLES)
@given(text=TEXT)
def test_entities_are_where_they_say(taggers, style, text):
    found = taggers[style](text)
    assert len(found.tags) == len(found.words)
    assert [(e.word_start, e.word_end, e.type) for e in found] == [tuple(span) for span in spans(found.tags)]
    for word in found.words:
        assert text[word.start : word.end] == word.text
        assert FORMAT_CHARACTERS.sub("", word.text)
    for entity in found:
        assert text[entity.start : entity.end] == entity.text != ""
        assert entity.start == found.words[entity.word_start].start
        assert entity.end == found.words[entity.word_end - 1].end
        assert 0 <= entity.score <= 1
    covered = {place for word in found.words for place in range(word.start, word.end)}
    rest = "".join(character for place, character in enumerate(text) if place not in covered)
    assert FORMAT_CHARACTERS.sub("", rest).strip() == ""  # nothing that is seen is lost


@given(words=st.lists(st.text(st.characters(), min_size=1, max_size=4), min_size=1, max_size=40))
def test_words_that_are_given_stay(taggers, words):
    found = taggers["whitespace"](words=words)
    assert [word.text for word in found.words] == words
    assert len(found.tags) == len(words)
    assert all(found.text[entity.start : entity.end] == entity.text for entity in found)


@given(texts=st.lists(TEXT, min_size=2, max_size=4))
def test_a_post_is_tagged_alike_alone_and_among_others(taggers, texts):
    tagger = taggers["treebank"]
    assert [found.tags for found in tagger(texts)] == [tagger(text).tags for text in texts]
