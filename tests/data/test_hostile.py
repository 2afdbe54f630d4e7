"""What strangers give: checkpoints, posts, pictures and places that are meant to do harm, or to break the run."""

import io
import json
import os
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mner.cli import main
from mner.cli.tagging import tag
from mner.data.formats.images import load_image
from mner.data.tokenizer import PostTokenizer
from mner.data.transforms import ImageTransform
from mner.errors import MNERError
from mner.fusion import TextOnly
from mner.tagger.bulk import Sink, run
from mner.tagger.bulk_input import MAX_BYTES, Images, from_folder, from_lines
from mner.tagger.tagger import Tagger
from tests.data.formats.test_reader_properties import any_bytes
from tests.tagging import save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, posts_folder, bert_folder):
    return str(save_checkpoint(tmp_path_factory.mktemp("hostile") / "text.ckpt", TextOnly, posts_folder, bert_folder))


def lines(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


# Posts


@settings(max_examples=80, deadline=None)
@given(raw=any_bytes, first=st.integers(1, 5))
def test_each_line_is_a_post_or_an_error(raw, first):
    found = list(from_lines(io.BytesIO(raw), "posts", Images(None), (), first))
    places = [number for number, line in enumerate(raw.split(b"\n"), start=first) if line.strip()]
    assert [one.number for one in found] == places
    for one in found:
        assert (one.post is None) == bool(one.error)
        json.dumps([one.id, one.key, one.error], ensure_ascii=False).encode()  # what is written of it can be


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), min_size=1, max_size=5),
    escaped=st.booleans(),
    end=st.sampled_from(["\n", "\r\n", "\n\n", "\n \n"]),
)
def test_posts_come_back(texts, escaped, end):
    records = [{"id": f"p{number}", "text": text} for number, text in enumerate(texts)]
    raw = end.join(json.dumps(record, ensure_ascii=escaped) for record in records).encode()
    found = list(from_lines(io.BytesIO(raw), "posts", Images(None)))
    assert [(one.id, one.post.text) for one in found] == [(record["id"], record["text"]) for record in records]


@pytest.mark.parametrize(("size", "good"), [(MAX_BYTES, True), (MAX_BYTES + 2, False), (3 * MAX_BYTES, False)])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_lines_at_the_limit(size, good, end):
    frame = len(b'{"text": ""}')
    raw = b'{"text": "' + b"a" * (size - frame) + b'"}' + end + b'{"text": "next"}\n' * bool(end)
    found = list(from_lines(io.BytesIO(raw), "posts", Images(None)))
    assert [one.post is not None for one in found] == [good, True][: len(found)]
    assert len(found) == 1 + bool(end)


def test_any_file_of_a_folder_is_one_post_or_error(tmp_path):
    for number, raw in enumerate(
        (b"", b"\x00", b"\xff", b"\xef\xbb\xbfA", b"a" * (MAX_BYTES + 1), b"a\xe2\x80\xa8b\r\n")
    ):
        (tmp_path / f"{number}.txt").write_bytes(raw)
    (tmp_path / "link.txt").symlink_to(tmp_path / "gone")
    (tmp_path / os.fsdecode(b"\xff.txt")).write_text("a")
    found = list(from_folder(tmp_path, Images(tmp_path)))
    texts = [one.post.text if one.post else one.error.rpartition("found ")[2][:9] for one in found[:6]]
    assert texts == ["", "\x00", "the byte ", "A", "more than", "a\u2028b\r\n"]
    assert [(one.id, one.post) for one in found[6:]] == [("?", None)]


def test_a_pipe_in_place_of_a_file(tmp_path, checkpoint):
    """`mner tag <(zcat posts.gz)`: a pipe can be read once."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b'{"text": "Anna"}\n{"text": "Bo"}\n',), daemon=True)
    writer.start()
    out = tmp_path / "out.jsonl"
    assert tag(str(pipe), checkpoint, str(out), device="cpu") == 0
    writer.join(5)
    assert [record["text"] for record in lines(out)] == ["Anna", "Bo"]


def test_an_output_that_would_be_a_post(tmp_path, checkpoint):
    (tmp_path / "a.txt").write_text("Anna")
    with pytest.raises(MNERError, match="would be a post"):
        tag(str(tmp_path), checkpoint, str(tmp_path / "out.txt"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt"]


def test_ids_made_to_look_like_other_keys(tmp_path, checkpoint):
    """A post may be called what the second post of another id is known by; stopped and gone on with, none is lost."""
    tagger = Tagger.from_checkpoint(checkpoint, device="cpu", batch_size=1)
    ids = ["a", "a", "a again 2", "again 2: id a", "id a", "again 2: id a", "line 7", "null"]
    raw = b"".join(json.dumps({"id": id_, "text": "x"}).encode() + b"\n" for id_ in ids)

    def go(path, until=None):
        with Sink(str(path), "jsonl") as sink:
            given = list(from_lines(io.BytesIO(raw), "posts", Images(None)))
            run(tagger, given[:until], sink)

    go(tmp_path / "whole.jsonl")
    whole = lines(tmp_path / "whole.jsonl")
    assert [record["id"] for record in whole] == ids
    assert [number for number, record in enumerate(whole) if "error" in record] == [1, 5]
    for until in range(len(ids)):
        path = tmp_path / f"{until}.jsonl"
        go(path, until)
        go(path)
        assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


# Checkpoints


TRAP = """
import os
os.mkdir({target!r})
class Trap:
    pass
"""


def test_a_tokeniser_that_is_a_program_is_not_run(tmp_path, bert_folder, monkeypatch, capsys, checkpoint):
    """transformers would ask on the standard input whether to run it; there the posts are, and one may say yes."""
    trap = tmp_path / "harm"
    files = PostTokenizer(bert_folder).files()
    config = json.loads(files["tokenizer_config.json"])
    config["auto_map"] = {"AutoTokenizer": ["trap.Trap", "trap.Trap"]}
    config["tokenizer_class"] = "Trap"
    files |= {"tokenizer_config.json": json.dumps(config), "trap.py": TRAP.format(target=str(trap))}
    content = torch.load(checkpoint, weights_only=True)
    content["mner"]["data"]["tokenizer"] = files
    path = tmp_path / "evil.ckpt"
    torch.save(content, path)
    monkeypatch.setattr("builtins.input", lambda *args: "y")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b'{"text": "Anna"}\n')))
    code = main(["tag", "-", "--checkpoint", str(path), "--device", "cpu", "--output", str(tmp_path / "out.jsonl")])
    assert not trap.exists()
    assert code == 2
    assert "is a program of its own" in capsys.readouterr().err


# Pictures


def test_no_other_program_is_run_for_a_picture(tmp_path, monkeypatch):
    """Pillow hands EPS to Ghostscript, whose holes are many."""
    from PIL import EpsImagePlugin

    def run_it(*args, **kwargs):
        raise AssertionError("Ghostscript was called")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run_it)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    with pytest.raises(AssertionError):
        Image.open(io.BytesIO(eps)).load()
    path = tmp_path / "a.jpg"
    path.write_bytes(eps)
    assert load_image(path) == (None, "not an image")
    for form in ("PNG", "GIF", "BMP", "WEBP", "TIFF", "JPEG", "JPEG2000", "PPM"):
        Image.new("RGB", (20, 20), (250, 10, 10)).save(path, form)
        assert load_image(path)[1] == "", form


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_huge_pictures_are_not_kept_whole(tmp_path, monkeypatch, form):
    """A picture just below the limit of a bomb takes 270 MB; a batch of them would take 9 GB."""
    path = tmp_path / "a"
    Image.radial_gradient("L").resize((900, 700)).convert("RGB").save(path, form)
    whole, _ = load_image(path, 64)
    assert whole.size == (900, 700)
    monkeypatch.setattr("mner.data.formats.images.MANY_PIXELS", 500_000)
    small, problem = load_image(path, 64)
    assert problem == ""
    assert small.size == (90, 70)
    assert load_image(path)[0].size == (900, 700)
    pixels = [ImageTransform(size=56)(image) for image in (whole, small)]
    assert (pixels[0] - pixels[1]).abs().mean() < 0.1 * pixels[0].std()
