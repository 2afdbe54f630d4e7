"""`mner tag`: every post once, bad ones with their reason, whatever happens in between."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from mner.cli import main
from mner.cli.tagging import tag
from mner.data import read_conll
from mner.errors import DataFormatError, DataNotFoundError, MNERError
from mner.fusion import TextOnly
from mner.tagger.bulk import Sink, run
from mner.tagger.bulk_input import MAX_BYTES, Images, from_lines
from mner.tagger.tagger import Tagger
from tests.tagging import save_checkpoint


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path, *records):
    path.write_text("".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records))
    return str(path)


def test_json_lines(tmp_path, checkpoint):
    given = write(
        tmp_path / "posts.jsonl",
        {"id": "a", "text": "Anna visits @Old_Town"},
        {"tokens": ["Dr", ".", "Seuss"], "label": ["O", "O", "O"]},
        {"id": 7, "text": ""},
    )
    out = tmp_path / "new" / "out.jsonl"
    assert main(["tag", given, "--checkpoint", checkpoint, "--output", str(out), "--device", "cpu"]) == 0
    tagger = Tagger.from_checkpoint(checkpoint, device="cpu")
    first, second, third = lines(out)
    assert first["id"] == "a"
    assert first["words"] == ["Anna", "visits", "@", "Old_Town"]
    assert first["has_image"] is False
    expected = tagger("Anna visits @Old_Town")
    assert first["tags"] == list(expected.tags)
    assert [entity["text"] for entity in first["entities"]] == [entity.text for entity in expected]
    for record in (first, second):
        for entity in record["entities"]:
            assert record["text"][entity["start"] : entity["end"]] == entity["text"]
            assert record["words"][entity["word_start"] : entity["word_end"]]
    assert (second["id"], second["number"], second["words"]) == (None, 2, ["Dr", ".", "Seuss"])
    assert (third["id"], third["words"], third["entities"]) == ("7", [], [])


BAD = [
    ("{", "JSON object"),
    ("[1]", "a list"),
    ("", None),
    ("   ", None),
    ('{"id": "x"}', "neither 'text' nor 'tokens'"),
    ('{"id": "x", "text": "a", "tokens": ["a"]}', "'text' and 'tokens'"),
    ('{"id": "x", "text": 3}', "a number as 'text'"),
    ('{"id": "x", "tokens": ["a", 3]}', "a number among 'tokens'"),
    ('{"id": "x", "tokens": ["a", ""]}', "one is empty"),
    ('{"id": [], "text": "a"}', "'id'"),
    ('{"id": "", "text": "a"}', "empty 'id'"),
    ('{"id": "x", "text": "a", "image": 3}', "'image'"),
    ('{"id": "x", "text": "a", "context": 3}', "'context'"),
    ('{"id": "x", "text": "a", "context": [3]}', "among 'context'"),
    ('{"id": "x", "text": "a", "context": {"a": 3}}', "as 'a'"),
    ('{"id": "x", "text": "\\ud83d"}', "surrogate"),
    ('{"id": ' + "9" * 5000 + ', "text": "a"}', "digits"),
    ("[" * 100_000, "JSON object"),
    ('{"id": "x", "text": "' + "a" * MAX_BYTES + '"}', "more than"),
    ('{"id": "good 0", "text": "again"}', "id 'good 0' again"),
]


def test_bad_lines_stop_nothing(tmp_path, checkpoint, capsys):
    path = tmp_path / "posts.jsonl"
    with path.open("wb") as file:
        file.write(b"\xef\xbb\xbf")  # a byte order mark
        for number, (bad, _) in enumerate(BAD):
            file.write(json.dumps({"id": f"good {number}", "text": f"Anna {number}"}).encode() + b"\r\n")
            file.write(bad.encode() + b"\n")
        file.write(b'{"id": "y", "text": "\xff"}\n\x00\x01\x02\xfe\n{"id": "last", "text": "Anna"}')  # no line end
    out = tmp_path / "out.jsonl"
    options = {"checkpoint": checkpoint, "output": str(out), "device": "cpu", "batch_size": 4}
    assert tag(str(path), **options) == 0
    found = lines(out)
    good = [record["id"] for record in found if "error" not in record]
    assert good == [*(f"good {number}" for number in range(len(BAD))), "last"]
    errors = [record["error"] for record in found if "error" in record]
    reasons = [reason for _, reason in BAD if reason] + ["0xff", "0xfe"]
    assert len(errors) == len(reasons)
    for error, reason in zip(errors, reasons, strict=True):
        assert reason in error
    assert f"{len(errors)} posts could not be tagged" in capsys.readouterr().err
    # Run again: nothing is added.
    before = out.read_bytes()
    assert tag(str(path), **options) == 0
    assert out.read_bytes() == before
    # A line that is mended is tagged then.
    path.write_bytes(path.read_bytes().replace(b'"text": 3', b'"text": "mended"'))
    assert tag(str(path), **options) == 0
    assert [record["text"] for record in lines(out)[len(found) :]] == ["mended"]


def test_a_post_that_cannot_be_tagged(tmp_path, checkpoint, monkeypatch, caplog):
    tagger = Tagger.from_checkpoint(checkpoint, device="cpu", batch_size=3)
    stream = tagger.stream

    def brittle(posts, **options):
        posts = list(posts)
        if any("poison" in post.text for post in posts):
            raise RuntimeError("no \ud800 luck")
        return stream(posts, **options)

    monkeypatch.setattr(tagger, "stream", brittle)
    given = write(tmp_path / "posts.jsonl", *({"text": text} for text in ("a", "poison", "b", "c", "more poison")))
    monkeypatch.setattr(Tagger, "load", lambda *args, **kwargs: tagger)
    out = tmp_path / "out.jsonl"
    tag(given, checkpoint, str(out))
    assert [record.get("text", record.get("error")) for record in lines(out)] == [
        "a",
        "it could not be tagged: RuntimeError: no ? luck",
        "b",
        "c",
        "it could not be tagged: RuntimeError: no ? luck",
    ]
    assert caplog.text.count("Traceback") == 1  # it may be a fault of mner, and is told once
    assert "in brittle" in caplog.text


def test_images_stay_in_their_folder(tmp_path, image_checkpoint, capsys):
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    picture = Image.new("RGB", (70, 70), (200, 10, 10))
    for path in (images / "a.png", images / "sub" / "b.jpg", tmp_path / "secret.png"):
        picture.save(path)
    (images / "broken.jpg").write_bytes(b"no image")
    (images / "link.png").symlink_to(tmp_path / "secret.png")
    (images / "loop.png").symlink_to(images / "loop.png")
    os.mkfifo(images / "pipe.png")
    names = {
        "a.png": "",
        "a": "",
        "a.jpg": "",
        "sub/b.jpg": "",
        str(images / "a.png"): "",
        "../secret.png": "outside",
        "sub/../../secret.png": "outside",
        str(tmp_path / "secret.png"): "outside",
        "link.png": "outside",
        "link": "outside",
        "/etc/passwd": "outside",
        "no.png": "missing",
        "loop.png": "no name" if sys.version_info < (3, 13) else "missing",  # which resolves it
        "pipe.png": "not a file",
        "broken.jpg": "not an image",
        "a\0.png": "no name",
        "a" * 5000: "missing",
        "https://example.org/a.png": "a URL",
    }
    given = write(tmp_path / "posts.jsonl", *({"text": "Anna", "image": name} for name in names), {"text": "Anna"})
    out = tmp_path / "out.jsonl"
    assert tag(given, image_checkpoint, str(out), images=images, device="cpu") == 0
    found = lines(out)
    assert [record["text"] for record in found] == ["Anna"] * (len(names) + 1)
    for (name, problem), record in zip(names.items(), found, strict=False):
        assert record["has_image"] == (not problem), name
        assert record.get("image_problem", "").startswith(problem), name
    assert "image_problem" not in found[-1]
    said = capsys.readouterr().err
    assert f"{sum(map(bool, names.values()))} images were not used (outside of the folder of images: 6, " in said
    assert ": 0" not in said.partition("images were not used")[2]
    # Without a folder no image is opened.
    out = tmp_path / "out2.jsonl"
    tag(given, image_checkpoint, str(out), device="cpu")
    problems = {record.get("image_problem", "")[:16] for record in lines(out)}
    assert problems == {"no folder of ima", ""}


def test_folder_of_texts_with_images(tmp_path, image_checkpoint):
    folder = tmp_path / "posts"
    folder.mkdir()
    for name in ("b", "a", "c.d"):
        (folder / f"{name}.txt").write_text(f"Anna\nvisits {name}")
    Image.new("RGB", (70, 70), (200, 10, 10)).save(folder / "a.jpg")
    (folder / "b.png").write_bytes(b"")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "huge.TXT").write_bytes(b"a" * (MAX_BYTES + 1))
    (folder / "notes.md").write_text("no post")
    (folder / "sub.txt").mkdir()
    out = tmp_path / "out.jsonl"
    assert tag(str(folder), image_checkpoint, str(out), device="cpu") == 0
    found = {record["id"]: record for record in lines(out)}
    assert list(found) == ["a", "b", "c.d", "huge", "latin"]
    assert found["a"]["has_image"]
    assert found["a"]["text"] == "Anna\nvisits a"
    assert (found["b"]["has_image"], found["b"]["image_problem"]) == (False, "empty")
    assert not found["c.d"]["has_image"]
    assert "image_problem" not in found["c.d"]
    assert "more than" in found["huge"]["error"]
    assert "not UTF-8" in found["latin"]["error"]
    assert tag(str(folder), image_checkpoint, str(out), device="cpu") == 0
    assert len(lines(out)) == 5


def test_conll(tmp_path, checkpoint):
    given = write(
        tmp_path / "posts.jsonl",
        {"id": "a", "text": "Anna visits Old Town"},
        {"id": "b", "text": ""},
        {"id": "c", "tokens": ["tab\tin", "it"]},
        "{",
        {"id": "d", "tokens": ["\u00a0", "IMGID:x"]},
    )
    out = tmp_path / "out.conll"
    assert tag(given, checkpoint, str(out), device="cpu") == 0
    posts = read_conll(out)
    assert [(post.id, post.words) for post in posts] == [
        ("a", ("Anna", "visits", "Old", "Town")),
        ("d", ("\u00a0", "IMGID:x")),
    ]
    tagger = Tagger.from_checkpoint(checkpoint, device="cpu")
    assert posts[0].tags == tagger("Anna visits Old Town").tags
    errors = lines(tmp_path / "out.conll.errors.jsonl")
    assert [record["id"] for record in errors] == ["b", "c", None]
    before = out.read_bytes()
    assert tag(given, checkpoint, str(out), device="cpu") == 0
    assert out.read_bytes() == before
    assert len(lines(tmp_path / "out.conll.errors.jsonl")) == 3


def test_what_conll_cannot_hold_is_told(tmp_path, checkpoint, capsys):
    beside = {"image_id": "1.jpg", "lang": "en"}
    posts = {"id": "a", "text": "Anna", **beside}, {"id": "b", "text": "Anna", "image_id": "b"}
    given = write(tmp_path / "posts.jsonl", *posts)
    assert tag(given, checkpoint, str(tmp_path / "out.conll"), device="cpu") == 0
    assert "not what else posts had (image_id 1, lang 1); jsonl does" in capsys.readouterr().err
    assert tag(given, checkpoint, str(tmp_path / "out.jsonl"), device="cpu") == 0
    assert "what else posts had" not in capsys.readouterr().err


def test_context_files(tmp_path, posts_folder, bert_folder):
    path = save_checkpoint(tmp_path / "c.ckpt", TextOnly, posts_folder, bert_folder, context=["captions.jsonl"])
    captions = write(tmp_path / "captions.jsonl", {"image_id": "1.jpg", "caption": "a dog"}, {"id": "b", "text": "cat"})
    given = write(
        tmp_path / "posts.jsonl",
        {"id": "a", "text": "Anna", "image_id": "1.jpg"},
        {"id": "b", "text": "Anna"},
        {"id": "c", "text": "Anna", "context": "own", "image_id": "1.jpg"},
        {"id": "d", "text": "Anna"},
        {"id": "e", "text": "Anna", "context": ["x", "y"]},
        {"id": "f", "text": "Anna", "context": {"captions": "named"}},
    )
    out = tmp_path / "out.jsonl"
    with pytest.warns(UserWarning, match="posts without"):
        tag(given, str(path), str(out), context=[captions], device="cpu")
    found = lines(out)
    assert [record.get("context") for record in found] == [["a dog"], ["cat"], ["own"], None, None, ["named"]]
    assert "2 texts" in found[4]["error"]


def test_standard_input_and_output(tmp_path, checkpoint, monkeypatch):
    given = b'{"text": "Anna"}\n{\n{"id": "b", "text": "Bo\xc3\xa9"}\n'
    for form, expected in (("jsonl", 3), ("conll", 6)):
        output = io.BytesIO()
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(given)))
        monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=output))
        assert tag("-", checkpoint, format=form, device="cpu") == 0
        assert output.getvalue().count(b"\n") == expected
        assert "Boé".encode() in output.getvalue()


def test_pipe_and_kill(tmp_path, checkpoint):
    """A real process, killed in the middle; then the whole again, through a pipe that closes early."""
    count = 1500
    given = write(tmp_path / "posts.jsonl", *({"id": f"p{n}", "text": f"Anna visits town {n}"} for n in range(count)))
    out = tmp_path / "out.jsonl"
    program = [
        sys.executable,
        "-c",
        "import sys; from mner.cli import main; sys.exit(main(sys.argv[1:]))",
        "tag",
        given,
    ]
    program += ["--checkpoint", checkpoint, "--device", "cpu", "--batch_size", "5"]
    process = subprocess.Popen([*program, "--output", str(out)], stderr=subprocess.DEVNULL)
    while not (out.exists() and out.read_bytes().count(b"\n") >= 20):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    killed = out.read_bytes()
    assert 20 <= killed.count(b"\n") < count
    out.write_bytes(killed + b'{"id": "p')  # as if the kill had cut a line; the next run removes it
    assert tag(given, checkpoint, str(out), device="cpu") == 0
    assert out.read_bytes().startswith(killed[: killed.rfind(b"\n") + 1])
    assert [record["id"] for record in lines(out)] == [f"p{n}" for n in range(count)]
    # The same as a run that nobody stopped, but for the last digits of scores: other posts shared their batches.
    whole = tmp_path / "whole.jsonl"
    assert tag(given, checkpoint, str(whole), device="cpu") == 0
    for one, other in zip(lines(out), lines(whole), strict=True):
        scores = [[entity.pop("score") for entity in record["entities"]] for record in (one, other)]
        assert one == other
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)

    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert json.loads(process.stdout.readline())["id"] == "p0"
    process.stdout.close()
    errors = process.stderr.read().decode()
    assert process.wait() == 1
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors


@pytest.mark.parametrize("form", ["jsonl", "conll"])
def test_resumed_at_any_byte(tmp_path, checkpoint, form):
    """The output cut at any place is made whole, without doubles."""
    tagger = Tagger.from_checkpoint(checkpoint, device="cpu", batch_size=1)  # scores to the last digit
    given = write(
        tmp_path / "posts.jsonl",
        {"id": "a", "text": "Anna é"},
        "{",
        "{",
        {"id": "b", "text": "Bo"},
        {"id": "a", "text": "c"},
    )

    def go(path):
        from mner.tagger.bulk_input import Images, from_lines

        with open(given, "rb") as stream, Sink(str(path), form) as sink:
            run(tagger, from_lines(stream, given, Images(None)), sink)

    out = tmp_path / f"out.{form}"
    go(out)
    whole = out.read_bytes()
    errors = tmp_path / "out.conll.errors.jsonl"
    if form == "jsonl":
        assert [record["id"] for record in lines(out)] == ["a", None, None, "b", "a"]
    else:
        assert [record["id"] for record in lines(errors)] == [None, None, "a"]
    for cut in range(len(whole)):
        out.write_bytes(whole[:cut])
        go(out)
        if form == "jsonl":
            assert out.read_bytes() == whole
        else:
            assert out.read_bytes() == whole
            assert len(lines(errors)) == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", "my notes\n"),
        ("a.jsonl", "my notes"),
        ("a.jsonl", '{"text": "a post"}\n'),
        ("a.jsonl", '{"id": "1"}\n{"id'[:10] + "\nx\n"),
        ("a.conll", "my notes"),
        ("a.conll", "my notes\n\nmore\n"),
        ("a.txt", "Anna\tB-PER\n\n"),
    ],
)
def test_files_of_others_are_left_alone(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataFormatError, match="Name another file"):
        Sink(str(path), "jsonl" if name.endswith("l") and "conll" not in name else "conll")
    assert path.read_text() == content


def test_two_writers_are_one_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr("mner.files.WAIT", 0.2)
    path = str(tmp_path / "out.jsonl")
    with Sink(path, "jsonl"), pytest.raises(MNERError, match="Another process"):
        Sink(path, "jsonl")
    with Sink(path, "jsonl"):
        pass


def test_interrupted(tmp_path, checkpoint, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("mner.tagger.bulk.run", interrupt)
    given = write(tmp_path / "posts.jsonl", {"text": "a"})
    assert tag(given, checkpoint, str(tmp_path / "out.jsonl"), device="cpu") == 130
    assert "run it again" in capsys.readouterr().err


def test_wrong_arguments(tmp_path, checkpoint, capsys):
    with pytest.raises(DataNotFoundError, match="--checkpoint"):
        tag("-")
    with pytest.raises(DataNotFoundError, match="No input"):
        tag(str(tmp_path / "no.jsonl"), checkpoint)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFoundError, match=r"No \.txt files"):
        tag(str(tmp_path / "empty"), checkpoint)
    assert main(["tag", str(tmp_path / "no.jsonl"), "--checkpoint", checkpoint]) == 2
    assert "No input" in capsys.readouterr().err
    assert main(["tag", write(tmp_path / "p.jsonl", {"text": "a"}), "--checkpoint", str(tmp_path / "no.ckpt")]) == 2


POSTS = {"id": "77", "text": "so proud of Quillon today"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("gold.txt", "IMGID:a\nAnna\tB-PER\n\nIMGID:b\nhand\tO\nmade\tO\ngold\tB-MISC\n"),
        ("gold.txt", "IMGID:a\nAnna\tB-PER\n\n"),
        ("train.jsonl", '{"id": "1", "tokens": ["Anna"], "label": ["B-PER"]}\n{"id": "2", "tokens": ["a"], "label"'),
        ("posts.jsonl", '{"id": "1", "text": "a"}\n{"id": "2", "text": "no line break behind"}'),
        ("old.jsonl", '{"id": "1", "text": "", "words": [], "tags": [], "entities": [], "has_image": false}\n'),
        ("notes.jsonl", "{"),
    ],
)
def test_an_output_that_is_data_is_refused(tmp_path, checkpoint, name, content, capsys):
    given = write(tmp_path / "in.jsonl", POSTS)
    path = tmp_path / name
    path.write_text(content)
    before = path.stat().st_mtime_ns
    assert main(["tag", given, "--checkpoint", checkpoint, "--output", str(path), "--device", "cpu"]) == 2
    assert path.read_text() == content
    assert path.stat().st_mtime_ns == before
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == sorted(["in.jsonl", name])


@pytest.mark.parametrize("command", ["tag", "show"])
@pytest.mark.parametrize("kind", ["same", "symbolic", "hard", "spelling"])
def test_an_output_that_is_the_input_is_refused(tmp_path, checkpoint, command, kind, capsys):
    given = Path(write(tmp_path / "in.jsonl", POSTS))
    out = {"same": given, "spelling": tmp_path / ".." / tmp_path.name / "in.jsonl"}.get(kind, tmp_path / "other.jsonl")
    if kind == "symbolic":
        out.symlink_to(given)
    if kind == "hard":
        os.link(given, out)
    before = given.read_bytes()
    assert main([command, str(given), "--checkpoint", checkpoint, "--output", str(out), "--device", "cpu"]) == 2
    assert "is an input" in capsys.readouterr().err
    assert given.read_bytes() == before
    assert main([command, str(given), "--checkpoint", checkpoint, "--output", checkpoint, "--device", "cpu"]) == 2


def test_an_output_of_ours_that_is_the_input(tmp_path, checkpoint):
    given = write(tmp_path / "in.jsonl", POSTS)
    first = tmp_path / "first.jsonl"
    assert tag(given, checkpoint, str(first), device="cpu") == 0
    before = first.read_bytes()
    with pytest.raises(MNERError, match="is an input"):
        tag(str(first), checkpoint, str(first), device="cpu")
    assert first.read_bytes() == before


def test_goes_on_only_with_the_same_input_model_and_options(tmp_path, checkpoint, posts_folder, bert_folder):
    given = write(tmp_path / "in.jsonl", POSTS)
    out = tmp_path / "out.jsonl"
    assert tag(given, checkpoint, str(out), device="cpu") == 0
    before = out.read_bytes()
    other = write(tmp_path / "other.jsonl", {"id": "78", "text": "b"})
    with pytest.raises(DataFormatError, match=r"made otherwise.*input"):
        tag(other, checkpoint, str(out), device="cpu")
    (tmp_path / "m").mkdir()
    model = save_checkpoint(tmp_path / "m" / "text.ckpt", TextOnly, posts_folder, bert_folder, max_length=99)
    with pytest.raises(DataFormatError, match=r"made otherwise.*model"):
        tag(given, str(model), str(out), device="cpu")
    with pytest.raises(DataFormatError, match=r"made otherwise.*words"):
        tag(given, checkpoint, str(out), words="twitter2015", device="cpu")
    assert out.read_bytes() == before
    with open(given, "a") as file:  # posts that are added are tagged
        file.write('{"id": "79", "text": "a"}\n')
    assert tag(given, checkpoint, str(out), device="cpu", batch_size=1) == 0
    assert out.read_bytes().startswith(before)
    assert [record["id"] for record in lines(out)] == ["77", "79"]


def test_a_page_of_somebody_else_is_left_alone(tmp_path, checkpoint, capsysbinary):
    given = write(tmp_path / "in.jsonl", POSTS)
    page = tmp_path / "page.html"
    page.write_text("<html>mine</html>")
    command = ["show", given, "--checkpoint", checkpoint, "--device", "cpu", "--output"]
    assert main([*command, str(page)]) == 2
    assert page.read_text() == "<html>mine</html>"
    for _ in range(2):
        assert main([*command, str(tmp_path / "new.html")]) == 0
    capsysbinary.readouterr()
    assert main([*command, "-"]) == 0
    assert capsysbinary.readouterr().out == (tmp_path / "new.html").read_bytes()
    assert not Path("-").exists()


def test_other_fields_of_a_post_stay(tmp_path, checkpoint, capsys):
    own = {"author": "Björk", "date": [2017, 6], "likes": 3.5, "nested": {"a": None, "b": [True]}, "image": "7.jpg"}
    given = write(
        tmp_path / "in.jsonl",
        {"id": "a", "text": "Anna", **own},
        {"id": "b", "text": "Anna", "tags": ["news"], "words": 2, "error": "none", "given": 1},
        {"id": "c", "author": "me"},
        {"author": "you", "tokens": ["Anna"]},
        {"id": "2", "text": "Anna"},
        {"id": "4", "text": "Anna"},
        {"id": "line 4", "text": "Anna"},
    )
    out = tmp_path / "out.jsonl"
    assert tag(given, checkpoint, str(out), device="cpu") == 0
    a, b, c, made_up, *given_ids = lines(out)
    assert {key: a[key] for key in own} == own
    assert b["given"] == {"tags": ["news"], "words": 2, "error": "none", "given": 1}
    assert "author" in c
    assert "neither 'text'" in c["error"]
    assert (made_up["id"], made_up["number"], made_up["author"]) == (None, 4, "you")
    assert [record["id"] for record in given_ids] == ["2", "4", "line 4"]
    assert not [record for record in (a, b, made_up, *given_ids) if "error" in record]
    assert "under 'given' (tags 1" in capsys.readouterr().err
    before = out.read_bytes()
    assert tag(given, checkpoint, str(out), device="cpu") == 0
    assert out.read_bytes() == before
    conll = tmp_path / "out.conll"
    for _ in range(2):
        assert tag(given, checkpoint, str(conll), device="cpu") == 0
    assert [post.id for post in read_conll(conll)] == ["a", "b", "line 4", "2", "4"]
    errors = lines(tmp_path / "out.conll.errors.jsonl")
    assert [record["id"] for record in errors] == ["c", "line 4"]


def test_what_a_strategy_may_need_stands_in_the_post(tmp_path):
    given = write(
        tmp_path / "posts.jsonl",
        {"text": "Anna sings", "object_names": ["dog", "red car"], "relation": 0.25},
        {"tokens": ["Anna"], "object_names": [], "relation": 1},
        {"text": "Anna", "relation": 2},
        {"text": "Anna", "relation": "much"},
        {"text": "Anna", "object_names": "dog"},
    )
    with open(given, "rb") as stream:
        found = list(from_lines(stream, "posts", Images(None)))
    assert [(one.post.object_names, one.post.relation) for one in found[:2]] == [(("dog", "red car"), 0.25), ((), 1)]
    assert found[0].own == {"object_names": ["dog", "red car"], "relation": 0.25}
    assert [one.post for one in found[2:]] == [None] * 3
    assert "from 0 to 1, but got 2" in found[2].error
    assert "a string as 'relation'; expected a number from 0 to 1" in found[3].error
    assert "'object_names'" in found[4].error
