"""Connections that do not do what test clients do: slow bodies, giants, clients that go away."""

import asyncio
import json
import logging

import pytest

from mner.serving.limits import Limits
from mner.serving.server import load_model
from mner.serving.service import Service
from tests.serving.test_service import TEXT, Gate


@pytest.fixture
def service(text_checkpoint):
    return Service(lambda: load_model(str(text_checkpoint), device="cpu"), Limits(timeout=0.3, max_bytes=100))


class Connection:
    """One request as ASGI messages; when they are through, the client waits, or has gone."""

    def __init__(self, service, *bodies, gone=False, more=False, length=None):
        self.app, self.gone, self.sent = service.app, gone, []
        self.messages = [
            {"type": "http.request", "body": body, "more_body": more or place < len(bodies) - 1}
            for place, body in enumerate(bodies)
        ]
        headers = [(b"content-type", b"application/json")]
        headers += [] if length is None else [(b"content-length", str(length).encode())]
        self.scope = {"type": "http", "method": "POST", "path": "/tag", "headers": headers, "query_string": b""}
        self.scope |= {"client": ("127.0.0.1", 1), "server": ("a", 80), "scheme": "http", "root_path": ""}

    async def receive(self):
        if self.messages:
            return self.messages.pop(0)
        if not self.gone:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)

    async def run(self):
        await self.app(self.scope, self.receive, self.send)
        return self

    @property
    def answer(self):
        return self.sent[0]["status"], json.loads(self.sent[1]["body"])


def run(service, *connections):
    async def all_of_them():
        service.batcher.start()
        done = await asyncio.gather(*(connection.run() for connection in connections))
        await service.batcher.stop()
        return done

    return asyncio.run(all_of_them())


BODY = json.dumps({"text": TEXT}).encode()


def test_a_body_in_parts(service):
    (done,) = run(service, Connection(service, BODY[:7], BODY[7:]))
    assert done.answer[0] == 200
    assert done.answer[1]["text"] == TEXT


def test_a_body_that_does_not_come_is_408_and_the_connection_is_closed(service):
    (done,) = run(service, Connection(service, BODY[:7], more=True))
    assert done.answer[0] == 408
    assert done.answer[1]["error"]["code"] == "body_timeout"
    assert (b"connection", b"close") in [(name.lower(), value) for name, value in done.sent[0]["headers"]]


def test_giants_are_413_without_being_held(service):
    part = b"a" * 90
    declared = Connection(service, part, part, more=True, length=10**15)
    endless = Connection(service, *[part] * 30, more=True)
    ended = Connection(service, part, part)
    for done in run(service, declared, endless, ended):
        assert done.answer[0] == 413
    assert len(declared.messages) == 1  # nobody waits for the rest
    assert len(endless.messages) >= 24
    assert not ended.messages  # but what is little more is read, so that the client hears the answer


def test_posts_of_a_client_that_has_gone_are_not_tagged(service, monkeypatch, caplog):
    gate = Gate(service, monkeypatch)
    tagged = []
    monkeypatch.setattr(service.batcher, "on_batch", lambda posts, seconds: tagged.append(posts))

    async def two():
        service.batcher.start()
        first = asyncio.ensure_future(Connection(service, BODY).run())
        assert await asyncio.to_thread(gate.begun.wait, 20)
        gone = await Connection(service, BODY, gone=True).run()
        assert service.batcher.waiting == 0
        gate.open.set()
        done = await first
        await service.batcher.stop()
        return gone, done

    service.limits = Limits(max_bytes=100)  # with time enough
    with caplog.at_level(logging.INFO, "mner.serving"):
        gone, done = asyncio.run(two())
    assert gone.sent == []
    assert done.answer[0] == 200
    assert tagged == [1]
    assert [record.fields["status"] for record in caplog.records] == [499, 200]


def test_a_client_that_goes_within_its_body_is_no_fault(service, caplog):
    with caplog.at_level(logging.INFO, "mner.serving"):
        (done,) = run(service, Connection(service, BODY[:7], gone=True, more=True))
    assert done.sent == []
    assert [(record.levelname, record.fields["status"]) for record in caplog.records] == [("INFO", 499)]
