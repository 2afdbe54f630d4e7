"""`mner serve` as a process: signals, the port, the token."""

import gc
import io
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from mner.errors import DataFormatError, DataNotFoundError, MissingDependencyError, MNERError
from mner.files import digest
from mner.serving import server
from mner.serving.logs import Gathering, JSONLines
from mner.serving.server import read_token, serve
from tests.serving.test_service import TEXT


def ask(address, body, path="/tag", token="a-long-enough-token"):
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(address + path, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_signals_reload_and_stop_a_process_and_nothing_is_lost(text_checkpoint, image_checkpoint, tmp_path):
    place = tmp_path / "model.ckpt"
    place.write_bytes(text_checkpoint.read_bytes())
    command = [sys.executable, "-m", "mner", "serve", str(place), "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "MNER_TOKEN": "a-long-enough-token"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    lines = []
    try:
        address = re.search(r"http://\S+?:\d+", process.stderr.readline())[0]
        reader = threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True)
        reader.start()
        assert ask(address, {"text": TEXT}, token="wrong")[0] == 401
        status, first = ask(address, {"text": TEXT})
        assert (status, first["model"]["strategy"]) == (200, "TextOnly")

        answers, stopped, refused = [], threading.Event(), []

        def keep_asking():
            while True:
                try:
                    answers.append(ask(address, {"text": TEXT}))
                except (OSError, urllib.error.URLError):
                    if stopped.is_set():  # no new connections any more
                        refused.append(True)
                        return
                    raise

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(keep_asking) for _ in range(4)]
            place.write_bytes(image_checkpoint.read_bytes())
            process.send_signal(signal.SIGHUP)
            wait_for(lambda: answers and answers[-1][1].get("model", {}).get("strategy") == "CoAttention")
            place.write_bytes(b"broken")
            process.send_signal(signal.SIGHUP)
            wait_for(lambda: any("could not be loaded" in line for line in lines))
            seen = len(answers)
            wait_for(lambda: len(answers) > seen + 20)
            stopped.set()
            process.send_signal(signal.SIGTERM)
            [one.result(60) for one in asking]
        assert process.wait(60) == 0
        reader.join(10)
    finally:
        process.kill()
        process.wait()
    assert len(refused) == 4
    assert {status for status, _ in answers} <= {200, 503}
    late = [answer for status, answer in answers if status == 503]
    assert {answer["error"]["code"] for answer in late} <= {"stopping"}
    fine = [answer for status, answer in answers if status == 200]
    assert all(answer["text"] == TEXT for answer in fine)
    prints = {answer["model"]["fingerprint"] for answer in fine}
    assert prints == {digest(text_checkpoint)[:16], digest(image_checkpoint)[:16]}
    logged = [json.loads(line) for line in lines]  # each line is JSON
    requests = [line for line in logged if line["message"] == "request"]
    assert len([line for line in requests if line["status"] == 200]) == len(fine) + 1


def wait_for(true, seconds=120):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(MNERError, match=rf"Cannot listen at 127\.0\.0\.1, port {port}: Address"):
            serve("nowhere.ckpt", port=port)
    with pytest.raises(MNERError, match=r"Cannot listen at 127\.0\.0\.1, port 99999"):
        serve("nowhere.ckpt", port=99999)


def test_options_that_cannot_be():
    with pytest.raises(ValueError, match="`max_wait` to be at least 0, but got -1"):
        serve("nowhere.ckpt", max_wait=-1)
    with pytest.raises(ValueError, match="`timeout` to be above 0, but got 0"):
        serve("nowhere.ckpt", timeout=0)


def test_a_token_is_long_and_plain(tmp_path, monkeypatch):
    monkeypatch.delenv(server.TOKEN, raising=False)
    assert read_token(None) is None
    file = tmp_path / "token"
    with pytest.raises(DataNotFoundError, match="No file with a token"):
        read_token(file)
    for bad in ("", "short", "a-long-enough token", "ä" * 20, "a-long-enough\ntoken"):
        file.write_text(bad, encoding="utf-8")
        with pytest.raises(DataFormatError, match="16 or more, on one line"):
            read_token(file)
    file.write_text("a-long-enough-token\n", encoding="utf-8")
    assert read_token(file) == "a-long-enough-token"
    monkeypatch.setenv(server.TOKEN, "another-long-enough-token")
    assert read_token(None) == "another-long-enough-token"
    assert read_token(file) == "a-long-enough-token"
    monkeypatch.setenv(server.TOKEN, "")
    with pytest.raises(DataFormatError, match=server.TOKEN):  # an empty one is no leave to serve without
        read_token(None)


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingDependencyError, match=r"uvicorn .* `pip install 'mner\[serve\]'`"):
        serve("nowhere.ckpt")


def test_a_model_that_is_replaced_while_it_is_read(text_checkpoint, monkeypatch):
    prints = iter(["a", "b"])
    monkeypatch.setattr("mner.files.digest", lambda path: next(prints))
    with pytest.raises(MNERError, match="was replaced while it was read; load it again"):
        server.load_model(str(text_checkpoint), device="cpu")


def test_scores_and_names_reach_the_tagger(text_checkpoint, tmp_path, monkeypatch):
    (tmp_path / "names.tsv").write_text("Anna\talways\tPER\n")
    loaded = []

    async def stop_at_once(service, listener, often):
        loaded.append(service.load().tagger)

    monkeypatch.setattr(server, "run", stop_at_once)
    server.serve(str(text_checkpoint), port=0, device="cpu", min_score=0.25, names=[str(tmp_path / "names.tsv")])
    assert loaded[0].min_score == 0.25
    assert loaded[0](["Anna sleeps"])[0].tags[0] == "B-PER"


def test_the_collector_of_garbage_passes_over_what_stays(text_checkpoint, monkeypatch):
    """And lets go of a model that another one replaced."""
    frozen, old = [], []

    async def reload(service, listener, often):
        frozen.append(gc.get_freeze_count())
        old.append(weakref.ref(service.batcher.model.tagger.model))
        for _ in range(2):
            await service.reload()

    monkeypatch.setattr(server, "run", reload)
    try:
        server.serve(str(text_checkpoint), port=0, device="cpu")
        assert frozen[0] > 100_000
        assert old[0]() is None
    finally:
        gc.unfreeze()


def logged(handler, level, message):
    handler.handle(logging.LogRecord("mner.serving", level, __file__, 1, message, (), None))


def test_the_log_is_written_in_whole_lines_when_told_and_at_warnings():
    stream = io.StringIO()
    handler = Gathering(stream)
    handler.setFormatter(JSONLines())
    logged(handler, logging.INFO, "request")
    assert stream.getvalue() == ""
    handler.flush()
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["request"]
    logged(handler, logging.INFO, "second")
    logged(handler, logging.WARNING, "a warning")
    said = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert said == ["request", "second", "a warning"]
    handler.flush()
    assert len(stream.getvalue().splitlines()) == 3


def test_a_log_that_nobody_reads_stops_nothing():
    stream = io.StringIO()
    handler = Gathering(stream)
    stream.close()
    logged(handler, logging.ERROR, "unread")
    handler.flush()


def test_the_loop_is_that_of_uvloop_where_there_is_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert server._loop_factory() is None
    monkeypatch.undo()
    uvloop = pytest.importorskip("uvloop")
    assert server._loop_factory() is uvloop.new_event_loop
