import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from mner.data.examples import Example
from mner.data.formats.context import attach, read_context
from mner.data.formats.feature_writer import FeatureWriter
from mner.errors import DataFormatError, DataNotFoundError, MissingDependencyError, MNERError
from mner.fusion import TextOnly
from mner.preprocessing.bm25 import BM25, words_of
from mner.preprocessing.corpus import Text, build_corpus
from mner.preprocessing.retrieval import find_neighbours, retrieve
from mner.preprocessing.vectors import MeanEncoder, Nearest
from tests.conftest import write_posts
from tests.tagging import save_checkpoint

TEXTS = [
    "rain falls on the harbour of Oslo tonight",
    "the harbour festival opens with rain",
    "Bergen wins the cup again",
    "a cup of coffee in Bergen",
    "nothing to see here",
    "coffee coffee coffee and rain in a cup",
]


@pytest.fixture
def lines(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"id": f"c{n}", "text": text}) + "\n" for n, text in enumerate(TEXTS)))
    return file


def posts_file(path, *texts, images=None):
    names = images or [f"p{n}" for n in range(len(texts))]
    posts = [(name, text.split()) for name, text in zip(names, texts, strict=True)]
    write_posts(path, [(name, words, ["O"] * len(words)) for name, words in posts])
    return path


def read(out):
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def test_scores_are_those_of_the_formula(lines, tmp_path):
    index = BM25(build_corpus(lines, tmp_path / "index"), k1=1.2, b=0.75)
    bags = [Counter(text.lower().split()) for text in TEXTS]
    mean = sum(bag.total() for bag in bags) / len(bags)

    def score(query, bag):
        total = 0.0
        for word in query.lower().split():
            having = sum(word in one for one in bags)
            idf = math.log(1 + (len(bags) - having + 0.5) / (having + 0.5))
            total += idf * bag[word] / (bag[word] + 1.2 * (0.25 + 0.75 * bag.total() / mean))
        return total

    for query in ("coffee in the rain", "Bergen cup cup", "harbour"):
        expected = {n: score(query, bag) for n, bag in enumerate(bags) if score(query, bag)}
        (found,) = index.search([Text(None, None, query)], 10)
        assert dict(found) == pytest.approx(expected, rel=1e-5)
        assert [n for n, _ in found] == sorted(expected, key=lambda n: (-expected[n], n))
        assert index.search([Text(None, None, query)], 1)[0] == found[:1]
    assert index.search([Text(None, None, "unheard: @oslo http://rain")], 3) == [[]]


def test_words():
    assert words_of("@Bo #Köln http://t.co/1 U.S.") == ["köln", "u", "s"]


class Ordered:
    """Gives all texts in the order of the corpus, and notes how many were asked for."""

    name = "ordered"

    def __init__(self, texts):
        self.corpus = texts
        self.asked = []

    def search(self, queries, count):
        self.asked.append(count)
        return [[(n, 1.0) for n in range(min(count, len(self.corpus)))] for _ in queries]


def test_what_would_give_the_answer_away_is_left_out():
    post = Text("7", "a.jpg", "Rain in Oslo tonight , bring boots")
    corpus = [
        Text("7", "x", "another text of the same id"),
        Text("8", "a", "another text of the same image"),
        Text(None, None, "RT @bo : rain in Oslo tonight, bring boots! http://t.co/1"),
        Text(None, None, "Bergen is dry and the cup is won"),
        Text(None, None, "@ann Bergen is dry and the cup is won !!!"),
        Text(None, None, "the last one"),
        Text(None, None, "one more"),
    ]
    (found,) = find_neighbours(Ordered(corpus), [post], 2)
    assert found.texts == [corpus[3], corpus[5]]
    assert found.numbers == [3, 5]
    assert found.dropped == {
        "the post itself": 1, "of its image": 1, "near-duplicates of it": 1, "near-duplicates of a better one": 1,
    }  # fmt: skip


def test_more_are_asked_for_until_there_are_enough():
    corpus = [Text(None, None, f"rain in oslo tonight {'!' * n}") for n in range(50)] + [Text(None, None, "else")] * 30
    search = Ordered(corpus)
    (found,) = find_neighbours(search, [Text("1", None, "Rain in Oslo tonight")], 2)
    assert [text.text for text in found.texts] == ["else"]  # and there is no second
    assert search.asked == [18, 72, 80]
    assert found.dropped == {"near-duplicates of it": 50, "near-duplicates of a better one": 29}


def test_a_training_split_becomes_a_text_source(posts_folder, tmp_path, capsys):
    out = tmp_path / "new" / "context.jsonl"
    retrieve(posts_folder / "train.txt", posts_folder, out, k=2)
    told = " ".join(capsys.readouterr().err.split())
    assert "6 posts done" in told
    assert "6 posts have fewer than 2 texts" in told
    assert "6 the post itself" in told
    found = {record["id"]: record for record in read(out)}
    assert found["01"]["text"] == "The Oscars are on tonight in L.A. with Jo Doe"  # shares `in`
    assert found["05"]["from"] == [1]
    assert found["01"]["model"] == "bm25"
    texts = read_context(out)
    assert attach([Example("01", None, ("x",))], {"retrieved": texts}).missing == {"retrieved": 0}


def test_it_goes_on_where_it_stopped(lines, tmp_path, capsys, monkeypatch):
    posts = posts_file(tmp_path / "posts.txt", "rain in Oslo", "a cup", "coffee", "nothing", "the harbour")
    out = tmp_path / "out.jsonl"
    retrieve(posts, lines, out, k=2, batch_size=2)
    whole = out.read_bytes()
    told = capsys.readouterr().err.splitlines()[-2:]
    monkeypatch.setattr("mner.preprocessing.bm25._numbered", lambda corpus: pytest.fail("built again"))
    for kept, again in ((len(whole), 0), (len(whole) - 5, 1), (whole.index(b"\n") + 1, 4), (3, 5), (0, 5)):
        out.write_bytes(whole[:kept])
        retrieve(posts, lines, out, k=2, batch_size=2)
        assert out.read_bytes() == whole
        error = capsys.readouterr().err
        assert f"{again} posts done" in error
        assert error.splitlines()[-2:] == told  # the counts are those of the whole file
    with pytest.raises(DataFormatError, match=r"k 2, now 3"):
        retrieve(posts, lines, out, k=3)
    retrieve(posts, lines, "-", k=2, index=tmp_path / "out.jsonl.index")
    assert capsys.readouterr().out.encode() == whole


def test_separator_and_length(lines, tmp_path):
    posts = posts_file(tmp_path / "posts.txt", "rain rain coffee")
    retrieve(posts, lines, tmp_path / "out.jsonl", k=2, separator=" ; ", max_words=2)
    assert read(tmp_path / "out.jsonl")[0]["text"] == "coffee coffee ; the harbour"


def test_kinds_of_corpora(tmp_path, posts_folder):
    folder = tmp_path / "wiki" / "deep"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("\n\nOslo is\na city\n\nBergen\n \nrains\n")
    (folder.parent / "b.txt").write_text("last")
    (folder / "ignored.md").write_text("no")

    def texts(source, kind="auto"):
        place = tmp_path / f"{source.name}-{kind}"
        return [text.text for text in build_corpus(source, place, kind).texts()]

    assert texts(folder.parent) == ["last", "Oslo is a city", "Bergen", "rains"]
    assert texts(folder / "a.txt", "lines") == ["Oslo is", "a city", "Bergen", "rains"]
    assert texts(posts_folder)[0] == "Anna visits Old Town"
    tokens = tmp_path / "tokens.jsonl"
    tokens.write_text('{"tokens": ["a", "b"], "image_id": "7.jpg"}\n\n{"text": "  c\\td "}\n{"text": " "}\n')
    assert texts(tokens) == ["a b", "c d"]
    corpus = build_corpus(tokens, tmp_path / "tokens.jsonl-auto")
    assert list(corpus.texts()) == [Text(None, "7.jpg", "a b"), Text(None, None, "c d")]
    assert corpus[1].text == "c d"


def test_what_is_missing_or_wrong_is_said(lines, tmp_path, monkeypatch):
    posts = posts_file(tmp_path / "posts.txt", "rain")
    out = tmp_path / "out.jsonl"
    for options, error, said in (
        ({"out": out}, DataNotFoundError, "Expected --corpus"),
        ({"corpus": lines}, DataNotFoundError, "Expected --out"),
        ({"corpus": tmp_path / "none", "out": out}, DataNotFoundError, "No corpus at"),
        ({"corpus": lines, "out": out, "by": "dense"}, ValueError, "--model with --by dense"),
        ({"corpus": lines, "out": out, "k": 0}, ValueError, "`k`"),
        ({"corpus": lines, "out": "-"}, ValueError, "Expected --index"),
        ({"corpus": lines, "out": lines}, MNERError, "is an input"),
    ):
        with pytest.raises(error, match=said):
            retrieve(posts, **{"corpus": None, **options})
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"text": ""}\n')
    with pytest.raises(DataNotFoundError, match="No text in"):
        build_corpus(empty, tmp_path / "of-empty")
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(DataFormatError, match=r"bad.jsonl:2: found the byte 0xff"):
        build_corpus(bad, tmp_path / "of-bad")
    build_corpus(lines, tmp_path / "index")
    with pytest.raises(DataFormatError, match="an index of another corpus"):
        build_corpus(bad, tmp_path / "index")
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(MissingDependencyError, match=r"pip install mner\[retrieval\]"):
        BM25(build_corpus(lines, tmp_path / "index"))
    with pytest.raises(ValueError, match="`k1` of at least 0"):
        BM25(build_corpus(lines, tmp_path / "index"), b=2)


def test_posts_of_two_splits_with_one_id_are_refused(lines, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    for split in ("train", "valid"):
        posts_file(root / f"{split}.txt", "rain")
    with pytest.raises(DataFormatError, match="'p0' in two splits"):
        retrieve(root, lines, tmp_path / "out.jsonl")


def test_vectors_are_means_over_pieces(bert_folder):
    texts = ["anna visits", "a", "rain falls on the harbour of oslo tonight", ""]
    tokenizer, model = AutoTokenizer.from_pretrained(bert_folder), AutoModel.from_pretrained(bert_folder).eval()
    expected = []
    for text in texts:
        with torch.no_grad():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        expected.append((mean / mean.norm()).numpy())
    found = MeanEncoder(bert_folder, batch_size=2)([Text(None, None, text) for text in texts])
    np.testing.assert_allclose(found, np.stack(expected), atol=2e-6)
    long = Text(None, None, "word " * 500)
    assert MeanEncoder(bert_folder)([long]).shape == (1, 32)


def test_nearest_by_vectors_go_on_where_they_stopped(lines, tmp_path, bert_folder, monkeypatch):
    monkeypatch.setattr("mner.preprocessing.vectors.CHUNK", 2)
    monkeypatch.setattr("mner.preprocessing.vectors.BLOCK", 4)
    monkeypatch.setattr("mner.preprocessing.vectors.PART", 4)
    corpus, encoder = build_corpus(lines, tmp_path / "index"), MeanEncoder(bert_folder)
    nearest = Nearest(corpus, encoder)
    vectors = encoder(list(corpus.texts()))
    queries = [Text(None, None, "rain in bergen"), Text(None, None, TEXTS[3])]
    cosines = encoder(queries) @ vectors.T
    for found, cosine in zip(nearest.search(queries, 3), cosines, strict=True):
        assert [n for n, _ in found] == np.argsort(-cosine)[:3].tolist()
        assert [score for _, score in found] == pytest.approx(np.sort(cosine)[::-1][:3], abs=1e-3)
    assert nearest.search(queries[1:], 1)[0][0][0] == 3
    (file,) = (tmp_path / "index").glob("*.f16")
    whole = file.read_bytes()
    assert len(whole) == 6 * 32 * 2
    encoded = []
    counting = MeanEncoder(bert_folder)

    def counted(self, texts):
        encoded.append(len(texts))
        return encoder_call(self, texts)

    monkeypatch.setattr(MeanEncoder, "__call__", counted)
    for rows, more in ((6, 0), (4, 0), (3, 17), (0, 1)):
        file.write_bytes(whole[: rows * 64 + more])
        encoded.clear()
        Nearest(corpus, counting)
        assert file.read_bytes() == whole
        assert sum(encoded) == 6 - rows
    approximate = Nearest(corpus, counting, approximate=True).search(queries, 3)
    assert [[n for n, _ in one] for one in approximate] == [[n for n, _ in one] for one in nearest.search(queries, 3)]
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(MissingDependencyError, match=r"pip install mner\[retrieval\]"):
        Nearest(corpus, counting, approximate=True)


encoder_call = MeanEncoder.__call__


def test_a_checkpoint_encodes_texts(posts_folder, bert_folder, tmp_path, lines):
    checkpoint = save_checkpoint(tmp_path / "best.ckpt", TextOnly, posts_folder, bert_folder)
    posts = posts_file(tmp_path / "posts.txt", "rain falls")
    out = tmp_path / "out.jsonl"
    retrieve(posts, lines, out, by="dense", model=str(checkpoint), k=2)
    assert read(out)[0]["model"] == "best"
    assert len(read(out)[0]["from"]) == 2
    same = MeanEncoder(bert_folder)([Text(None, None, TEXTS[0])])
    np.testing.assert_allclose(MeanEncoder(str(checkpoint))([Text(None, None, TEXTS[0])]), same, atol=1e-6)


def test_neighbours_of_the_image(tmp_path):
    store = tmp_path / "store"
    regions = {"a.jpg": [[1, 0], [1, 0]], "b.jpg": [[1, 0.1]], "c.jpg": [[0, 1]], "d.jpg": [[0.7, 0.7]]}
    with FeatureWriter(store, kind="grid", encoder="drawn", width=2, dtype="float32") as writer:
        for name, some in regions.items():
            writer.append([name], [np.asarray(some, np.float32)])
        writer.finish()
    posts = posts_file(
        tmp_path / "posts.txt", "the first", "a second one", "third is here", "fourth", "no image is stored",
        images=["a", "b", "c", "d", "gone"],
    )  # fmt: skip
    out = tmp_path / "out.jsonl"
    retrieve(posts, posts, out, by="image", features=store, k=2)
    found = {record["id"]: record for record in read(out)}
    assert found["a"]["text"] == "a second one | fourth"
    assert found["c"]["text"] == "fourth | a second one"
    assert found["gone"]["text"] == ""
    assert found["a"]["dropped"] == {"the post itself": 1}
    assert found["a"]["model"] == "images by drawn"


@pytest.mark.slow
def test_killed_at_any_moment_it_loses_nothing(tmp_path):
    rng = np.random.default_rng(0)
    words = np.asarray([f"w{n}" for n in range(500)])
    corpus, posts = tmp_path / "corpus.txt", tmp_path / "posts.txt"
    corpus.write_text("".join(" ".join(rng.choice(words, 8)) + "\n" for _ in range(3000)))
    posts_file(posts, *(" ".join(rng.choice(words, 8)) for _ in range(600)))

    def command(out):
        options = ["--corpus", corpus, "--corpus_kind", "lines", "--out", out, "--by", "dense", "--model", "tiny"]
        return [sys.executable, "-m", "mner", "retrieve", *map(str, (posts, *options, "--batch_size", 8))]

    out, kills = tmp_path / "killed.jsonl", 0
    while kills < 3:
        before = _size(out)
        process = subprocess.Popen(command(out), stderr=subprocess.DEVNULL, cwd=tmp_path)
        while process.poll() is None and _size(out) < before + 20_000 * (kills > 0) + 1:
            time.sleep(0.02)
        assert process.poll() is None, "it should have been killed in its midst"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    subprocess.run(command(out), check=True, capture_output=True, cwd=tmp_path)
    subprocess.run(command(tmp_path / "whole.jsonl"), check=True, capture_output=True, cwd=tmp_path)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def _size(out):
    """Bytes of all that is written, of the vectors too."""
    place = out.with_name(f"{out.name}.index")
    files = [out, *(place.glob("*.f16") if place.is_dir() else ())]
    return sum(file.stat().st_size for file in files if file.exists())
