"""Texts that accompany posts: captions, object tags, notes. Read from files, matched by post id or image id."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from os import PathLike
from typing import Any, NamedTuple

from mner.data.examples import Example
from mner.data.formats.images import image_key as image_key
from mner.data.formats.lines import json_object, json_type, read_lines, shown, text_field
from mner.errors import DataFormatError

_PLAIN = re.compile(r"(?P<id>[^ \t]+)[ \t]+:(?P<text>.*)", re.DOTALL)


class Texts(Mapping[str, str]):
    """One source's texts. As a mapping it is keyed by post ids and by image ids, in both cases without image suffix.

    The two kinds of key are kept apart: in files that number their posts, post "7" need not have image "7".

    Args:
        by_post: Texts by post id.
        by_image: Texts by image id.
    """

    def __init__(self, by_post: Mapping[str, str], by_image: Mapping[str, str]) -> None:
        self.by_post = dict(by_post)
        self.by_image = dict(by_image)

    def find(self, post: Example) -> str:
        """The text of a post, by its own id or else by its image; "" where there is none."""
        text = self.by_post.get(image_key(post.id))
        of_images = (self.by_image.get(image_key(image_id)) for image_id in post.image_ids)
        return next((some for some in of_images if some), "") if text is None else text

    def __getitem__(self, key: str) -> str:
        key = image_key(key)
        return self.by_post[key] if key in self.by_post else self.by_image[key]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self.by_post, *self.by_image)))

    def __len__(self) -> int:
        return len(self.by_post.keys() | self.by_image.keys())


class Attached(NamedTuple):
    """Posts with their texts, and for each source how many posts found none in it."""

    examples: list[Example]
    missing: dict[str, int]


def read_context(path: str | PathLike[str], *more: str | PathLike[str]) -> Texts:
    """Read the texts of one source, from one file or from several that together make it up.

    Two forms are known. JSON lines have the text under `caption` or else `text`, and `id` (of the post), `image_id`
    or both; with both, the text is found by either. Plain lines, as in public caption files, read
    `16_05_01_6.jpg :a man in a suit`; their id is looked up as post id and as image id.

    Raises:
        DataNotFoundError: If there is no such file.
        DataFormatError: For a line in neither form, a value of the wrong type, or two different texts for one key;
            with the line.
    """
    entries = _Entries()
    for file in (path, *more):
        lines = read_lines(file)
        first = next(line for line in lines if line)
        read = _read_json_line if first.startswith("{") else _read_plain_line
        for number, line in enumerate(lines, start=1):
            if line:
                read(entries, file, number, line)
    return Texts(entries.by_post, {key: text for key, text in entries.by_image.items() if key not in entries.ambiguous})


def attach(examples: Iterable[Example], sources: Mapping[str, Mapping[str, str]]) -> Attached:
    """Append to each post's context one text from each source, in order; "" where a source has none.

    Args:
        examples: The posts.
        sources: By name, what `read_context` gives, or any mapping from post ids or image ids to texts.

    Returns:
        New posts, and how many of them found no text in each source.
    """
    attached = []
    missing = dict.fromkeys(sources, 0)
    for post in examples:
        texts = {name: find_text(source, post) for name, source in sources.items()}
        for name, text in texts.items():
            missing[name] += not text
        attached.append(replace(post, context=(*post.context, *texts.values())))
    return Attached(attached, missing)


def find_text(texts: Mapping[str, str], post: Example) -> str:
    """The text of a post by its id or else its image id, each with and without suffix; "" where there is none."""
    if isinstance(texts, Texts):
        return texts.find(post)
    keys = (key for id_ in (post.id, *post.image_ids) for key in (id_, image_key(id_)))
    return next((texts[key] for key in keys if texts.get(key)), "")


class _Entries:
    """Texts by key, with the place each came from."""

    def __init__(self) -> None:
        self.by_post: dict[str, str] = {}
        self.by_image: dict[str, str] = {}
        self.ambiguous: set[str] = set()  # images with several posts, each with its own text
        self._places: dict[tuple[str, str], str] = {}

    def add(self, kind: str, key: str, text: str, path: str | PathLike[str], number: int) -> None:
        texts = self.by_post if kind == "id" else self.by_image
        key = image_key(key)
        if texts.setdefault(key, text) != text:
            place = self._places[kind, key]
            found = f"another text for {kind} {key!r} than at {place}"
            advice = "Keep one of the two; several sources belong in several files."
            raise DataFormatError(path, number, found, "one text for each id", advice)
        self._places.setdefault((kind, key), f"{path}:{number}")

    def add_post_image(self, key: str, text: str, path: str | PathLike[str], number: int) -> None:
        """The image of a text that is the post's: several posts may share it."""
        key = image_key(key)
        if self.by_image.setdefault(key, text) != text:
            self.ambiguous.add(key)
        self._places.setdefault(("image_id", key), f"{path}:{number}")


def _read_json_line(entries: _Entries, path: str | PathLike[str], number: int, line: str) -> None:
    record = json_object(path, number, line)
    text = _text(path, number, record)
    keys = [key for key in ("id", "image_id") if record.get(key) is not None]
    if not keys:
        found = f"neither 'id' nor 'image_id' (the keys are {sorted(record)})"
        raise DataFormatError(path, number, found, "the id of a post or of an image")
    for key in keys:
        value = text_field(path, number, record, key)
        if key == "image_id" and "id" in keys:
            entries.add_post_image(value, text, path, number)
        else:
            entries.add(key, value, text, path, number)


def _text(path: str | PathLike[str], number: int, record: dict[str, Any]) -> str:
    key = next((key for key in ("caption", "text") if key in record), None)
    if key is None:
        found = f"neither 'caption' nor 'text' (the keys are {sorted(record)})"
        raise DataFormatError(path, number, found, "the text under one of the two")
    if not isinstance(record[key], str):
        advice = "Leave the line out where there is no text."
        raise DataFormatError(path, number, f"{json_type(record[key])} as {key!r}", "a string", advice)
    return str(record[key]).strip()


def _read_plain_line(entries: _Entries, path: str | PathLike[str], number: int, line: str) -> None:
    match = _PLAIN.fullmatch(line.removeprefix("\ufeff"))  # files that were joined have byte order marks inside
    if match is None:
        advice = "A text of several lines needs JSON lines."
        raise DataFormatError(path, number, shown(line), "'<id> :<text>', or JSON lines throughout", advice)
    text = match["text"].strip()
    entries.add("image_id", match["id"], text, path, number)
    if image_key(match["id"]) == match["id"]:  # with a suffix it names an image for certain
        entries.add("id", match["id"], text, path, number)
