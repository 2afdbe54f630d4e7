"""`mner tag`: posts in, entities out; resumable, and no bad post stops or loses the others."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

from mner.files import STANDARD, Place, foreign
from mner.growing_file import Growing
from mner.tagger.bulk_input import Given
from mner.tagger.post import Post, Tagged
from mner.tagger.preprocessor import ImageWarning
from mner.tagger.tagger import AHEAD, Tagger

log = logging.getLogger(__name__)
Format = Literal["jsonl", "conll"]
OURS = (
    *("id", "number", "text", "words", "tags", "entities", "has_image", "image_problem", "context"),
    *("key", "error", "given", "source_file"),
)
"""Keys of the output that are mner's own."""
_MADE_UP = re.compile(r"line [0-9]+")  # what CoNLL calls a post without an id, and what no given id may be there


def run(
    tagger: Tagger, given: Iterable[Given], sink: Sink, advance: Any = lambda count: None, ahead: int = AHEAD
) -> None:
    """Tag what is given and write it, some batches at a time, in order; what the sink holds already is left out."""
    source, told = iter(given), set[Any]()
    while batch := list(islice(source, tagger.batch_size * ahead)):
        fresh = [fresh for one in batch if (fresh := sink.takes(one)) is not None]
        posts = [one.post for one in fresh if one.post is not None]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImageWarning)  # each is in the output
            tagged = iter(_tagged(tagger, posts, told, ahead))
        for one in fresh:
            sink.write(one, next(tagged) if one.post is not None else one.error)
        sink.flush()
        advance(len(batch))


def _tagged(tagger: Tagger, posts: Sequence[Post], told: set[Any], ahead: int = 1) -> list[Tagged | str]:
    """The entities of each post, or why it could not be tagged; `told` is which faults were told already."""
    try:
        return list(tagger.stream(posts, ahead=ahead))
    except Exception as error:  # whatever it is, the other posts are to be tagged
        if len(posts) == 1:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            kind = (type(error), frame.filename, frame.lineno)
            if kind not in told:  # a fault may be mner's own: its traceback is told, once
                told.add(kind)
                lines = "".join(traceback.format_exception(error)).encode(errors="backslashreplace").decode()
                log.error("A post could not be tagged; the output has it with its error\n%s", lines)
            return [f"it could not be tagged: {type(error).__name__}: {error}"]
    return [result for post in posts for result in _tagged(tagger, [post], told)]


class Sink:
    """The output: what is in it already, and a writer that leaves nothing half-written behind.

    A kill can cut the last line (in CoNLL: the last post); it is removed when the run is resumed.

    Args:
        output: File, or `-` for the standard output, which cannot be resumed.
        format: Of the output.
        facts: Input, model and options, with which alone it goes on.
        inputs: Files and folders that are read.

    Raises:
        DataFormatError: If the file holds something else, or was begun with other facts.
        BusyError: If another process is writing it.
    """

    def __init__(
        self, output: str, format: Format, facts: Mapping[str, Any] | None = None, inputs: Iterable[Place] = ()
    ) -> None:
        self.format = format
        self.done: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.problems: Counter[str] = Counter()
        self._met: Counter[str] = Counter()
        self.clashes: Counter[str] = Counter()
        self.homeless: Counter[str] = Counter()  # fields that CoNLL has no place for
        self._growing: Growing | None = None
        if output == STANDARD:
            return
        self._path = Path(output)
        self._errors = self._path.with_name(f"{self._path.name}.errors.jsonl") if format == "conll" else self._path
        beside = [self._errors] if format == "conll" else []
        self._growing = Growing(self._path, {"format": format, **(facts or {})}, inputs, beside)
        try:
            if self._path.is_file():  # no device
                keys = _conll_ids if format == "conll" else _json_keys
                self.done |= keys(self._growing.files[self._path], self._path)
                if format == "conll":
                    self.done |= _json_keys(self._growing.files[self._errors], self._errors)
        except BaseException:
            self._growing.close()
            raise
        self.counts["before"] = len(self.done)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._growing is not None:
            self._growing.close()

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
            error = _unfit(given, result) if self.format == "conll" else ""
            if not error:
                self.problems.update([problem] if problem else [])
                self.counts["tagged"] += 1
                self.counts["left out"] += len(result.left_out)
                if self.format == "conll":
                    self.homeless.update(key for key, value in given.own.items() if str(value) != given.id)
                self._write(_conll(given, result) if self.format == "conll" else self._json(given, result, problem))
                return
        self.counts["bad"] += 1
        record = {"id": given.id, **_source(given), "number": given.number, "key": given.key, "error": error}
        self._write(self._with_own(record, given), error=True)

    def flush(self) -> None:
        """Hand everything to the system."""
        if self._growing is None:
            sys.stdout.buffer.flush()
        else:
            self._growing.flush()

    def _write(self, text: str, error: bool = False) -> None:
        data = text.encode(errors="replace")
        if self._growing is not None:
            self._growing.write(self._errors if error else self._path, data)
        elif error and self.format == "conll":
            sys.stderr.write(data.decode())
        else:
            sys.stdout.buffer.write(data)

    def _json(self, given: Given, found: Tagged, problem: str) -> str:
        record: dict[str, Any] = {
            "id": given.id,
            **_source(given),
            **({"number": given.number} if given.id is None else {}),
            "text": found.text,
            "words": [word.text for word in found.words],
            "tags": found.tags,
            "entities": [entity.record() for entity in found],
            "has_image": found.has_image,
        }
        if problem:
            record["image_problem"] = problem
        if any(found.context):
            record["context"] = found.context
        return self._with_own(record, given)

    def _with_own(self, record: dict[str, Any], given: Given) -> str:
        """The line of a record with the post's own fields; those named as ours are kept under `given`."""
        own = {key: value for key, value in given.own.items() if key not in OURS}
        clashing = {key: value for key, value in given.own.items() if key in OURS}
        self.clashes.update(clashing.keys())
        return json.dumps({**record, **own, **({"given": clashing} if clashing else {})}, ensure_ascii=False) + "\n"

    def report(self) -> str:
        """What was done, for the user."""
        lines = [f"{self.counts['tagged']} posts tagged"]
        if self.counts["before"]:
            lines[0] += f", {self.counts['before']} were there before"
        if self.counts["bad"]:
            lines.append(f"{self.counts['bad']} posts could not be tagged; the output has them with their `error`")
        if self.counts["left out"]:
            lines.append(f"{self.counts['left out']} entities were left out, whose score is below --min_score")
        if self.clashes:
            named = ", ".join(f"{key} {count}" for key, count in self.clashes.most_common(5))
            lines.append(f"posts had fields that are named as mner's; they are kept under 'given' ({named})")
        if self.homeless:
            named = ", ".join(f"{key} {count}" for key, count in self.homeless.most_common(5))
            lines.append(f"CoNLL holds a post's id, words and tags, and not what else posts had ({named}); jsonl does")
        if self.problems.total():
            reasons = ", ".join(f"{reason}: {count}" for reason, count in self.problems.most_common(5))
            lines.append(f"{self.problems.total()} images were not used ({reasons})")
        return "\n".join(lines)


def _source(given: Given) -> dict[str, str]:
    """The file that a post is from, where there are several."""
    return {"source_file": given.source} if given.source else {}


def _unfit(given: Given, found: Tagged) -> str:
    """Why CoNLL cannot hold a post; "" where it can."""
    fields = [str(given.id), *(word.text for word in found.words)]
    if not found.words:
        return "it has no words"
    if any("\t" in field or "\n" in field or "\r" in field for field in fields):
        return "a tab or line break in it, which CoNLL cannot hold"
    if given.id is not None and _MADE_UP.fullmatch(given.id):
        return f"the id {given.id!r}, which CoNLL would take for that of a post without one"
    return ""


def _conll(given: Given, found: Tagged) -> str:
    rows = (f"{word.text}\t{tag}\n" for word, tag in zip(found.words, found.tags, strict=True))
    return "".join([f"IMGID:{f'line {given.number}' if given.id is None else given.id}\n", *rows, "\n"])


def _json_keys(file: BinaryIO, path: Path) -> set[str]:
    """Keys of the posts in a file of ours; a last line that was cut is removed."""
    done = set()
    for number, line in _whole(file, path, start=b'{"id": ', end=b"\n"):
        try:
            record = json.loads(line)
            named = f"line {record['number']}" if record["id"] is None and "key" not in record else f"id {record['id']}"
            named = f"{record['source_file']}: {named}" if "source_file" in record else named
            done.add(record["key"] if "error" in record else named)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise foreign(path, number, repr(line[:80])) from None
    return done


def _conll_ids(file: BinaryIO, path: Path) -> set[str]:
    """Keys of the posts in a CoNLL file of ours; a last post that was cut is removed."""
    heads = (block.partition(b"\n")[0] for _, block in _whole(file, path, start=b"IMGID:", end=b"\n\n"))
    ids = (head.removeprefix(b"IMGID:").decode(errors="replace") for head in heads)
    return {id_ if _MADE_UP.fullmatch(id_) else f"id {id_}" for id_ in ids}


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
                raise foreign(path, begin, repr(part[:80]))
            yield begin, part.removesuffix(end)
            kept, begin, part = kept + len(part), number + 1, b""
    if part:
        if not (part.startswith(start) or start.startswith(part)):
            raise foreign(path, begin, repr(part[:80]))
        file.truncate(kept)
    file.seek(0, os.SEEK_END)
