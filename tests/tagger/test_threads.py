"""One tagger, shared by threads."""

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import mner.tagger.preprocessor
from mner.data.tokenizer import PostTokenizer
from mner.fusion import TextOnly
from mner.labels import bio_labels
from mner.tagger.tagger import Tagger


@pytest.fixture
def tagger(bert_folder):
    torch.manual_seed(0)
    model = TextOnly(bio_labels(["PER", "LOC"]), text_encoder=bert_folder)
    torch.nn.init.normal_(model.head.weight, std=3.0)
    return Tagger(model, tokenizer=PostTokenizer(bert_folder), device="cpu")


@pytest.fixture
def _often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_often")
def test_eight_threads_get_what_one_gets(tagger, monkeypatch):
    monkeypatch.setattr(mner.tagger.preprocessor, "KNOWN_WORDS", 50)
    texts = [" ".join(f"w{number}x{place}" for place in range(40)) for number in range(120)]
    alone = [tagger(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(tagger, texts))
    for one, other in zip(alone, together, strict=True):
        assert one.tags == other.tags
        assert [(e.start, e.end, e.type, e.score) for e in one] == [(e.start, e.end, e.type, e.score) for e in other]


@pytest.mark.usefixtures("_often")
def test_a_tokeniser_is_shared_too(bert_folder):
    post = PostTokenizer(bert_folder)
    words = [[f"w{number}x{place}" for place in range(30)] for number in range(400)]
    expected = PostTokenizer(bert_folder).encode(words[0]).ids.tolist()

    def call(some):
        post.forget()
        return post.encode(some).ids.tolist()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(call, words))
    assert found[0] == expected
    assert found == [post.encode(some).ids.tolist() for some in words]


def test_a_tagger_can_be_copied(tagger):
    expected = tagger("anna visits lagos").tags
    assert copy.deepcopy(tagger)("anna visits lagos").tags == expected
    assert pickle.loads(pickle.dumps(tagger.turns)) is not tagger.turns
