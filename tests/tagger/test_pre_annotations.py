"""Predictions become tasks of annotation tools, and are read back as what was tagged."""

import json

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import DocBin

from mner.cli import main
from mner.data.formats.posts import FORMATS, read_posts
from mner.data.word_pieces import FORMAT_CHARACTERS
from mner.data.word_splitter import STYLES, split_words
from mner.errors import MNERError
from mner.fusion import TextOnly
from mner.labels import spans
from mner.tagger.pre_annotations import _tokens, format_of
from tests.tagging import save_checkpoint

POSTS = [
    {"id": "a", "text": "Anna 😀 visits  Old\nTown", "image": "a.jpg", "author": "Jo", "label": "mine"},
    {"id": "b/1", "tokens": ["RT", "@acme", "opens", "in", "Lagos"]},
    {"id": "c", "text": "nothing here"},
    {"id": "d", "text": " Bo\u200b! in Zürich", "meta": {"lang": "de"}},
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, posts_folder, bert_folder):
    return str(save_checkpoint(tmp_path_factory.mktemp("tag") / "text.ckpt", TextOnly, posts_folder, bert_folder))


@pytest.fixture(scope="module")
def posts(tmp_path_factory):
    path = tmp_path_factory.mktemp("given") / "posts.jsonl"
    path.write_text("".join(json.dumps(post) + "\n" for post in [*POSTS, {"id": "bad"}]), encoding="utf-8")
    return str(path)


def run(tmp_path, checkpoint, given, name, suffix):
    out = tmp_path / f"out{suffix}"
    options = ["--checkpoint", checkpoint, "--output", str(out), "--format", name, "--device", "cpu"]
    assert main(["tag", given, *options]) == 0
    records = [json.loads(line) for line in (tmp_path / f"out{suffix}.tagged.jsonl").open(encoding="utf-8")]
    assert [record["id"] for record in records if "error" in record] == ["bad"]
    return out, [record for record in records if "error" not in record]


def said(record):
    """What was tagged: entities by their characters."""
    return [(e["text"], e["type"]) for e in record["entities"]]


def marked(post):
    return [(" ".join(post.words[one.start : one.end]), one.type) for one in spans(post.tags or ())]


def seen(text):
    """Without white space and what nobody sees."""
    return "".join(FORMAT_CHARACTERS.sub("", text).split())


TEXTS = {
    "labelstudio": (".json", "label_studio", {"annotators": "predictions"}),
    "prodigy": (".jsonl", "prodigy", {}),
    "doccano": (".jsonl", "doccano", {}),
    "brat": ("", "brat", {}),
    "spacy": (".spacy", "spacy", {}),
}


@pytest.mark.parametrize("name", TEXTS)
def test_read_back_as_what_was_tagged(tmp_path, checkpoint, posts, name, capsys):
    suffix, format, options = TEXTS[name]
    out, records = run(tmp_path, checkpoint, posts, name, suffix)
    assert f"4 posts written to {out} as {format}" in capsys.readouterr().err
    assert sum(len(record["entities"]) for record in records) > 3
    words = None if name in ("spacy", "prodigy") else "twitter2017"
    back = {post.id: post for post in read_posts(out, words=words, **options)}
    assert read_posts(out, words=words, **options).format == format
    assert list(back) == [record["id"] for record in records]
    for record in records:
        post = back[record["id"]]
        assert [seen(text) for text, _ in marked(post)] == [seen(text) for text, _ in said(record)]
        assert [type_ for _, type_ in marked(post)] == [type_ for _, type_ in said(record)]
        if record["id"] != "b/1":  # words of its own, which a text does not show
            assert [seen(word) for word in post.words] == [seen(word) for word in record["words"]]
            assert post.tags == tuple(record["tags"])
    again = out.read_bytes() if out.is_file() else b""
    run(tmp_path, checkpoint, posts, name, suffix)  # replaces what it wrote itself
    assert again == (out.read_bytes() if out.is_file() else b"")


OTHERS = [name for name, one in FORMATS.items() if one.write is not None and name not in {t[1] for t in TEXTS.values()}]


@pytest.mark.parametrize("name", [name for name in OTHERS if name != "conll"])
def test_the_other_formats(tmp_path, checkpoint, posts, name):
    out, records = run(tmp_path, checkpoint, posts, name, FORMATS[name].suffix)
    back = read_posts(out, name)
    assert [tuple(record["words"]) for record in records] == [post.words for post in back]
    assert [tuple(record["tags"]) for record in records] == [post.tags for post in back]


def test_what_label_studio_is_given(tmp_path, checkpoint, posts):
    out, records = run(tmp_path, checkpoint, posts, "labelstudio", ".json")
    tasks = json.loads(out.read_text(encoding="utf-8"))
    for task, record in zip(tasks, records, strict=True):
        (prediction,) = task["predictions"]
        assert set(task) == {"data", "predictions"}
        assert prediction["model_version"].startswith("TextOnly ")
        assert [one["score"] for one in prediction["result"]] == [e["score"] for e in record["entities"]]
        assert prediction.get("score") == min((e["score"] for e in record["entities"]), default=None)
        utf16 = record["text"].encode("utf-16-le")
        for one in prediction["result"]:
            value = one["value"]
            assert utf16[2 * value["start"] : 2 * value["end"]].decode("utf-16-le") == value["text"]
            assert (one["from_name"], one["to_name"], one["type"]) == ("label", "text", "labels")
            assert len(value["labels"]) == 1
    assert tasks[0]["data"]["author"] == "Jo"
    assert tasks[0]["data"]["image"] == "a.jpg"
    plain = read_posts(out)  # nobody annotated them yet
    assert all(post.tags is None for post in plain)


def test_what_prodigy_and_doccano_are_given(tmp_path, checkpoint, posts):
    out, records = run(tmp_path, checkpoint, posts, "prodigy", ".jsonl")
    tasks = [json.loads(line) for line in out.open(encoding="utf-8")]
    for task, record in zip(tasks, records, strict=True):
        assert "answer" not in task
        assert task["meta"]["id"] == record["id"]
        for token in task["tokens"]:
            assert task["text"][token["start"] : token["end"]] == token["text"]
        for span, entity in zip(task["spans"], record["entities"], strict=True):
            assert span["score"] == entity["score"]
            assert task["tokens"][span["token_start"]]["start"] == span["start"] == entity["start"]
            assert task["tokens"][span["token_end"]]["end"] == span["end"] == entity["end"]
    assert tasks[3]["meta"] == {"lang": "de", "id": "d"}
    assert tasks[0]["author"] == "Jo"
    out, records = run(tmp_path / "doccano", checkpoint, posts, "doccano", ".jsonl")
    first = json.loads(out.read_text(encoding="utf-8").splitlines()[0])
    assert first["label"] == [[e["start"], e["end"], e["type"]] for e in records[0]["entities"]]
    assert first["given"] == {"label": "mine"}


def test_what_spacy_and_brat_are_given(tmp_path, checkpoint, posts):
    out, records = run(tmp_path, checkpoint, posts, "spacy", ".spacy")
    docs = list(DocBin().from_disk(out).get_docs(spacy.blank("xx").vocab))
    for doc, record in zip(docs, records, strict=True):
        assert doc.text == record["text"]
        assert [(seen(e.text), e.label_) for e in doc.ents] == [(seen(text), type_) for text, type_ in said(record)]
        assert list(doc.user_data["scores"]) == [e["score"] for e in record["entities"]]
    out, records = run(tmp_path / "brat", checkpoint, posts, "brat", "")
    assert (out / "b" / "1.txt").read_text(encoding="utf-8") == records[1]["text"]
    notes = [line for line in (out / "a.ann").read_text(encoding="utf-8").splitlines() if line[0] == "#"]
    assert [line.rpartition(" ")[2] for line in notes] == [str(e["score"]) for e in records[0]["entities"]]


@given(text=st.text(alphabet="ab \n\t\u00a0\u200b\u00ad!😀é", max_size=12), style=st.sampled_from(STYLES))
def test_tokens_of_spacy_are_the_text(text, style):
    words = split_words(text, style)
    tokens, spaces, where = _tokens({"text": text, "words": [word.text for word in words]})
    assert "".join(token + " " * space for token, space in zip(tokens, spaces, strict=True)) == text
    assert all(tokens)
    assert [seen(tokens[place]) for place in where] == [seen(word.text) for word in words]
    assert spacy.tokens.Doc(spacy.vocab.Vocab(), words=tokens, spaces=spaces).text == text


def test_refusals(tmp_path, checkpoint, posts):
    with pytest.raises(MNERError, match=r"no format 'word' to write; there are jsonl, labelstudio, "):
        format_of("word", "-")
    assert format_of("auto", "a.spacy") == "spacy"
    assert format_of("labelstudio", "-") == "label_studio"
    assert main(["tag", posts, "--checkpoint", checkpoint, "--format", "brat"]) == 2  # nowhere to write a folder
    mine = tmp_path / "mine.json"
    mine.write_text("[]", encoding="utf-8")
    options = ["--checkpoint", checkpoint, "--output", str(mine), "--format", "labelstudio", "--device", "cpu"]
    assert main(["tag", posts, *options]) == 2
    assert mine.read_text(encoding="utf-8") == "[]"


def test_several_files_in_one_conll(tmp_path, checkpoint, posts):
    out = tmp_path / "out.conll"
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "a", "text": "Anna"}\n', encoding="utf-8")
    assert main(["tag", posts, str(other), "--checkpoint", checkpoint, "--output", str(out), "--device", "cpu"]) == 0
    assert [post.id for post in read_posts(out)][-1] == f"{other}/a"
