"""Images at addresses, for services that are allowed to fetch them: from public machines alone."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import suppress
from urllib.parse import SplitResult, urljoin, urlsplit

REDIRECTS = 3
_CHUNK = 1 << 16
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public net: not of this machine, its net, or a provider's inside.

    >>> [is_public(a) for a in ("93.184.215.14", "127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:10.0.0.1")]
    [True, False, False, False, False, False]
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        # An IPv4 address inside of one of IPv6 may be a private one.
        if ip in _NAT64 or ip.sixtofour is not None or ip.teredo is not None:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def resolve(host: str, port: int) -> str:
    """The address to connect to.

    Raises:
        ValueError: If the host has an address that is not public.
        OSError: If it has none.
    """
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not found or not all(map(is_public, found)):
        raise ValueError("the address is not a public one")
    return found[0]


def fetch(address: str, most: int, timeout: float) -> bytes:
    """What lies at an http or https address.

    The host's name is looked up once, and the connection goes to the address that was checked, so that no second
    answer of the name server leads elsewhere. Where it redirects, the new address is checked likewise.

    Args:
        address: The address.
        most: Bytes of the largest answer.
        timeout: Seconds for all of it.

    Raises:
        ValueError: If it may not be fetched, or the answer is not fit.
        OSError: If there is no answer.
    """
    until = time.monotonic() + timeout
    for _ in range(REDIRECTS + 1):
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ValueError("expected http or https, a host, and no password")
        connection = _connect(parts, resolve(parts.hostname, _port(parts)), until)
        # A timeout of the socket is for each of its answers' parts, and they may come drop by drop.
        watch = threading.Timer(_left(until), _cut, [connection.sock])
        watch.start()
        try:
            path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
            connection.request("GET", path, headers={"User-Agent": "mner", "Accept": "image/*"})
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308):
                address = urljoin(address, response.headers.get("Location", ""))
                continue
            if response.status != 200:
                raise ValueError(f"it answered {response.status}")
            return _read(response, most, until)
        except http.client.HTTPException as error:
            raise ValueError(f"no HTTP answer ({type(error).__name__})") from None
        finally:
            watch.cancel()
            connection.close()
    raise ValueError(f"more than {REDIRECTS} redirections")


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("it took too long")
    return left


def _connect(parts: SplitResult, address: str, until: float) -> http.client.HTTPConnection:
    """A connection to an address that was checked, which speaks to the host by its name."""
    host, port = parts.hostname or "", _port(parts)
    connection = http.client.HTTPConnection(host, port)
    open_ = socket.create_connection((address, port), timeout=_left(until))
    if parts.scheme == "https":
        try:
            open_ = ssl.create_default_context().wrap_socket(open_, server_hostname=host)
        except BaseException:
            open_.close()
            raise
        connection.default_port = 443
    connection.sock = open_
    return connection


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):  # it may be closed by now
        connection.shutdown(socket.SHUT_RDWR)


def _read(response: http.client.HTTPResponse, most: int, until: float) -> bytes:
    parts, total = [], 0
    while chunk := response.read1(_CHUNK):
        total += len(chunk)
        if total > most:
            raise ValueError(f"it is larger than {most} bytes")
        parts.append(chunk)
    _left(until)  # what was cut is no answer
    return b"".join(parts)
