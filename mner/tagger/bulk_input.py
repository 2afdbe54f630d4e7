"""Posts for `mner tag`, one after the other: JSON lines or a folder, where a bad one is an error in its place."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from mner.data.examples import Example
from mner.data.formats.context import Texts, find_text
from mner.data.formats.images import SUFFIXES, ImageFolder
from mner.data.formats.lines import json_object, json_type, string_list, text_field
from mner.errors import DataFormatError, DataNotFoundError
from mner.files import name_as_text, name_on_disk
from mner.tagger.post import Post

MAX_BYTES = 1_000_000
"""A line or text file with more bytes is no post."""

KEYS = ("text", "tokens")


@dataclass(frozen=True, slots=True)
class Given:
    """One post as it was given, or why it cannot be one.

    Attributes:
        id: Its id; None where it has none or could not be read. None is made up, which might be that of a later post.
        number: Its place in the input, counted from 1.
        key: What it is known by when the run is resumed.
        post: The post, or None.
        error: Why there is none; empty otherwise.
        image_problem: Why an image that the input names is not used; empty otherwise.
        own: Fields of the input that are not for mner, which stay in the output.
        source: The file that it is from, where there are several.
    """

    id: str | None
    number: int
    key: str
    post: Post | None = None
    error: str = ""
    image_problem: str = ""
    own: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


class Images:
    """The images of one folder and what is below it. A name that leads out of the folder finds nothing.

    Args:
        folder: The folder, or None for none.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = None if folder is None else ImageFolder(folder)
        self._inside = None if folder is None else folder.resolve()

    def report(self) -> str:
        """A line on images that were found loosely; "" where none was."""
        return "" if self._folder is None else self._folder.names.report()

    def find(self, name: str) -> tuple[Path | None, str]:
        """The file, or None and why there is none."""
        if self._folder is None or self._inside is None:
            return None, "no folder of images was given (--images)"
        if name.startswith(("http://", "https://")):
            return None, "a URL; nothing is downloaded"
        try:
            if not (self._inside / name_on_disk(name)).resolve().is_relative_to(self._inside):
                return None, "outside of the folder of images"
            known = self._folder.find(name)
            if known is None:
                return None, "missing"
            path = known.resolve()
        except DataFormatError as error:
            return None, f"it may be {error.found}"
        except (OSError, ValueError, RuntimeError):  # too long, a null byte, a circle of links
            return None, "no name of a file"
        inside = path.is_relative_to(self._inside)  # and not a link to the outside
        return (path, "") if inside else (None, "outside of the folder of images")


def from_lines(
    stream: BinaryIO,
    name: str,
    images: Images,
    sources: Sequence[Texts] = (),
    first: int = 1,
    fields: Mapping[str, str] | None = None,
) -> Iterator[Given]:
    """Posts of JSON lines: `{"id"?, "text" or "tokens", "image"?, "context"?}`; `image_id` does for `image`.

    A post with several images has a list of them under `image` or `image_ids`. What only a file knew in training may
    stand in `object_names`, a list, and `relation`, 0 to 1.

    Args:
        stream: The lines.
        name: What the input is called in messages.
        images: Where the images are.
        sources: Context of posts that bring none.
        first: Number of the first line, where the stream is a part of a file.
        fields: Other names of `text`, `tokens`, `id`, `image` and `context`.
    """
    for number, raw in lines_of(stream, first):
        yield raw if isinstance(raw, Given) else _parsed(raw, name, number, images, sources, fields or {})


def lines_of(stream: BinaryIO, first: int = 1) -> Iterator[tuple[int, bytes | Given]]:
    """Lines that hold something, with their numbers; one that is too long is an error in its place."""
    for number, raw in enumerate(_lines(stream), start=first):
        if raw is None:
            error = f"a line of more than {MAX_BYTES} bytes; expected one post a line"
            yield number, Given(None, number, f"line {number}", error=error)
        elif raw.strip():
            yield number, raw


def from_folder(folder: Path, images: Images, sources: Sequence[Texts] = ()) -> Iterator[Given]:
    """Posts of a folder: each `.txt` file is one, with the image of the same stem; its id is the stem.

    Args:
        folder: The folder.
        images: Where the images are.
        sources: Context of the posts.
    """
    for number, path in enumerate(text_files(folder), start=1):
        yield _from_file(path, number, images, sources)


def text_files(folder: Path) -> list[Path]:
    """The text files of a folder, in alphabetical order.

    Raises:
        DataNotFoundError: If there is none.
    """
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name.lower().endswith(".txt") and entry.is_file())
    if not names:
        raise DataNotFoundError(
            f"No .txt files in {folder}; expected one text file for each post, with its image "
            f"({', '.join(SUFFIXES)}) beside it under the same name"
        )
    return [folder / name for name in names]


def _lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Lines without their ends; None for one that is too long, of which no more is kept in memory."""
    while raw := stream.readline(MAX_BYTES + 2):
        if len(raw) > MAX_BYTES + 1 and not raw.endswith(b"\n"):
            while raw and not raw.endswith(b"\n"):
                raw = stream.readline(MAX_BYTES)
            yield None
        else:
            yield raw.rstrip(b"\r\n")


def _parsed(
    raw: bytes, name: str, number: int, images: Images, sources: Sequence[Texts], fields: Mapping[str, str]
) -> Given:
    digest = digest_of(raw)
    try:
        record = json_object(name, number, decoded(raw.removeprefix(b"\xef\xbb\xbf"), name, number))
    except ValueError as error:
        return Given(None, number, digest, error=said(error))
    return given_of(record, name, number, digest, images, sources, fields)


def digest_of(raw: bytes) -> str:
    """What a record that cannot be read is known by."""
    return f"digest {hashlib.sha256(raw).hexdigest()[:16]}"


def given_of(
    record: Mapping[str, Any],
    name: str,
    number: int,
    digest: str,
    images: Images,
    sources: Sequence[Texts] = (),
    fields: Mapping[str, str] | None = None,
) -> Given:
    """The post of a record with `text` or `tokens`, and perhaps `id`, `image` and `context`.

    Args:
        record: The record.
        name: What the input is called in messages.
        number: Its place there.
        digest: What it is known by if it cannot be read.
        images: Where the images are.
        sources: Context of a post that brings none.
        fields: Other names of these fields.
    """
    id_: str | None = None
    own: dict[str, Any] = {}
    try:
        names_of = {key: (fields or {}).get(key, key) for key in (*_READ, "image")}
        read = {names_of[key] for key in _READ}
        own = {key: value for key, value in record.items() if key not in read}
        if fields:
            record = {**own, **{key: record[at] for key, at in names_of.items() if at in record}}
        else:
            record = dict(record)
        id_ = _id(name, number, record)
        names = _image_names(name, number, record)
        found_images = [images.find(image_name) for image_name in names]
        paths = [path for path, _ in found_images if path is not None]
        problem = "; ".join(dict.fromkeys(problem for _, problem in found_images if problem))
        image = paths if len(names) > 1 else next(iter(paths), None)
        given = [key for key in KEYS if record.get(key) is not None]
        if len(given) != 1:
            found = "'text' and 'tokens'" if given else f"neither 'text' nor 'tokens' (the keys are {sorted(record)})"
            raise DataFormatError(name, number, found, "one of the two")
        context = record.get("context")
        if isinstance(context, list):
            context = string_list(name, number, record, "context")
        elif isinstance(context, dict):
            context = {key: text_field(name, number, context, key) for key in context}
        elif context is not None and not isinstance(context, str):
            expected = "a string, a list of strings or an object of strings"
            raise DataFormatError(name, number, f"{json_type(context)} as 'context'", expected)
        known = {"image": image, "context": context, **_beyond_regions(name, number, record)}
        if given == ["text"]:
            if not isinstance(record["text"], str):
                raise DataFormatError(name, number, f"{json_type(record['text'])} as 'text'", "a string")
            post = Post(text=record["text"], **known)
        else:
            post = Post(words=string_list(name, number, record, "tokens"), **known)
    except (ValueError, TypeError) as error:
        return Given(id_, number, digest, error=said(error), own=own)
    key = f"line {number}" if id_ is None else f"id {id_}"
    return _with_context(Given(id_, number, key, post, "", problem, own), next(iter(names), None), sources)


def _beyond_regions(name: str, number: int, record: dict[str, Any]) -> dict[str, Any]:
    """What strategies may need beside the image: `object_names` and `relation`."""
    known: dict[str, Any] = {}
    if record.get("object_names") is not None:
        known["object_names"] = string_list(name, number, record, "object_names")
    relation = record.get("relation")
    if relation is not None:
        if isinstance(relation, bool) or not isinstance(relation, (int, float)):
            raise DataFormatError(name, number, f"{json_type(relation)} as 'relation'", "a number from 0 to 1")
        known["relation"] = relation
    return known


_READ = ("id", "text", "tokens", "context")
"""Fields that the output has in a form of its own."""


def _from_file(path: Path, number: int, images: Images, sources: Sequence[Texts]) -> Given:
    id_ = name_as_text(path.stem)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise DataFormatError(path, None, f"more than {MAX_BYTES} bytes", "one post")
        text = decoded(raw.removeprefix(b"\xef\xbb\xbf"), path, None)
        id_.encode()  # names of files need not be text
    except (OSError, ValueError) as error:
        shown = id_.encode(errors="replace").decode()
        return Given(shown, number, f"file {shown}", error=said(error))
    image, problem = images.find(id_)
    # A post need not have an image, so that a missing one is no problem.
    problem = "" if problem == "missing" else problem
    return _with_context(Given(id_, number, f"id {id_}", Post(text=text, image=image), "", problem), id_, sources)


def _with_context(given: Given, image_id: str | None, sources: Sequence[Texts]) -> Given:
    post = given.post
    if not sources or post is None or post.context is not None:
        return given
    example = Example("" if given.id is None else given.id, image_id, ("",))
    try:
        texts = [find_text(source, example) for source in sources]
    except ValueError as error:  # several texts for one id
        return replace(given, post=None, error=said(error))
    return replace(given, post=replace(post, context=texts if any(texts) else None))


def decoded(raw: bytes, name: object, number: int | None) -> str:
    """The text of bytes.

    Raises:
        DataFormatError: If they are not UTF-8.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        found = f"the byte 0x{raw[error.start]:02x}, which is not UTF-8"
        raise DataFormatError(name, number, found, "text in UTF-8") from None


def _id(name: str, number: int, record: dict[str, Any]) -> str | None:
    value = record.get("id")
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_field(name, number, record, "id")


def _image_names(name: str, number: int, record: dict[str, Any]) -> tuple[str, ...]:
    for key in ("image", "image_ids", "image_id"):
        if isinstance(record.get(key), list):
            return string_list(name, number, record, key)
        if record.get(key) is not None:
            return (text_field(name, number, record, key),)
    return ()


def said(error: Exception) -> str:
    """The message, without halves of surrogate pairs, which no file can hold."""
    return (str(error) or type(error).__name__).encode(errors="replace").decode()


def sources_of(files: Iterable[str]) -> list[Texts]:
    """The context sources, each read from one file."""
    from mner.data.formats.context import read_context

    return [read_context(file) for file in files]
