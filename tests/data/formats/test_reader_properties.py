"""Readers on anything: what was written comes back; all else is refused with its place; nothing is lost in silence."""

import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mner.data.examples import Example
from mner.data.formats.conll import read_conll
from mner.data.formats.context import read_context
from mner.data.formats.feature_store import FeatureStore
from mner.data.formats.feature_writer import FeatureWriter
from mner.data.formats.json_lines import read_jsonl
from mner.data.formats.predictions import Prediction, ScoredSpan, prediction_header, read_predictions, write_predictions
from mner.errors import DataFormatError
from mner.labels import spans

small = settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

# Text in which each format's own signs are as frequent as letters.
SIGNS = ["\n", "\n\n", "\r\n", "\t", " ", "IMGID:", "IMGID:1\n", "\tO\n", "a\tB-PER\n", " O O\n", "I-LOC", " :"]
SIGNS += ["{", "}", "[", "]", '"', ":", ",", '{"id": "1", ', '"tokens": ["a"]}', '"caption": "c"}\n', ".jpg :", "null"]
SIGNS += [
    '{"mner_predictions": 1}\n',
    '"words": ["a"], "pred": ["O"]}\n',
    "\\ud83d",
    "\ufeff",
    "\x85",
    "\u2028",
    "\x00",
]
signs = st.sampled_from(SIGNS)
any_text = st.lists(signs | st.text(max_size=3), max_size=12).map("".join)
any_bytes = st.binary(max_size=40) | any_text.map(lambda text: text.encode("utf-8", "surrogatepass"))
any_bytes |= st.tuples(any_text.map(lambda text: text.encode(errors="replace")), st.binary(max_size=3)).map(b"".join)


def lines_of(raw: bytes) -> list[str]:
    """The lines that a reader has to account for."""
    return [line for line in (line.removesuffix("\r") for line in raw.decode("utf-8-sig").split("\n")) if line]


def is_id(line: str) -> bool:
    return line.startswith("IMGID:") and "\t" not in line


def read(reader, path: Path, raw: bytes):
    """What the reader gives, or None where it refuses the file and says where."""
    path.write_bytes(raw)
    try:
        return reader(path)
    except DataFormatError as error:
        refused = error
    if refused.path != f"{path}, as a whole":  # a file without any post
        assert refused.path == str(path)
        assert refused.line is not None
        assert 1 <= refused.line <= raw.count(b"\n") + 1
    assert refused.found
    assert refused.expected
    return None


@small
@given(raw=any_bytes)
def test_conll_accounts_for_every_line(tmp_path, raw):
    posts = read(read_conll, tmp_path / "a.txt", raw)
    if posts is not None:
        lines = [line for line in lines_of(raw) if line.strip(" \t") and not line.startswith(("# ", "-DOCSTART-"))]
        if ids := sum(map(is_id, lines)):
            assert len(posts) == ids
        rows = [line for line in lines if not is_id(line)]
        words = [word for post in posts for word in post.words]
        assert len(words) == len(rows)
        assert all(word in row for word, row in zip(words, rows, strict=True)), "its column is another test's matter"


@small
@given(raw=any_bytes)
def test_jsonl_accounts_for_every_line(tmp_path, raw):
    posts = read(read_jsonl, tmp_path / "a.jsonl", raw)
    if posts is not None:
        assert [list(post.words) for post in posts] == [json.loads(line)["tokens"] for line in lines_of(raw)]


@small
@given(raw=any_bytes)
def test_predictions_account_for_every_line(tmp_path, raw):
    found = read(read_predictions, tmp_path / "a.txt", raw)
    if found is not None:
        lines = lines_of(raw)
        if "mner_predictions" in found.header:
            assert len(found.posts) == len(lines) - 1
        else:
            ids = sum(map(is_id, lines)) if found.posts[0].image_id else 0
            assert sum(len(post.words) for post in found.posts) == len(lines) - ids


@small
@given(raw=any_bytes)
def test_context_accounts_for_every_line(tmp_path, raw):
    found = read(read_context, tmp_path / "a.txt", raw)
    if found is not None:
        texts = {*found.by_post.values(), *found.by_image.values()}
        lines = lines_of(raw)
        for line in lines:
            record = (
                json.loads(line) if lines[0].startswith("{") else {"text": re.split("[ \t]+:", line, maxsplit=1)[1]}
            )
            assert any((record.get("caption") or record.get("text") or "").strip() in text for text in texts)


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
tag = st.sampled_from(["O", "B-PER", "I-PER", "B-geo-loc", "I-geo-loc"])
TYPES = ["O", "B-PER", "I-PER", "B-geo-loc", "I-geo-loc"]


@st.composite
def predictions(draw: st.DrawFn) -> list[Prediction]:
    found = []
    for id_ in draw(st.lists(text, min_size=1, max_size=4, unique=True)):
        rows = draw(st.lists(st.tuples(text, tag, tag), min_size=1, max_size=5))
        words, gold, pred = zip(*rows, strict=True)
        score = draw(st.none() | st.floats(0, 1))
        entities = tuple(ScoredSpan(*span, score) for span in spans(pred))
        has_image, image_id = draw(st.none() | st.booleans()), draw(st.none() | text)
        found.append(Prediction(id_, image_id, words, draw(st.sampled_from([gold, None])), pred, entities, has_image))
    return found


@small
@given(posts=predictions())
def test_predictions_come_back(tmp_path, posts):
    header = prediction_header(model="m", split="test", data="d", fingerprint=None, labels=TYPES)
    write_predictions(tmp_path / "a.jsonl", header, posts)
    found = read_predictions(tmp_path / "a.jsonl")
    assert found.posts == posts
    assert found.header == header


name = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters=" .{"), min_size=1, max_size=5)
one_line = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"), max_size=8)


@small
@given(texts=st.dictionaries(name, one_line, min_size=1, max_size=4), form=st.sampled_from(["post", "image", "plain"]))
def test_texts_come_back(tmp_path, texts, form):
    if form == "plain":
        written = [f"{key}.jpg :{value}" for key, value in texts.items()]
    else:
        key_name = {"post": "id", "image": "image_id"}[form]
        written = [json.dumps({key_name: key, "caption": value}, ensure_ascii=False) for key, value in texts.items()]
    (tmp_path / "a.txt").write_bytes("\n".join(written).encode())
    found = read_context(tmp_path / "a.txt")
    assert dict(found) == {key: value.strip() for key, value in texts.items()}
    for key, value in texts.items():
        post = Example(key, None, ("a",)) if form == "post" else Example("?" + key, f"{key}.png", ("a",))
        assert found.find(post) == value.strip()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"id": "1", "id": "2", "tokens": ["a"]}', "the key 'id' twice"),
        ('{"id": "1", "tokens": ["a"], "label": ["O"], "label": null}', "the key 'label' twice"),
        ('{"id": "1", "tokens": ["a"], "more": {"b": 1, "c": 2, "b": 3}}', "the key 'b' twice"),
        ('{"id": ' + "9" * 5000 + ', "tokens": ["a"]}', "digits"),
        ('{"id": "1", "tokens": ["a"], "more": ' + "[" * 100_000 + "]" * 100_000 + "}", "recursion"),
        ('\ufeff{"id": "1", "tokens": ["a"]}', "Expecting value"),
    ],
)
def test_json_that_would_lose_something_or_break(tmp_path, line, found):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "0", "tokens": ["a"]}\n' + line, encoding="utf-8")
    with pytest.raises(DataFormatError, match=found) as caught:
        read_jsonl(path)
    assert caught.value.line == 2


def test_brackets_at_the_limit_of_python(tmp_path):
    """What could just be read is also checked and shown, each of which goes a little deeper."""
    path = tmp_path / "a.jsonl"

    def post(depth):
        path.write_text('{"id": "1", "tokens": ["\\u0041"], "more": ' + "[" * depth + "]" * depth + "}")
        return read(read_jsonl, path, path.read_bytes())

    def prediction(depth):
        entity = "[" * depth + "]" * depth
        path.write_text(
            '{"mner_predictions": 1}\n{"id": "1", "words": ["a"], "pred": ["O"], "entities": [' + entity + "]}"
        )
        return read(read_predictions, path, path.read_bytes())

    good, bad = 1, 2 * sys.getrecursionlimit()
    assert post(good) is not None
    while bad - good > 1:
        depth = (good + bad) // 2
        good, bad = (depth, bad) if post(depth) is not None else (good, depth)
    for depth in range(good - 5, good + 6):
        post(depth)
        assert prediction(depth) is None


def test_byte_order_mark_of_a_file_that_was_joined(tmp_path):
    (tmp_path / "a.txt").write_bytes("a.jpg :one\n\ufeffb.jpg :two\n".encode())
    assert dict(read_context(tmp_path / "a.txt")) == {"a": "one", "b": "two"}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("meta.json", "[" * 9000),
        ("meta.json", None),
        ("index.tsv", f"{'9' * 5000}\ta\n"),
        ("index.tsv", f"{2**70}\ta\n"),
        ("broken.json", "{"),
        ("broken.json", "[]"),
        ("broken.json", '{"a": 3}'),
        ("broken.json", "[" * 9000),
    ],
)
def test_damaged_stores(tmp_path, file, content):
    import numpy as np

    with FeatureWriter(tmp_path / "store", kind="grid", encoder="test", width=4) as writer:
        writer.append(["a"], [np.zeros((2, 4), np.float32)])
        writer.finish()
    assert FeatureStore(tmp_path / "store").broken == {}
    path = tmp_path / "store" / file
    if content is None:
        content = path.read_text().replace('"width": 4', '"width": 0')
        (tmp_path / "store" / "features.bin").write_bytes(b"")
    path.write_text(content)
    with pytest.raises(DataFormatError, match=file.replace(".", r"\.")):
        _ = FeatureStore(tmp_path / "store").broken
