"""`mner tag`: posts in, entities out; resumable, and no bad post stops or loses the others."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

from mner.errors import DataFormatError, MNERError
from mner.tagger.bulk_input import Given
from mner.tagger.post import Post, Tagged
from mner.tagger.preprocessor import ImageWarning
from mner.tagger.tagger import AHEAD, Tagger

Format = Literal["jsonl", "conll"]
STANDARD = "-"


def run(
    tagger: Tagger, given: Iterable[Given], sink: Sink, advance: Any = lambda count: None, ahead: int = AHEAD
) -> None:
    """Tag what is given and write it, some batches at a time, in order; what the sink holds already is left out."""
    source = iter(given)
    while batch := list(islice(source, tagger.batch_size * ahead)):
        fresh = [fresh for one in batch if (fresh := sink.takes(one)) is not None]
        posts = [one.post for one in fresh if one.post is not None]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImageWarning)  # each is in the output
            tagged = iter(_tagged(tagger, posts, ahead))
        for one in fresh:
            sink.write(one, next(tagged) if one.post is not None else one.error)
        sink.flush()
        advance(len(batch))


def _tagged(tagger: Tagger, posts: Sequence[Post], ahead: int = 1) -> list[Tagged | str]:
    """The entities of each post, or why it could not be tagged."""
    try:
        return list(tagger.stream(posts, ahead=ahead))
    except Exception as error:  # whatever it is, the other posts are to be tagged
        if len(posts) == 1:
            return [f"it could not be tagged: {type(error).__name__}: {error}"]
    return [result for post in posts for result in _tagged(tagger, [post])]


class Sink:
    """The output: what is in it already, and a writer that leaves nothing half-written behind.

    A kill can cut the last line (in CoNLL: the last post); it is removed when the run is resumed.

    Args:
        output: File, or `-` for the standard output, which cannot be resumed.
        format: Of the output.

    Raises:
        DataFormatError: If the file holds something else.
        MNERError: If another process is writing it.
    """

    def __init__(self, output: str, format: Format) -> None:
        self.format = format
        self.done: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.problems: Counter[str] = Counter()
        self._met: Counter[str] = Counter()
        self._files = ExitStack()
        self._errors: BinaryIO | None = None
        if output == STANDARD:
            self._out: BinaryIO = sys.stdout.buffer
            return
        path = Path(output)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._out = self._open(path)
        if format == "conll":
            self._errors = self._open(path.with_name(f"{path.name}.errors.jsonl"))
            self.done |= _conll_ids(self._out, path) | _json_keys(self._errors, Path(self._errors.name))
        else:
            self.done |= _json_keys(self._out, path)
        self.counts["before"] = len(self.done)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.close()

    def takes(self, given: Given) -> Given | None:
        """A post that has yet to be written, as it is to be written; None if it has been."""
        self._met[given.key] += 1
        times = self._met[given.key]
        if times > 1:
            # A second post of one id is an error; equal lines that cannot be read are several errors.
            error = given.error or f"the id {given.id!r} again; expected each id once"
            given = replace(given, key=f"again {times}: {given.key}", post=None, error=error)
        return None if given.key in self.done else given

    def write(self, given: Given, result: Tagged | str) -> None:
        """Write a post with its entities, or with what is wrong with it."""
        error = result if isinstance(result, str) else ""
        if isinstance(result, Tagged):
            problem = given.image_problem or result.image_problem
            text = _conll(given, result) if self.format == "conll" else _json(given, result, problem)
            if text:
                self.problems.update([problem] if problem else [])
                self.counts["tagged"] += 1
                self._out.write(text.encode())
                return
            error = "it has no words" if not result.words else "a tab or line break in it, which CoNLL cannot hold"
        self.counts["bad"] += 1
        record = {"id": given.id, "number": given.number, "key": given.key, "error": error}
        line = json.dumps(record, ensure_ascii=False).encode(errors="replace") + b"\n"
        if self.format == "conll" and self._errors is None:
            sys.stderr.write(line.decode())
        else:
            (self._errors or self._out).write(line)

    def flush(self) -> None:
        """Hand everything to the system."""
        for file in (self._out, self._errors):
            if file is not None:
                file.flush()

    def report(self) -> str:
        """What was done, for the user."""
        lines = [f"{self.counts['tagged']} posts tagged"]
        if self.counts["before"]:
            lines[0] += f", {self.counts['before']} were there before"
        if self.counts["bad"]:
            lines.append(f"{self.counts['bad']} posts could not be tagged; the output has them with their `error`")
        if self.problems.total():
            reasons = ", ".join(f"{reason}: {count}" for reason, count in self.problems.most_common(5))
            lines.append(f"{self.problems.total()} images were not used ({reasons})")
        return "\n".join(lines)

    def _open(self, path: Path) -> BinaryIO:
        file = self._files.enter_context(path.open("a+b"))
        try:
            import fcntl
        except ImportError:  # Windows has no such lock
            return file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it however the process ends
        except BlockingIOError:
            self._files.close()
            raise MNERError(f"Another process is writing to {path}; wait for it, or name another file") from None
        return file


def _json(given: Given, found: Tagged, problem: str) -> str:
    record: dict[str, Any] = {
        "id": given.id,
        "text": found.text,
        "words": [word.text for word in found.words],
        "tags": found.tags,
        "entities": [asdict(entity) for entity in found],
        "has_image": found.has_image,
    }
    if problem:
        record["image_problem"] = problem
    if any(found.context):
        record["context"] = found.context
    return json.dumps(record, ensure_ascii=False) + "\n"


def _conll(given: Given, found: Tagged) -> str:
    """The post as a block; "" where the format cannot hold it."""
    fields = [str(given.id), *(word.text for word in found.words)]
    if not found.words or any("\t" in field or "\n" in field or "\r" in field for field in fields):
        return ""
    rows = (f"{word.text}\t{tag}\n" for word, tag in zip(found.words, found.tags, strict=True))
    return "".join([f"IMGID:{given.id}\n", *rows, "\n"])


def _json_keys(file: BinaryIO, path: Path) -> set[str]:
    """Keys of the posts in a file of ours; a last line that was cut is removed."""
    done = set()
    for number, line in _whole(file, path, start=b'{"id": ', end=b"\n"):
        try:
            record = json.loads(line)
            done.add(record["key"] if "error" in record else f"id {record['id']}")
        except (ValueError, KeyError, TypeError):
            raise _foreign(path, number, line) from None
    return done


def _conll_ids(file: BinaryIO, path: Path) -> set[str]:
    """Keys of the posts in a CoNLL file of ours; a last post that was cut is removed."""
    heads = (block.partition(b"\n")[0] for _, block in _whole(file, path, start=b"IMGID:", end=b"\n\n"))
    return {f"id {head.removeprefix(b'IMGID:').decode(errors='replace')}" for head in heads}


def _whole(file: BinaryIO, path: Path, start: bytes, end: bytes) -> Iterator[tuple[int, bytes]]:
    """The parts of a file with the number of their first line, each opened by `start` and closed by `end`.

    What stands behind the last one is cut off, if it is the beginning of one: else the file is not ours.
    """
    file.seek(0)
    kept, begin, part = 0, 1, b""
    for number, line in enumerate(file, start=1):
        part += line
        if part.endswith(end):
            if not part.startswith(start):
                raise _foreign(path, begin, part)
            yield begin, part.removesuffix(end)
            kept, begin, part = kept + len(part), number + 1, b""
    if part:
        if not (part.startswith(start) or start.startswith(part)):
            raise _foreign(path, begin, part)
        file.truncate(kept)
    file.seek(0, os.SEEK_END)


def _foreign(path: Path, line: int, found: bytes) -> DataFormatError:
    return DataFormatError(path, line, repr(found[:80]), "what `mner tag` wrote", "Name another file.")
