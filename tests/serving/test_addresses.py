"""Addresses: only public machines are asked, whatever names, forms of addresses and redirections say."""

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mner.serving import addresses
from mner.serving.addresses import fetch, is_public, resolve


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:169.254.169.254", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::", "198.18.0.1", "240.0.0.1",
    ],
)  # fmt: skip
def test_inner_addresses_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_outer_addresses_are(address):
    assert is_public(address)


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f000001", "0", "::1"])
def test_whatever_an_inner_host_is_called(host):
    with pytest.raises((ValueError, OSError)):
        resolve(host, 80)


def test_one_inner_address_among_outer_ones_is_enough(monkeypatch):
    found = [(2, 1, 6, "", (ip, 80)) for ip in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
    with pytest.raises(ValueError, match="not a public one"):
        resolve("both.example", 80)


@pytest.mark.parametrize(
    "address", ["ftp://example.com/a", "file:///etc/passwd", "http://", "http://a:b@example.com/", "http://[::1]:99999/"]
)
def test_what_is_no_address_of_the_net(address):
    with pytest.raises(ValueError):  # noqa: PT011
        fetch(address, 100, 1)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/image?size=1":
            self.answer(200, b"image of " + self.headers["Host"].split(":")[0].encode())
        elif self.path == "/large":
            self.answer(200, b"a" * 1000)
        elif self.path == "/inside":
            self.answer(302, b"", "http://inside.example/secret")
        elif self.path == "/round":
            self.answer(302, b"", "/round")
        elif self.path == "/drops":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"a")
                time.sleep(0.05)
        else:
            self.answer(404, b"")

    def answer(self, status, body, location=None):
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server on this machine that stands for a public one; the name `inside.example` is one of the inner net."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *args: None  # clients that hang up
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()

    def resolved(host, port):
        if host == "inside.example":
            raise ValueError("the address is not a public one")
        return "127.0.0.1"

    monkeypatch.setattr(addresses, "resolve", resolved)
    yield f"http://public.example:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_address_that_was_checked_is_asked_under_the_name(server):
    assert fetch(f"{server}/image?size=1", 100, 5) == b"image of public.example"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/large", "larger than 100 bytes"),
        ("/inside", "not a public one"),
        ("/round", "more than 3 redirections"),
        ("/nothing", "it answered 404"),
    ],
)
def test_what_is_not_fetched(server, path, message):
    with pytest.raises(ValueError, match=message):
        fetch(server + path, 100, 5)


def test_an_answer_drop_by_drop_is_cut_off(server):
    begin = time.monotonic()
    with pytest.raises((OSError, ValueError)):
        fetch(f"{server}/drops", 10_000, 0.5)
    assert time.monotonic() - begin < 3
