"""`mner data convert`, and the dealing out of posts to splits."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from PIL import Image

from mner.cli import main
from mner.data.examples import Example
from mner.data.formats.posts import read_posts, write_posts
from mner.data.splitting import by_group

POSTS = [Example(f"p{n}", f"i{n}", ("Ana", f"in{n * 71}", "Oslo"), ("B-PER", "O", "B-LOC")) for n in range(10)]


@pytest.fixture
def source(tmp_path):
    write_posts(tmp_path / "in.jsonl", POSTS, "json_lines")
    return tmp_path / "in.jsonl"


@pytest.mark.parametrize("out", ["a.json", "a.csv", "a.conllu", "a.jsonl"])
def test_a_file_by_its_suffix(tmp_path, source, out, capsys):
    assert main(["data", "convert", str(source), str(tmp_path / out)]) == 0
    assert read_posts(tmp_path / out) == POSTS
    assert "posts: 10 posts, 20 entities" in capsys.readouterr().out


@pytest.mark.parametrize("format", ["lighttag", "csv_spans", "prodigy"])
def test_a_format_by_its_name(tmp_path, source, format):
    assert main(["data", "convert", str(source), str(tmp_path / "a.x"), "--format", format]) == 0
    assert read_posts(tmp_path / "a.x", format) == POSTS


def test_splits_by_share(tmp_path, source, capsys):
    command = ["data", "convert", str(source), str(tmp_path / "out"), "--split", "6/2/2", "--format", "doccano"]
    for more in ([], ["--by", "share"]):
        assert main([*command, *more]) == 0
        parts = [read_posts(tmp_path / "out" / f"{split}.jsonl") for split in ("train", "valid", "test")]
        assert [len(part) for part in parts] == [6, 2, 2]
        assert sorted(post.id for part in parts for post in part) == [post.id for post in POSTS]
    assert main(["data", "convert", str(tmp_path / "out"), str(tmp_path / "iob"), "--format", "conll", "--scheme",
    "IOB1"])\
        == 2  # its ids are not those of its images  # fmt: skip
    assert main(["data", "convert", str(tmp_path / "out"), str(tmp_path / "b"), "--format", "brat"]) == 0
    assert len(read_posts(tmp_path / "b" / "train")) == 6
    assert "brat has no place for images: the names of 10 posts' images are not written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["in.jsonl", "in.jsonl"], "is an input"),
        (["in.jsonl", "there.jsonl"], "something there already"),
        (["in.jsonl", "a.xyz"], "--format is needed"),
        (["in.jsonl", "a", "--format", "bratt"], "there is no format 'bratt'"),
        (["in.jsonl", "a", "--split", "80/20"], "such as 80/10/10, but got '80/20'"),
        (["in.jsonl", "a.txt", "--split", "8/1/1"], "3 splits need a folder"),
        (["in.jsonl", "a.json", "--images", "x"], "are for --format huggingface"),
        (["gone.jsonl", "a.json"], "No file gone.jsonl"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, source, arguments, said, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.jsonl").write_text("mine")
    assert main(["data", "convert", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert (tmp_path / "there.jsonl").read_text() == "mine"


def test_from_a_pipe_into_a_pipe(tmp_path, source, monkeypatch):
    """`-` is the standard input, and another one the standard output, which gets the posts alone."""
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "mner", "data", "convert", "-", "-", "--format"]
    for format, suffix in (("csv_spans", ".csv"), ("parquet", ".parquet")):
        done = subprocess.run([*command, format], input=source.read_bytes(), capture_output=True, check=True)
        (tmp_path / f"a{suffix}").write_bytes(done.stdout)
        assert read_posts(f"a{suffix}") == POSTS
        assert b"posts: 10 posts, 20 entities" in done.stderr
    done = subprocess.run([*command, "brat"], input=source.read_bytes(), capture_output=True)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"Several files cannot go to the standard output (-); name a folder" in done.stderr
    assert not (tmp_path / "-").exists()


def test_to_hugging_face(tmp_path, source):
    datasets = pytest.importorskip("datasets")
    assert main(["data", "convert", str(source), str(tmp_path / "hf"), "--format", "huggingface"]) == 0
    found = datasets.load_from_disk(str(tmp_path / "hf"))
    assert list(found) == ["train"]
    assert read_posts(tmp_path / "hf" / "train") == POSTS


@pytest.mark.parametrize("by", ["group", "share"])
def test_posts_without_gold_are_in_no_split(tmp_path, by, capsys):
    """Or the splits that `convert` writes would not be fit for training, as `verify` says."""
    posts = [replace(post, tags=None if n in (2, 7) else post.tags) for n, post in enumerate(POSTS)]
    write_posts(tmp_path / "in.jsonl", posts, "json_lines")
    out = tmp_path / "out"
    assert main(["data", "convert", str(tmp_path / "in.jsonl"), str(out), "--split", "6/1/1", "--by", by]) == 0
    assert read_posts(out / "unlabelled.jsonl") == [posts[2], posts[7]]
    splits = [post for split in ("train", "valid", "test") for post in read_posts(out / f"{split}.jsonl")]
    assert sorted(post.id for post in splits) == sorted({post.id for post in posts} - {"p2", "p7"})
    assert main(["data", "verify", str(out)]) == 0, capsys.readouterr().out


def test_what_lies_beside_one_file_is_checked(tmp_path, source, capsys):
    """The images and texts that training would take."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "i3.png")
    (tmp_path / "captions").mkdir()
    (tmp_path / "captions" / "blip.jsonl").write_text('{"image_id": "i3", "caption": "a dog"}\n')
    assert main(["data", "verify", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "images: 1 good, 9 missing, 0 broken" in said
    assert "blip: a text for 1 of 10 posts" in said


def test_stats_and_verify_of_one_file(source, capsys):
    assert main(["data", "stats", str(source)]) == 0
    assert "posts" in capsys.readouterr().out
    assert main(["data", "verify", str(source), "--format", "json_lines", "--reading.overlaps", "outer"]) == 0
    assert "fit for training" in capsys.readouterr().out


def test_no_image_and_no_near_duplicate_in_two_splits():
    text = "the quick brown fox jumps over the lazy dog near the river"
    near = [text, f"RT @me: {text.upper()} http://x.y/z", f"{text}!!", "quite another text about something else"]
    posts = [Example(f"d{n}", None, tuple(one.split())) for n, one in enumerate(near)]
    posts += [Example(f"i{n}", f"image{n // 3}", (f"word{n * 991}",)) for n in range(60)]
    for seed in range(3):
        parts = by_group(posts, {"train": 0.6, "valid": 0.2, "test": 0.2}, seed)
        assert sorted(post.id for part in parts.values() for post in part) == sorted(post.id for post in posts)
        where = {post.id: name for name, part in parts.items() for post in part}
        assert len({where[f"d{n}"] for n in range(3)}) == 1
        assert all(len({where[f"i{3 * k + n}"] for n in range(3)}) == 1 for k in range(20))
        assert 34 <= len(parts["train"]) <= 43
    with pytest.raises(ValueError, match="shares over 0"):
        by_group(posts, {"train": 0})
