"""Texts to retrieve from, on disk: any folder or file of texts, or the training split, read by number and not held."""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from mner.data.examples import Example
from mner.data.formats.lines import json_object, string_list, text_field
from mner.data.formats.posts import read_posts
from mner.data.sources import find_splits, is_posts
from mner.errors import DataFormatError, DataNotFoundError
from mner.files import digest, output_folder, read_json

Kind = Literal["auto", "posts", "json", "lines", "files"]
FACTS, TEXTS, ENDS = "corpus.json", "texts.jsonl", "ends.npy"


class Text(NamedTuple):
    """A text, with the post's id and image where it is a post's."""

    id: str | None
    image_id: str | None
    text: str


class Corpus:
    """The texts of a folder that `build_corpus` made, by number; their file is mapped into memory.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ends = np.load(folder / ENDS, mmap_mode="r")
        with (folder / TEXTS).open("rb") as stream:
            self._raw = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> Text:
        return Text(*json.loads(self._raw[self._ends[number] : self._ends[number + 1]]))

    def texts(self, start: int = 0, end: int | None = None) -> Iterator[Text]:
        """The texts from `start` to `end`, in order."""
        for number in range(start, len(self) if end is None else min(end, len(self))):
            yield self[number]


def build_corpus(source: Path, folder: Path, kind: Kind = "auto") -> Corpus:
    """Write the texts of `source` into `folder`, unless they are there.

    Args:
        source: A data set's folder, for its training split; a file of posts; JSON lines with `text` or `tokens`, and
            `id` and `image_id` where there are; a plain file with a text a line; a folder of `.txt` files.
        folder: Where they go.
        kind: How to read it: `posts`, `json`, `lines`, or `files`, of which each paragraph is a text. `auto` is `posts`
            for a folder with a training split, `files` for other folders, `json` for `.jsonl` with texts, else `posts`.

    Raises:
        DataNotFoundError: If there is no such source, or no text in it.
        DataFormatError: If it is malformed, or the folder holds the texts of another corpus.
    """
    kind = _kind(source, kind)
    files = _files(source, kind)
    facts = {"corpus": _digest(source, files), "kind": kind}
    known = read_json(folder / FACTS)
    if known and known.get("facts") != facts:
        found, expected = "an index of another corpus, or of what it was before", f"one of {source}, read as {kind}"
        raise DataFormatError(folder, None, found, expected, "Name another folder with --index, or remove this one.")
    if not known or not all((folder / name).is_file() for name in (TEXTS, ENDS)):
        with output_folder(folder) as draft:
            count = _write(draft, _read(files, kind))
            if not count:
                raise DataNotFoundError(f"No text in {source}, read as {kind}; name another --corpus_kind")
            (draft / FACTS).write_text(json.dumps({"mner_corpus": 1, "facts": facts, "texts": count}) + "\n", "utf-8")
    return Corpus(folder)


def text_of(post: Example) -> Text:
    """A post's text: its words between blanks."""
    return Text(post.id, post.image_id, " ".join(post.words))


def _kind(source: Path, kind: Kind) -> Kind:
    if kind not in get_args(Kind):
        raise ValueError(f"Expected `corpus_kind` to be one of {get_args(Kind)}, but got {kind!r}")
    if not source.exists():
        raise DataNotFoundError(f"No corpus at {source}; expected a file or folder of texts or posts")
    if kind != "auto":
        return kind
    if source.is_dir():
        return "posts" if is_posts(source) or _train(source) is not None else "files"
    if source.suffix.lower() != ".jsonl":
        return "posts"
    with source.open("rb") as stream:
        first = next((line for line in stream if line.strip()), b"")
    try:
        record = json.loads(first)
    except ValueError:
        return "posts"  # whose reader says what is wrong
    named = isinstance(record, dict) and (isinstance(record.get("text"), str) or "tokens" in record)
    return "json" if named else "posts"


def _train(folder: Path) -> Path | None:
    try:
        return find_splits(folder).get("train")
    except DataNotFoundError:
        return None


def _files(source: Path, kind: Kind) -> list[Path]:
    if not source.is_dir():
        return [source]
    if kind == "posts":
        train = source if is_posts(source) else _train(source)
        if train is None:
            raise DataNotFoundError(f"No training split in {source}; name the file of posts itself")
        return [train]
    wanted = ".jsonl" if kind == "json" else ".txt"
    files = sorted(file for file in source.rglob(f"*{wanted}") if file.is_file())
    if not files:
        raise DataNotFoundError(f"No {wanted} files in {source}, nor a training split")
    return files


def _digest(source: Path, files: list[Path]) -> str:
    if files == [source]:
        return digest(source)
    named = "".join(f"{file.relative_to(source).as_posix()!r} {digest(file)}\n" for file in files)
    return hashlib.sha256(named.encode()).hexdigest()


def _write(folder: Path, texts: Iterable[Text]) -> int:
    ends = [0]
    with (folder / TEXTS).open("wb") as stream:
        for text in texts:
            if text.text:
                line = json.dumps(text, ensure_ascii=False).encode(errors="replace") + b"\n"
                ends.append(ends[-1] + stream.write(line))
    np.save(folder / ENDS, np.asarray(ends, np.int64))
    return len(ends) - 1


def _read(files: list[Path], kind: Kind) -> Iterator[Text]:
    for file in files:
        if kind == "posts":
            yield from map(text_of, read_posts(file))
        elif kind == "json":
            yield from (_of_record(file, number, line) for number, line in _lines(file))
        elif kind == "lines":
            yield from (Text(None, None, line) for _, line in _lines(file))
        else:
            yield from _paragraphs(file)


def _paragraphs(file: Path) -> Iterator[Text]:
    before = 0
    some: list[str] = []
    for number, line in _lines(file):
        if some and number > before + 1:
            yield Text(None, None, " ".join(some))
            some = []
        before = number
        some.append(line)
    if some:
        yield Text(None, None, " ".join(some))


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, by number, one at a time: a corpus may be larger than the memory."""
    with file.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                line = " ".join(raw.decode("utf-8-sig" if number == 1 else "utf-8").split())
            except UnicodeDecodeError as error:
                found = f"the byte 0x{error.object[error.start]:02x}, which is not UTF-8"
                raise DataFormatError(file, number, found, "text in UTF-8") from None
            if line:
                yield number, line


def _of_record(file: Path, number: int, line: str) -> Text:
    record: dict[str, Any] = json_object(file, number, line)
    by_words = "text" not in record or not isinstance(record["text"], str)
    text = " ".join(string_list(file, number, record, "tokens")) if by_words else record["text"]
    id_, image_id = (
        text_field(file, number, record, key) if record.get(key) is not None else None for key in ("id", "image_id")
    )
    return Text(id_, image_id, " ".join(text.split()))
