"""Outputs: whole or not at all, one writer, and nothing that mner did not begin is touched."""

import hashlib
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import mner
from mner import files
from mner.errors import BusyError, DataFormatError, MNERError
from mner.files import digest, locate, lock, output_folder, refuse_inputs, whole, write_text
from mner.growing_file import Growing

FACTS = {"model": "m", "options": {"words": "auto"}}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(files, "WAIT", 0.2)


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_file_is_whole_or_as_before(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with whole(path) as stream:
        stream.write(b"one")
    with pytest.raises(KeyError), whole(path) as stream:  # noqa: PT012
        stream.write(b"two")
        raise KeyError
    assert path.read_bytes() == b"one"
    assert os.listdir(path.parent) == ["a.txt"]
    link = tmp_path / "link"
    link.symlink_to(path)
    with whole(link) as stream:
        stream.write(b"three")
    assert link.is_symlink()
    assert path.read_bytes() == b"three"
    with pytest.raises(MNERError, match="is a folder"), whole(tmp_path):
        pass


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"), whole(path) as stream:  # SIGXFSZ is ignored by Python
            stream.write(b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_device_is_written_to(tmp_path):
    write_text(os.devnull, "text", "mark")
    assert Path(os.devnull).is_char_device()


def test_text_of_others_is_left_alone(tmp_path, capsysbinary):
    path = tmp_path / "page.html"
    path.write_text("my notes")
    with pytest.raises(DataFormatError, match="Name another file"):
        write_text(path, "<made by us> 1", "made by us")
    assert path.read_text() == "my notes"
    path.write_text("")
    write_text(path, "<made by us> 1", "made by us")
    write_text(path, "<made by us> 2", "made by us")
    assert path.read_text() == "<made by us> 2"
    write_text("-", "naïve", "made by us")
    assert capsysbinary.readouterr().out == "naïve".encode()


def test_an_output_is_no_input(tmp_path, monkeypatch):
    path = tmp_path / "in.jsonl"
    path.write_text("posts")
    (tmp_path / "link.jsonl").symlink_to(path)
    os.link(path, tmp_path / "hard.jsonl")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("in.jsonl", "./in.jsonl", "sub/../in.jsonl", str(path), "link.jsonl", "hard.jsonl"):
        with pytest.raises(MNERError, match="is an input"):
            refuse_inputs(name, [path])
        with pytest.raises(MNERError, match="is an input"):
            Growing(Path(name), FACTS, [path])
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(MNERError, match="is an input"):
        refuse_inputs("dangling", [tmp_path / "nowhere"])
    refuse_inputs("other.jsonl", [path, tmp_path / "nowhere"])
    assert path.read_text() == "posts"


def grow(path, *data, facts=FACTS):
    growing = Growing(path, facts)
    try:
        for some in data:
            growing.write(path, some)
    finally:
        growing.close()


def test_a_growing_file_goes_on(tmp_path):
    path = tmp_path / "out.jsonl"
    path.touch()  # an empty file is nobody's
    grow(path, b"one\n")
    grow(path, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
    assert visible(tmp_path) == ["out.jsonl", "out.jsonl.mner.json"]
    assert json.loads((tmp_path / "out.jsonl.mner.json").read_text())["facts"] == FACTS
    with pytest.raises(DataFormatError) as caught:
        grow(path, b"three\n", facts={**FACTS, "model": "n", "seed": 3})
    assert str(caught.value) == (
        f"{path}: found an output made otherwise (model 'm', now 'n'; seed None, now 3); expected the same input, "
        "model and options as before. Name another file, or remove this one."
    )
    path.write_bytes(b"my own text\n")  # the output was moved away, and something else put there
    with pytest.raises(DataFormatError) as caught:
        grow(path, b"three\n")
    assert str(caught.value) == (
        f"{path}: found another file than the one that mner began there; expected a new file, or an output of this "
        "command. Name another file."
    )
    assert path.read_bytes() == b"my own text\n"
    path.unlink()
    grow(path, b"new\n", facts={**FACTS, "model": "n"})
    assert path.read_bytes() == b"new\n"


@pytest.mark.parametrize("content", [b"x", b"one\n", b'{"id": "1", "tags": []}\n', b"IMGID:1\na\tO\n\n"])
def test_a_file_without_our_word_is_refused(tmp_path, content):
    path = tmp_path / "out"
    path.write_bytes(content)
    with pytest.raises(DataFormatError, match="Name another file"):
        grow(path, b"more")
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["out"]


def test_one_writer_at_a_time(tmp_path):
    path = tmp_path / "out"
    first = Growing(path, FACTS)
    with pytest.raises(BusyError, match=r"Another process is writing to .*out"):
        Growing(path, FACTS)
    first.close()
    grow(path, b"x")
    with output_folder(tmp_path / "f"), pytest.raises(BusyError), output_folder(tmp_path / "f"):
        pass


def hold(path, told):
    held = lock(path)
    assert held.is_locked
    told.send("held")
    told.recv()


def test_a_killed_holder_does_not_block(tmp_path):
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(tmp_path / "lock", theirs))
    process.start()
    assert ours.recv() == "held"
    with pytest.raises(BusyError):
        lock(tmp_path / "lock")
    process.kill()
    process.join()
    lock(tmp_path / "lock").release()


def hold_and_let_go(path, told, let_go):
    held = lock(path)
    told.set()
    let_go.wait()
    held.release()


def test_a_lock_that_is_let_go_meanwhile_is_taken(tmp_path, monkeypatch):
    """A worker of a killed run holds its lock until it notices."""
    monkeypatch.setattr(files, "WAIT", 60)
    told, let_go = threading.Event(), threading.Event()
    other = threading.Thread(target=hold_and_let_go, args=(tmp_path / "lock", told, let_go), daemon=True)
    other.start()
    told.wait()
    said = []
    monkeypatch.setattr(files.log, "warning", lambda *args: (said.append(args[0] % args[1:]), let_go.set()))
    lock(tmp_path / "lock", "the report").release()  # asks, is told to wait, and gets it
    other.join()
    assert said == ["Another process is writing to the report; waiting up to 60 seconds for its end"]


@pytest.mark.parametrize("register", ["[" * 100_000, "[]", '{"files": 3}', '{"files": {"a": 3}}'])
def test_a_damaged_register_protects_the_files(tmp_path, register):
    with output_folder(tmp_path) as place:
        (place / "a").write_text("1")
    (tmp_path / files.REGISTER).write_text(register)
    with pytest.raises(DataFormatError, match=r"mner did not write|somebody changed"), output_folder(tmp_path) as place:
        (place / "a").write_text("2")
    assert (tmp_path / "a").read_text() == "1"


@pytest.mark.parametrize("sidecar", ["[" * 100_000, "3", '{"facts": 3}', '{"facts": {}}', '{"begins": {"out": "zz"}}'])
def test_a_damaged_sidecar_protects_the_output(tmp_path, sidecar):
    path = tmp_path / "out"
    grow(path, b"one\n")
    noted = json.loads((tmp_path / "out.mner.json").read_text())
    both = {**noted, **json.loads(sidecar)} if sidecar.startswith("{") else None
    (tmp_path / "out.mner.json").write_text(json.dumps(both) if both else sidecar)
    with pytest.raises(DataFormatError):
        grow(path, b"two\n")
    assert path.read_bytes() == b"one\n"


def test_a_folder_gets_its_files_together(tmp_path):
    out = tmp_path / "report"
    with output_folder(out) as place:
        (place / "tables").mkdir()
        (place / "tables" / "a.csv").write_text("1")
        (place / "page.html").write_text("1")
        assert visible(out) == []
    assert visible(out) == ["page.html", "tables"]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(KeyError), output_folder(out) as place:  # noqa: PT012
        (place / "page.html").write_text("half")
        raise KeyError
    assert (out / "page.html").read_text() == "1"
    with output_folder(out) as place:
        (place / "page.html").write_text("2")
    assert (out / "page.html").read_text() == "2"
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "tables" / "a.csv").read_text() == "1"


def test_a_lock_may_be_let_go_by_another_thread(tmp_path):
    held = lock(tmp_path / "lock")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(held.release).result()
    lock(tmp_path / "lock").release()


def test_a_folder_is_looked_at_before_it_is_written_to(tmp_path):
    seen = []
    with output_folder(tmp_path / "out", seen.append):
        pass
    assert seen == [tmp_path / "out"]

    def refuse(place):
        raise DataFormatError(place, None, "x", "y")

    with pytest.raises(DataFormatError), output_folder(tmp_path / "out", refuse):
        pass
    with output_folder(tmp_path / "out"):  # the lock was let go
        pass


def test_where_encoders_lie(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    assert Path(locate("tiny")) == Path(mner.__file__).parent / "encoders" / "tiny"
    for name in ("bert-base-uncased", "vinai/bertweet-base", "a/b/c", "./a", str(tmp_path)):
        assert locate(name) == (name.removeprefix("./") if name == "./a" else name)
    for name in ("./x", "../x/y", "/x", "~/no-such-folder", "a/b/x"):
        with pytest.raises(FileNotFoundError) as caught:
            locate(name)
        assert str(caught.value) == (
            f"Expected a transformers folder (config.json, weights, tokeniser) at {name!r}, but it is not there. "
            "Give a folder, a name on the Hugging Face Hub, or 'tiny' for the built-in random encoder."
        )


def test_the_register_of_a_folder(tmp_path):
    with output_folder(tmp_path) as place:
        (place / "a" / "b").mkdir(parents=True)
        (place / "a" / "b" / "c.txt").write_text("1")
    known = hashlib.sha256(b"1").hexdigest()
    assert json.loads((tmp_path / ".mner.json").read_text()) == {
        "mner": mner.__version__,
        "files": {"a/b/c.txt": [known]},
    }
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "1"


def test_what_is_told_of_a_taken_name(tmp_path):
    def write():
        with output_folder(tmp_path) as place:
            (place / "a.txt").write_text("1")

    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(DataFormatError) as caught:
        write()
    advice = "expected a free name. Move it away, or name another folder."
    assert str(caught.value) == f"{tmp_path / 'a.txt'}: found something that mner did not write; {advice}"
    (tmp_path / "a.txt").unlink()
    write()
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(DataFormatError) as caught:
        write()
    found = "a file that mner wrote and somebody changed"
    assert str(caught.value) == f"{tmp_path / 'a.txt'}: found {found}; {advice}"
    (tmp_path / "b").touch()
    with pytest.raises(MNERError) as caught, output_folder(tmp_path / "b"):
        pass
    assert str(caught.value) == f"Expected a folder to write to, but {tmp_path / 'b'} is a file"


@pytest.mark.parametrize("name", ["notes.txt", "page.html"])
def test_a_folders_other_files_are_left_alone(tmp_path, name):
    with output_folder(tmp_path) as place:
        (place / "page.html").write_text("1")
    (tmp_path / name).write_text("mine")  # a new file, or ours that was changed
    with pytest.raises(DataFormatError, match="Move it away"), output_folder(tmp_path) as place:  # noqa: PT012
        (place / "a.txt").write_text("1")
        (place / name).write_text("2")
    assert (tmp_path / name).read_text() == "mine"
    assert not (tmp_path / "a.txt").exists()


def test_a_folder_killed_between_its_files_can_be_written_again(tmp_path, monkeypatch):
    def write(text):
        with output_folder(tmp_path / "out") as place:
            for name in "abc":
                (place / name).write_text(text + name)

    write("1")
    for calls in range(1, 5):  # the register, then each file
        for again in range(2):  # and a second time, where the first left it
            done = []

            def replace(old, new, calls=calls, done=done):
                done.append(new)
                if len(done) == calls:
                    raise KeyboardInterrupt
                os.rename(old, new)

            with monkeypatch.context() as patch:
                patch.setattr(files.os, "replace", replace)
                with pytest.raises(KeyboardInterrupt):
                    write(f"2{calls}{again}")
        write(f"3{calls}")
        assert [(tmp_path / "out" / name).read_text() for name in "abc"] == [f"3{calls}{name}" for name in "abc"]


def test_digest(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "b").write_text("1")
    first = digest(tmp_path / "f")
    assert digest("owner/model") == "owner/model"
    (tmp_path / "f" / "b").write_text("2")
    assert digest(tmp_path / "f") != first
    assert digest(tmp_path / "a") == "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"


def test_locks_need_no_unix_module(tmp_path):
    code = "import sys; sys.modules['fcntl'] = None; import mner.files, mner.tagger.bulk, mner.benchmark.run"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path, env=os.environ).returncode == 0
