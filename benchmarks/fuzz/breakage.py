"""How files break: in real life, and in the hands of an enemy. Bytes in, bytes out."""

from __future__ import annotations

import random


def flip(pick: random.Random, raw: bytes, other: bytes) -> bytes:
    """Some bytes become others."""
    found = bytearray(raw)
    for _ in range(pick.randint(1, 4)):
        found[pick.randrange(len(found))] = pick.choice((pick.randrange(256), *b'\t\n\r "{}[]:,\\\x00\xff\xef\xed'))
    return bytes(found)


def cut(pick: random.Random, raw: bytes, other: bytes) -> bytes:
    """The file ends too early, or its beginning is missing."""
    place = pick.randrange(len(raw))
    return raw[:place] if pick.random() < 0.7 else raw[place:]


def remove(pick: random.Random, raw: bytes, other: bytes) -> bytes:
    """Something in the middle is missing."""
    place = pick.randrange(len(raw))
    return raw[:place] + raw[place + pick.randint(1, 20) :]


def insert(pick: random.Random, raw: bytes, other: bytes) -> bytes:
    """Something is put in: separators, marks, bytes that are no text, thousands of brackets or digits."""
    things = [b"\n", b"\n\n", b"\r", b"\r\n", b"\t", b" ", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80"]
    things += [
        b"\xc2\x85",
        b"\xe2\x80\xa8",
        b"\x1c",
        b"\xc0\xaf",
        b"\\ud83d",
        b"\\u0000",
        b"NaN",
        b"null",
        b"{}",
        b"[]",
    ]
    things += [b'"id": "x", ', b"IMGID:", b"IMGID:1\n", b"-DOCSTART-", b"9" * 5000, b"[" * pick.choice((10, 990, 5000))]
    place = pick.randrange(len(raw) + 1)
    return raw[:place] + pick.choice(things) + raw[place:]


def shuffle(pick: random.Random, raw: bytes, other: bytes) -> bytes:
    """Lines are doubled, dropped, joined or put elsewhere."""
    lines = raw.split(b"\n")
    place, target = pick.randrange(len(lines)), pick.randrange(len(lines) + 1)
    action = pick.randrange(4)
    if action == 0:
        lines.insert(target, lines[place])
    elif action == 1:
        del lines[place]
    elif action == 2:
        lines.insert(target, lines.pop(place))
    else:
        lines[place : place + 2] = [b"".join(lines[place : place + 2])]
    return b"\n".join(lines)


def columns(pick: random.Random, raw: bytes, other: bytes) -> bytes:
    """A column goes, comes or is separated otherwise, in one line or in all."""
    lines = raw.split(b"\n")
    chosen = range(len(lines)) if pick.random() < 0.3 else [pick.randrange(len(lines))]
    action = pick.randrange(4)
    for place in chosen:
        parts = lines[place].split(b"\t")
        changed = [parts[:-1], [*parts, b"O"], [b" ".join(parts)], parts[::-1]][action]
        lines[place] = b"\t".join(changed)
    return b"\n".join(lines)


def join(pick: random.Random, raw: bytes, other: bytes) -> bytes:
    """Two files in one, as `cat` does it; perhaps of different formats, perhaps the second with a byte order mark."""
    return raw + pick.choice((b"", b"\n", b"\xef\xbb\xbf")) + other


def encode(pick: random.Random, raw: bytes, other: bytes) -> bytes:
    """Saved by another program: line ends, a byte order mark, another encoding."""
    text = raw.decode(errors="replace")
    action = pick.randrange(6)
    if action == 0:
        return text.replace("\n", "\r\n").encode()
    if action == 1:
        return text.replace("\n", "\r").encode()
    if action == 2:
        return b"\xef\xbb\xbf" + raw
    return text.encode(["latin-1", "utf-16", "utf-32"][action - 3], errors="replace")


def swell(pick: random.Random, raw: bytes, other: bytes) -> bytes:
    """A line grows huge."""
    place = pick.randrange(len(raw) + 1)
    size = pick.choice((10_000, 100_000, 1_100_000)) if pick.random() < 0.1 else 2000
    return raw[:place] + pick.choice((b"a", b" ", b"\t", b"\\", b"\xf0\x9f\x98\x80", b"[")) * size + raw[place:]


def replace(pick: random.Random, raw: bytes, other: bytes) -> bytes:
    """A value of another type, a key of another name."""
    pairs = [(b'"id"', b'"ids"'), (b'"tokens"', b'"token"'), (b'"label"', b'"labels"'), (b'": "', b'": 3, "x": "')]
    pairs += [(b"[", b'"'), (b'"', b"'"), (b": ", b": null, "), (b"O", b"E-PER"), (b'"start": ', b'"start": -')]
    pairs += [(b'"score": 0', b'"score": 9e999'), (b'"start": ', b'"start": 1e5, "end": '), (b"true", b"1")]
    old, new = pick.choice(pairs)
    return raw.replace(old, new, pick.choice((1, -1)))


BREAKS = (flip, flip, cut, remove, insert, insert, shuffle, columns, join, encode, swell, replace)
