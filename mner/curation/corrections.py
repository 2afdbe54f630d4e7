"""Corrections of labels: decided in a table, written as a corrected copy and as a patch that holds no text."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from mner.data.convert import refuse_taken, say_losses, write_as
from mner.data.examples import Example, Posts, fingerprint
from mner.data.formats.lines import Source
from mner.data.formats.posts import format_named, read_posts
from mner.data.formats.records import Reading
from mner.errors import DataFormatError, MNERError
from mner.files import STANDARD, refuse_foreign, refuse_inputs, write_text
from mner.labels import Span, check_types, spans, tags_of

PATCH_MARK = '"mner_patch"'
COLUMNS = ("decision", "post", "start", "end", "type", "new_start", "new_end", "new_type")
"""What a table of corrections needs; further columns are for whoever reads it."""
YES = ("yes", "y", "x", "1", "true", "accept")
NO = ("no", "n", "0", "false", "keep", "reject")


class Change(NamedTuple):
    """The spans of a post before and after."""

    post: str
    before: tuple[Span, ...]
    after: tuple[Span, ...]


@dataclass
class Patch:
    """Corrections of a data set, without its texts.

    Attributes:
        fingerprint: Of the ids and tags of the posts that it corrects (`mner data stats`).
        words: Digest of their words, to which the offsets belong.
        corrected: Fingerprint of the corrected posts.
        changes: The posts that change.
    """

    fingerprint: str
    words: str
    corrected: str
    changes: list[Change]


class Row(NamedTuple):
    """A decided row of the table: a label to take away, if there is one, and one to put, if there is one."""

    line: int
    post: str
    label: Span | None
    new: Span | None


def patch_of(posts: Sequence[Example], changes: Iterable[Change]) -> Patch:
    """The patch that makes these changes."""
    some = [change for change in changes if change.before != change.after]
    corrected = _changed(posts, {change.post: change for change in some})
    return Patch(fingerprint(posts), words_digest(posts), fingerprint(corrected), some)


def apply_patch(posts: Sequence[Example], patch: Patch, place: object = "the patch") -> list[Example]:
    """The corrected posts; those that do not change stay as they are.

    Args:
        posts: The posts that the patch was made for.
        patch: The patch.
        place: What messages call it.

    Raises:
        DataFormatError: If the posts are others, or corrected already.
    """
    found = fingerprint(posts)
    if found == patch.corrected != patch.fingerprint:
        raise DataFormatError(place, None, f"posts that it has corrected already ({found})", patch.fingerprint)
    if found != patch.fingerprint:
        advice = "The posts, their ids (those of posts without any count from the file's name) or labels are others."
        raise DataFormatError(place, None, f"posts with fingerprint {found}", patch.fingerprint, advice)
    if words_digest(posts) != patch.words:
        advice = "Offsets count words: read the posts with the same --reading.words."
        raise DataFormatError(place, None, "posts with these ids and labels, but other words", "the same words", advice)
    return _changed(posts, {change.post: change for change in patch.changes}, place)


def _changed(
    posts: Sequence[Example], changes: Mapping[str, Change], place: object = "the corrections"
) -> list[Example]:
    corrected = []
    for post in posts:
        change = changes.get(post.id)
        if change is None:
            corrected.append(post)
            continue
        if tuple(spans(post.tags or ())) != change.before:
            raise DataFormatError(place, None, f"other labels in post {post.id!r}", f"{list(change.before)}")
        try:
            tags = tags_of(change.after, len(post.words))
        except ValueError as error:
            raise DataFormatError(place, None, f"labels of post {post.id!r} ({error})", "spans within it") from None
        corrected.append(replace(post, tags=tuple(tags)))
    return corrected


def words_digest(posts: Iterable[Example]) -> str:
    """The first 16 hexadecimal digits of SHA-256 over all words, from which none of them can be had."""
    digest = hashlib.sha256()
    for post in posts:
        digest.update(json.dumps(post.words).encode() + b"\n")
    return digest.hexdigest()[:16]


# The patch as a file


def patch_text(patch: Patch) -> str:
    """The patch as JSON: ids, offsets in words and types, no text."""
    head = {"mner_patch": 1, "fingerprint": patch.fingerprint, "words": patch.words, "corrected": patch.corrected}
    lines = [
        json.dumps({"post": change.post, "before": change.before, "after": change.after}, ensure_ascii=False)
        for change in patch.changes
    ]
    return json.dumps(head)[:-1] + ', "changes": [\n' + ",\n".join(lines) + "\n]}\n"


def read_patch(path: Path) -> Patch:
    """Read a patch.

    Raises:
        DataFormatError: If it is none, or of a later version.
    """
    expected = "a patch that `mner data apply` wrote"
    try:
        value: dict[str, Any] = json.loads(b"".join(Source(path).raw.splitlines()))
        if value["mner_patch"] != 1:
            raise DataFormatError(path, None, f"a patch of version {value['mner_patch']!r}", "version 1")
        first, words, corrected = (str(value[name]) for name in ("fingerprint", "words", "corrected"))
        changes = [Change(str(one["post"]), _spans(one["before"]), _spans(one["after"])) for one in value["changes"]]
    except DataFormatError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataFormatError(path, None, f"something else ({error!r})", expected) from None
    return Patch(first, words, corrected, changes)


def _spans(values: Any) -> tuple[Span, ...]:
    return tuple(Span(int(start), int(end), str(type_)) for start, end, type_ in values)


# The table


def read_decisions(path: Path, posts: Sequence[Example]) -> list[Change]:
    """What a table says: `yes` in `decision` takes the new span in place of the label, `no` keeps it, empty does too.

    The columns `new_start`, `new_end`, `new_type` may be edited; all empty, there is no entity. Commas, semicolons and
    tabs are read, as spreadsheets write them.

    Raises:
        DataFormatError: For a column that is missing, another decision, a post or label that is not there, a span that
            is not within its post or meets another label; with the line.
    """
    of_post = {post.id: post for post in posts}
    rows: dict[str, list[Row]] = {}
    for row in _rows(path):
        post = of_post.get(row.post)
        if post is None or post.tags is None:
            raise DataFormatError(path, row.line, f"post {row.post!r}", "posts with labels of the given file")
        if row.new is not None and row.new.end > len(post.words):
            found = f"a span of words {row.new.start}..{row.new.end} in a post of {len(post.words)} words"
            raise DataFormatError(path, row.line, found, "a span within the post")
        rows.setdefault(row.post, []).append(row)
    return [_change(path, of_post[id_], some) for id_, some in rows.items()]


def _change(path: Path, post: Example, rows: Sequence[Row]) -> Change:
    before = spans(post.tags or ())
    left = list(before)
    for row in rows:
        if row.label is not None:
            if row.label not in left:
                found = f"a label {row.label.type} at {row.label.start}..{row.label.end} of post {post.id!r}"
                raise DataFormatError(path, row.line, found, "a label that the given posts have, once")
            left.remove(row.label)
    put: dict[Span, int] = {}
    for row in rows:
        if row.new is None or row.new in put:
            continue
        other = next((one for one in (*left, *put) if one.start < row.new.end and row.new.start < one.end), None)
        if other is not None:
            found = f"{row.new.type} at {row.new.start}..{row.new.end} of post {post.id!r}, which meets "
            found += f"{other.type} at {other.start}..{other.end}"
            raise DataFormatError(path, row.line, found, "labels apart", "Decide on the other one too, or edit this.")
        put[row.new] = row.line
    return Change(post.id, tuple(before), tuple(sorted((*left, *put))))


def _rows(path: Path) -> Iterable[Row]:
    try:
        text = Source(path).raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        advice = "Save it as CSV UTF-8."
        raise DataFormatError(path, None, f"bytes that are no UTF-8 ({error.reason})", "UTF-8", advice) from None
    head = text.partition("\n")[0]
    reader = csv.DictReader(StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True)
    if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
        raise DataFormatError(path, 1, f"no column {missing[0]!r}", f"the columns {', '.join(COLUMNS)}")
    try:
        for values in reader:
            row = _row(path, reader.line_num, {name: (values[name] or "").strip() for name in COLUMNS})
            if row is not None:
                yield row
    except csv.Error as error:
        raise DataFormatError(path, reader.line_num, f"no CSV ({error})", "a row of CSV") from None


def _row(path: Path, line: int, cells: Mapping[str, str]) -> Row | None:
    decision = cells["decision"].lower()
    if decision in ("", *NO):
        return None
    if decision not in YES:
        raise DataFormatError(path, line, f"the decision {cells['decision']!r}", "yes, no, or nothing")
    label = _span(path, line, cells["start"], cells["end"], cells["type"])
    new = _span(path, line, cells["new_start"], cells["new_end"], cells["new_type"])
    return Row(line, cells["post"], label, new)


def _span(path: Path, line: int, start: str, end: str, type_: str) -> Span | None:
    if not (start or end or type_):
        return None
    try:
        found = Span(int(start), int(end), type_)
        check_types([type_])
        if not type_ or " " in type_ or not 0 <= found.start < found.end:
            raise ValueError
    except ValueError:
        expected = "numbers of words, the end not included, and a type; or all three empty"
        raise DataFormatError(path, line, f"a span {start!r}, {end!r}, {type_!r}", expected) from None
    return found


# The command


def apply(
    posts: Path,
    edited: Path,
    out: Path | None = None,
    patch: Path | None = None,
    format: str | None = None,
    reading: Reading | None = None,
) -> int:
    """Write a corrected copy of posts, and the corrections as a patch that holds no text and can be published.

    Args:
        posts: The file of posts.
        edited: The table of `mner data doubts` with decisions in it, or a patch that was made of these posts.
        out: The corrected copy, a new file, in the format of the posts; `-` is the standard output.
        patch: The patch; by default OUT.patch.json. Not written where `edited` is one.
        format: The format of the posts; by default found by suffix and content.
        reading: How the posts are read where they leave a choice.

    Returns:
        Exit code 0.
    """
    if out is None:
        raise MNERError("Expected --out, the file that the corrected copy is to be written to, but got none")
    refuse_inputs(out, [posts, edited])
    given = read_posts(posts, format, reading=reading)
    name = format_of(given, posts)
    refuse_taken(out)
    is_patch = PATCH_MARK.encode() in Source(edited).raw[:200]
    found = read_patch(edited) if is_patch else patch_of(given, read_decisions(edited, given))
    corrected = apply_patch(given, found, edited)
    told = sys.stderr if str(out) == STANDARD else sys.stdout
    if told is sys.stderr and patch is None and not is_patch:
        raise MNERError("Expected --patch, a file, since the copy goes to the standard output, but got none")
    target = patch or out.with_name(f"{out.name}.patch.json")
    if not is_patch:
        refuse_foreign(target, PATCH_MARK, [posts, edited, out])
    say_losses(name, {"posts": corrected}, told)
    write_as(out, corrected, name, given.scheme)  # type: ignore[arg-type]  # a scheme that was read
    before = sum(len(change.before) for change in found.changes)
    after = sum(len(change.after) for change in found.changes)
    kept = sum(len(set(change.before) & set(change.after)) for change in found.changes)
    labels = f"{before - kept:,} labels out, {after - kept:,} in"
    print(f"{len(found.changes):,} of {len(given):,} posts corrected: {labels}", file=told)
    print(f"Fingerprint: {found.fingerprint} before, {found.corrected} corrected", file=told)
    print(f"Written to {out}, as {name}", file=told)
    if not is_patch:
        write_text(target, patch_text(found), PATCH_MARK, [posts, edited])
        print(f"Patch, without texts: {target}", file=told)
    return 0


def format_of(posts: Posts, path: Path) -> str:
    """The format that a copy of posts is written in: their own.

    Raises:
        MNERError: If it is one that is not written.
    """
    name = posts.format or "json_lines"
    try:
        format_named(name)
    except MNERError as error:
        advice = "convert it first with `mner data convert`"
        raise MNERError(f"{path} is in a format that is only read ({error}); {advice}") from None
    return name
