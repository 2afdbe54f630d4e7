"""One tagger, shared by threads."""

import copy
import pickle
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import mner.tagger.preprocessor
from mner.data.tokenizer import PostTokenizer
from mner.data.word_splitter import split_words
from mner.fusion import TextOnly
from mner.labels import bio_labels
from mner.tagger.post import Post, Tagged
from mner.tagger.sharing import Job, Sharing, chosen
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


def same(one, other):
    """The same entities; in another batch sums go in another order, so that scores are almost the same."""
    assert one.tags == other.tags
    assert [(e.start, e.end, e.type) for e in one] == [(e.start, e.end, e.type) for e in other]
    assert [e.score for e in one] == pytest.approx([e.score for e in other], abs=1e-5)


@pytest.mark.usefixtures("_often")
def test_eight_threads_get_what_one_gets(tagger, monkeypatch):
    monkeypatch.setattr(mner.tagger.preprocessor, "KNOWN_WORDS", 50)
    texts = [" ".join(f"w{number}x{place}" for place in range(40)) for number in range(120)]
    alone = [tagger(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(tagger, texts))
    for one, other in zip(alone, together, strict=True):
        same(one, other)


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
    assert pickle.loads(pickle.dumps(tagger.sharing)) is not tagger.sharing


@pytest.mark.usefixtures("_often")
def test_threads_share_batches(tagger, monkeypatch):
    sizes = []
    real = tagger.prepare

    def counted(posts):
        sizes.append(len(posts))
        return real(posts)

    texts = [f"anna{number} visits lagos" for number in range(200)]
    alone = [tagger(text) for text in texts]
    monkeypatch.setattr(tagger, "prepare", counted)
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(tagger, texts))
    assert sum(sizes) == 200
    assert len(sizes) < 100  # 200 without sharing
    assert max(sizes) <= 32
    for one, other in zip(alone, together, strict=True):
        same(one, other)


@pytest.mark.usefixtures("_often")
def test_an_error_reaches_the_thread_alone_whose_post_has_it(tagger):
    texts = ["anna visits lagos" if number % 10 else f"bad {number}" for number in range(100)]
    split = tagger.prepare._split

    def picky(post):
        if post.text.startswith("bad"):
            raise KeyError(post.text)
        return split(post)

    tagger.prepare._split = picky

    def call(text):
        try:
            return tagger(text).tags
        except KeyError as error:
            return error.args[0]

    expected = tagger("anna visits lagos").tags
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(call, texts))
    assert found == [text if text.startswith("bad") else expected for text in texts]


def test_lists_and_streams_share_too(tagger):
    lists = [[f"anna{number} visits lagos {place}" for place in range(number)] for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(tagger, lists))
        streamed = list(pool.map(lambda posts: list(tagger.stream(posts, 7)), lists))
    assert [[one.text for one in some] for some in found] == lists
    assert [[one.text for one in some] for some in streamed] == lists


def test_what_tags_may_call_the_same_tagger(bert_folder, tagger):
    def words(text):
        assert tagger("anna visits lagos").words  # within a call of the tagger
        return split_words(text, "whitespace")

    tagger.prepare.style = lambda text: split_words(text, "whitespace") if text.startswith("anna") else words(text)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(tagger, ["bo reads"] * 20))
    assert {len(one.words) for one in found} == {2}


def test_an_interrupt_of_one_thread_leaves_the_others_their_results():
    sharing, begun, go_on = Sharing(), threading.Event(), threading.Event()
    tagged = []

    def tag(posts, size):
        tagged.append([post.text for post in posts])
        if posts[0].text == "first":
            begun.set()
            assert go_on.wait(20)
        if any(post.text == "stop" for post in posts):
            raise KeyboardInterrupt
        return [Tagged(text=post.text) for post in posts]

    def call(text):
        try:
            return sharing([Post(text)], 8, tag)[0].text
        except KeyboardInterrupt:
            return "stopped"

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(call, "first")
        assert begun.wait(20)
        others = []
        for number, text in enumerate(("stop", "second", "third"), 1):
            others.append(pool.submit(call, text))
            while len(sharing._waiting) < number:
                time.sleep(0.001)
        go_on.set()
        assert first.result(20) == "first"
        assert [other.result(20) for other in others] == ["stopped", "second", "third"]
    assert tagged == [["first"], ["stop", "second", "third"], ["second", "third"]]
    assert call("later") == "later"


def test_jobs_that_are_alike_go_together():
    posts = [Post("a" * length) for length in (50, 5, 48, 500, 52)]
    jobs = [Job([post], 3) for post in posts]
    assert [job.length for job in chosen(jobs, 3)] == [50, 48, 52]
    assert [job.length for job in chosen(jobs, 9)] == [50, 5, 48, 500, 52]  # as they came, where all fit
    assert chosen([Job([posts[0]] * 9, 3), jobs[0]], 3)[0].posts == [posts[0]] * 9
    assert len(chosen([jobs[0], Job([posts[0]], 4)], 3)) == 1  # another batch size
    picture = Post("a", image=[b"", b""])
    assert len(chosen([Job([picture], 3), Job([picture], 3), jobs[0]], 3)) == 2
