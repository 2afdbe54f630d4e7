"""The public text files of Twitter-2015 and Twitter-2017, at one commit, checked and resumable."""

from __future__ import annotations

import hashlib
import os
import time
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from mner.errors import DataFormatError, DataNotFoundError
from mner.files import lock

REPOSITORY = "https://github.com/jefferyYu/UMT"
COMMIT = "f478ee65564b5532319a6cc643203149acfc5eed"
BASE_URL = f"https://raw.githubusercontent.com/jefferyYu/UMT/{COMMIT}/data"

SHA256 = {
    "twitter2015": {
        "train.txt": "a6246e37aa1c8acd738747fa8257e01775f2a1cc0d4f36f82f9d41d6246ad6fa",
        "valid.txt": "9dcc7f9df7331de3c9cdf67a3450e041c41c6254b5e43925c576e2dfaaabe2ad",
        "test.txt": "edb2665b89bfe58bca06a2c10b9b31cbfa95456135b6a4cbf55c872e48d9b8f9",
    },
    "twitter2017": {
        "train.txt": "801e149e8635b19d66b4ec1212c329be340ada501b35c5fa55455fb6f53633be",
        "valid.txt": "41b5db90cb32059c14c2c3ccd50845fb77f1e3d3e4f7d0c210a61bc507d8a73e",
        "test.txt": "a7d9e172ae85bd3e35276eb2b01ce223321bdc92a47b234e24305d72e7a05243",
    },
}

IMAGES = """\
Images are not included, and text-only models and captions need none. The authors of these files link an archive with
the images of both data sets in their README, {repository}
(https://drive.google.com/file/d/1PpvvncnQkgDNeBMKVgG2zFYuRhbL873g/view). Unpack this data set's images into
{images}, then run `mner data verify {folder}`: some are missing or broken.

Terms: the repository states no licence, for the text as for the images. Its README says that using the data means
accepting the copyrights of Twitter and of the data providers. Use them locally for research; do not pass them on."""

_CHUNK = 1 << 16
_MOST = 1 << 28
"""Bytes of the largest answer that is taken; the files are a thousandth of it."""
_SLOWEST = 100
"""Bytes a second below which a server is taken for stalled."""


def download(
    dataset: Literal["twitter2015", "twitter2017"],
    root: Path = Path("data"),
    base_url: str = BASE_URL,
    overwrite: bool = False,
    timeout: float = 30.0,
) -> int:
    """Download the public text files of a data set and check them. What was cut off goes on where it stopped.

    Args:
        dataset: Which data set.
        root: Its files go to a folder of its name in this one.
        base_url: Where the files are; for a mirror. The checksums stay the same.
        overwrite: Replace files that are there and differ.
        timeout: Seconds without an answer after which to give up.

    Returns:
        Exit code 0.
    """
    if dataset not in SHA256:
        raise ValueError(f"Expected argument `dataset` to be one of {tuple(SHA256)}, but got {dataset!r}")
    folder = Path(root) / dataset
    folder.mkdir(parents=True, exist_ok=True)
    for name, checksum in SHA256[dataset].items():
        path = folder / name
        fetched = fetch(
            f"{base_url.rstrip('/')}/{dataset}/{name}", path, checksum, overwrite=overwrite, timeout=timeout
        )
        print(f"{path}: {'downloaded' if fetched else 'already there'}, checksum right")
    print(f"\n{IMAGES.format(repository=REPOSITORY, images=folder / 'images', folder=folder)}")
    return 0


def fetch(
    url: str, path: Path, sha256: str, *, overwrite: bool = False, timeout: float = 30.0, attempts: int = 3
) -> bool:
    """Download one file. It lies at `<path>.mner.part` until it is complete and its checksum is right.

    Args:
        url: Where it is.
        path: Where it goes.
        sha256: Its checksum, in hexadecimal.
        overwrite: Replace a file that is there and differs.
        timeout: Seconds without an answer, or with next to none, after which to give up.
        attempts: How often to ask when the connection breaks.

    Returns:
        False if the file was there already.

    Raises:
        DataNotFoundError: If the server does not give the file; what came stays in `<path>.mner.part`.
        DataFormatError: If a file is there and differs, or what the server gives has another checksum.
        BusyError: If another process is downloading it.
    """
    held = lock(path.with_name(f".{path.name}.lock"), path)
    try:
        return _fetch(url, path, sha256, overwrite, timeout, attempts)
    finally:
        held.release()


def _fetch(url: str, path: Path, sha256: str, overwrite: bool, timeout: float, attempts: int) -> bool:
    if path.exists():
        found = _sha256(path)
        if found == sha256:
            return False
        if not overwrite:
            advice = "Move it away, or give --overwrite=true to replace it."
            raise DataFormatError(path, None, f"a file with SHA-256 {found}", sha256, advice)
    part = path.with_name(f"{path.name}.mner.part")  # `.part` alone may be another program's
    resumed = _receive(url, part, timeout, attempts)
    if resumed and _sha256(part) != sha256:  # what lay there was of another file
        part.unlink()
        _receive(url, part, timeout, attempts)
    found = _sha256(part)
    if found != sha256:
        part.unlink()  # whole, and another file
        advice = "The server has another file (or a proxy answers in its place); nothing was kept. Check --base_url."
        raise DataFormatError(url, None, f"a file with SHA-256 {found}", sha256, advice)
    os.replace(part, path)
    return True


def _receive(url: str, part: Path, timeout: float, attempts: int) -> bool:
    """Fill `part` from `url`, going on from what it holds. Returns whether any of it was there before."""
    had_some = part.exists() and part.stat().st_size > 0
    problem = ""
    for _ in range(attempts):
        try:
            if _request(url, part, timeout):
                return had_some
            problem = "the connection broke"
        except HTTPError as error:
            error.close()
            if error.code < 500:
                told = f"{error.code} {_line(error.reason)}"
                raise DataNotFoundError(f"{url} answered {told}; check the address") from None
            problem = f"it answered {error.code} {_line(error.reason)}"
        except (URLError, HTTPException, OSError, ValueError, OverflowError) as error:
            # ValueError and OverflowError: addresses, lengths of chunks and ports that are none.
            problem = _line(getattr(error, "reason", "") or error or type(error).__name__)
    raise DataNotFoundError(
        f"Could not get {url} in {attempts} attempts: {problem}. Run the command again to go on where it stopped, "
        f"or put the file there by hand; it is in {REPOSITORY} at commit {COMMIT[:10]}"
    )


def _request(url: str, part: Path, timeout: float) -> bool:
    """One request for the rest of the file. Returns whether all of it came."""
    start = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"User-Agent": "mner", **({"Range": f"bytes={start}-"} if start else {})})
    try:
        response: HTTPResponse = urlopen(request, timeout=timeout)
    except HTTPError as error:
        if error.code != 416 or not start:
            raise
        error.close()
        return True  # nothing is left to send; the checksum tells whether that is the file
    with response:
        # A server without ranges answers 200 and sends all of it.
        goes_on = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if response.status == 206 and not goes_on:
            raise HTTPException(f"it sent {response.headers.get('Content-Range')} for bytes {start}-")
        length = response.headers.get("Content-Length")
        if not _is_number(length):
            response.length = None  # Python takes "1_0" for ten
        received, marked, began = 0, 0, time.monotonic()
        with part.open("ab" if goes_on else "wb") as file:
            while chunk := response.read1(_CHUNK):  # what is there, so that it is kept if the rest never comes
                file.write(chunk)
                received += len(chunk)
                if received > _MOST:
                    raise HTTPException(f"it sent more than {_MOST} bytes")
                if time.monotonic() - began > timeout:
                    if received - marked < _SLOWEST * timeout:
                        raise HTTPException(f"it sent {received - marked} bytes in {timeout:g} seconds")
                    marked, began = received, time.monotonic()
    # A body that ends early is no error to urllib. A length that is no number says nothing; the checksum does.
    return not _is_number(length) or received == int(length or 0)


def _is_number(text: str | None) -> bool:
    return text is not None and text.isascii() and text.isdecimal() and len(text) < 19


def _line(text: object, most: int = 200) -> str:
    """What a server said, as a part of one line."""
    return "".join(character if character.isprintable() else " " for character in str(text))[:most].strip()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
