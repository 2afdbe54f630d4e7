from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mner.data import download as module
from mner.data.download import SHA256, download, fetch
from mner.errors import DataFormatError, DataNotFoundError

CONTENT = b"IMGID:1\nOslo\tB-LOC\n" * 20_000  # several chunks
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """A file server that can be told to misbehave, and notes what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/a.txt": CONTENT}
        self.ranges = True
        self.stop_after: list[int] = []  # bytes after which the next answers break off
        self.status: list[int] = []  # statuses of the next answers
        self.wrong_range = False
        self.length: str | None = None  # in place of the right one
        self.redirect = ""
        self.stall_after: int | None = None
        self.pace = 0.0  # seconds between single bytes after that; 0: nothing more comes
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, requested = self.server, self.headers.get("Range")
        server.asked.append((self.path, requested))
        if server.status:
            self.send_error(server.status.pop(0))
            return
        if server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect)
            self.end_headers()
            return
        if self.path not in server.files:
            self.send_error(404)
            return
        body, start = server.files[self.path], 0
        total = len(body)
        if requested and server.ranges:
            start = int(requested.removeprefix("bytes=").removesuffix("-"))
            if start >= total:
                self.send_error(416)
                return
            self.send_response(206)
            first = 0 if server.wrong_range else start
            self.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
        else:
            self.send_response(200)
        body = body[start:]
        self.send_header("Content-Length", str(len(body)) if server.length is None else server.length)
        self.end_headers()
        if server.stall_after is not None:
            self.stall(body)
            return
        self.wfile.write(body[: server.stop_after.pop(0)] if server.stop_after else body)

    def stall(self, body: bytes) -> None:
        try:
            self.wfile.write(body[: self.server.stall_after])
            for place in range(self.server.stall_after, len(body)):
                while self.server.stall_after is not None and not self.server.pace:
                    time.sleep(0.02)
                if self.server.stall_after is None:
                    return
                time.sleep(self.server.pace)
                self.wfile.write(body[place : place + 1])
        except OSError:  # whoever asked has gone
            pass

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_fetch(server, tmp_path):
    path = tmp_path / "a.txt"
    assert fetch(f"{server.url}/a.txt", path, CHECKSUM)
    assert path.read_bytes() == CONTENT
    assert [each.name for each in tmp_path.glob("[!.]*")] == ["a.txt"]
    assert not fetch(f"{server.url}/a.txt", path, CHECKSUM)
    assert server.asked == [("/a.txt", None)]


@pytest.mark.parametrize("ranges", [True, False])
def test_goes_on_where_it_stopped(server, tmp_path, ranges):
    server.ranges = ranges
    server.stop_after = [100_000]
    path = tmp_path / "a.txt"
    with pytest.raises(DataNotFoundError, match=r"the connection broke.*again"):
        fetch(f"{server.url}/a.txt", path, CHECKSUM, attempts=1)
    assert not path.exists()
    assert (tmp_path / "a.txt.mner.part").read_bytes() == CONTENT[:100_000]
    assert fetch(f"{server.url}/a.txt", path, CHECKSUM, attempts=1)
    assert path.read_bytes() == CONTENT
    assert not (tmp_path / "a.txt.mner.part").exists()
    assert server.asked == [("/a.txt", None), ("/a.txt", "bytes=100000-")]


def test_tries_again_by_itself(server, tmp_path):
    server.status = [503]
    server.stop_after = [70_000]
    assert fetch(f"{server.url}/a.txt", tmp_path / "a.txt", CHECKSUM)
    assert [requested for _, requested in server.asked] == [None, None, "bytes=70000-"]


def test_complete_part_is_kept(server, tmp_path):
    (tmp_path / "a.txt.mner.part").write_bytes(CONTENT)
    assert fetch(f"{server.url}/a.txt", tmp_path / "a.txt", CHECKSUM)
    assert (tmp_path / "a.txt").read_bytes() == CONTENT
    assert len(server.asked) == 1


@pytest.mark.parametrize("left", [b"something else", CONTENT + b"more"], ids=["shorter", "longer"])
def test_part_of_another_file_is_thrown_away(server, tmp_path, left):
    (tmp_path / "a.txt.mner.part").write_bytes(left)
    assert fetch(f"{server.url}/a.txt", tmp_path / "a.txt", CHECKSUM)
    assert (tmp_path / "a.txt").read_bytes() == CONTENT


def test_range_that_was_not_asked_for_is_refused(server, tmp_path):
    server.wrong_range = True
    (tmp_path / "a.txt.mner.part").write_bytes(CONTENT[:500])
    with pytest.raises(DataNotFoundError, match="it sent bytes 0-"):
        fetch(f"{server.url}/a.txt", tmp_path / "a.txt", CHECKSUM)
    assert (tmp_path / "a.txt.mner.part").read_bytes() == CONTENT[:500]


def test_wrong_checksum_leaves_nothing(server, tmp_path):
    server.files["/a.txt"] = CONTENT + b"\n"
    with pytest.raises(DataFormatError, match=f"expected {CHECKSUM}"):
        fetch(f"{server.url}/a.txt", tmp_path / "a.txt", CHECKSUM)
    assert list(tmp_path.glob("[!.]*")) == []


def test_files_of_the_user_are_kept(server, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"mine")
    with pytest.raises(DataFormatError, match="--overwrite"):
        fetch(f"{server.url}/a.txt", path, CHECKSUM)
    assert path.read_bytes() == b"mine"
    assert server.asked == []
    assert fetch(f"{server.url}/a.txt", path, CHECKSUM, overwrite=True)
    assert path.read_bytes() == CONTENT


def test_no_answer(server, tmp_path):
    with pytest.raises(DataNotFoundError, match="answered 404"):
        fetch(f"{server.url}/absent.txt", tmp_path / "a.txt", CHECKSUM)
    assert len(server.asked) == 1  # asking again would not help
    server.status = [500, 500, 500]
    with pytest.raises(DataNotFoundError, match="3 attempts: it answered 500"):
        fetch(f"{server.url}/a.txt", tmp_path / "a.txt", CHECKSUM)
    with pytest.raises(DataNotFoundError, match=r"Could not get http://127\.0\.0\.1:1/a\.txt"):
        fetch("http://127.0.0.1:1/a.txt", tmp_path / "a.txt", CHECKSUM, timeout=2)


@pytest.mark.parametrize("dataset", ["twitter2015", "twitter2017"])
def test_download_command(server, tmp_path, capsys, monkeypatch, dataset):
    names = ("train.txt", "valid.txt", "test.txt")
    server.files = {f"/mirror/{dataset}/{name}": f"{dataset} {name}".encode() for name in names}
    checksums = {name: hashlib.sha256(server.files[f"/mirror/{dataset}/{name}"]).hexdigest() for name in names}
    monkeypatch.setitem(SHA256, dataset, checksums)
    for word in ("downloaded", "already there"):
        assert download(dataset, root=tmp_path / "data", base_url=f"{server.url}/mirror/") == 0
        text = capsys.readouterr().out
        assert text.count(f".txt: {word}, checksum right") == 3
        assert "no licence" in text
        assert str(tmp_path / "data" / dataset / "images") in text
    assert sorted(each.name for each in (tmp_path / "data" / dataset).glob("[!.]*")) == sorted(names)
    assert len(server.asked) == 3


def test_download_refuses_other_names(tmp_path):
    with pytest.raises(ValueError, match="'twitter2018'"):
        download("twitter2018", root=tmp_path)  # type: ignore[arg-type]
    assert list(tmp_path.glob("[!.]*")) == []


def test_what_is_pinned():
    assert f"/{module.COMMIT}/" in module.BASE_URL
    assert len(module.COMMIT) == 40
    checksums = [checksum for files in SHA256.values() for checksum in files.values()]
    assert len(set(checksums)) == 6
    assert all(len(bytes.fromhex(checksum)) == 32 for checksum in checksums)


@pytest.mark.parametrize("length", ["abc", "9" * 5000, "-5", "", "1_0", "\u00b2".encode().decode("latin-1")])
def test_a_length_that_is_none(server, tmp_path, length):
    server.length = length
    assert fetch(f"{server.url}/a.txt", tmp_path / "a.txt", CHECKSUM)
    assert (tmp_path / "a.txt").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "target",
    ["http://[nonsense/", "http://127.0.0.1:99999/", "http://127.0.0.1:abc/", "//" + "a" * 300, "foo://x", "\x01"],
)
def test_a_redirect_to_nonsense(server, tmp_path, target):
    server.redirect = target
    with pytest.raises(DataNotFoundError) as told:
        fetch(f"{server.url}/a.txt", tmp_path / "a.txt", CHECKSUM)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "a.txt").exists()


@pytest.mark.parametrize("pace", [0.0, 0.02])
def test_a_stalled_server(server, tmp_path, pace):
    """It sends some and then nothing, or a byte now and then: what came is kept, and gone on with."""
    server.stall_after, server.pace = 1000, pace
    part, timeout = tmp_path / "a.txt.mner.part", 0.1
    while not (part.exists() and part.stat().st_size >= 1000):  # on a busy machine the first bytes take their time
        timeout *= 3
        with pytest.raises(DataNotFoundError, match="Run the command again"):
            fetch(f"{server.url}/a.txt", tmp_path / "a.txt", CHECKSUM, timeout=timeout, attempts=1)
    kept = part.read_bytes()
    assert CONTENT.startswith(kept)
    server.stall_after = None
    assert fetch(f"{server.url}/a.txt", tmp_path / "a.txt", CHECKSUM)
    assert server.asked[-1][1] == f"bytes={len(kept)}-"


def test_an_endless_answer(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MOST", 1000)
    with pytest.raises(DataNotFoundError, match="more than 1000 bytes"):
        fetch(f"{server.url}/a.txt", tmp_path / "a.txt", CHECKSUM, attempts=1)


def test_two_downloads_at_once(server, tmp_path):
    made = []
    threads = [
        threading.Thread(target=lambda: made.append(fetch(f"{server.url}/a.txt", tmp_path / "a.txt", CHECKSUM)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False, False, False, True]  # one got it, the others found it
    assert (tmp_path / "a.txt").read_bytes() == CONTENT
    assert len(server.asked) == 1
