"""Prediction files: JSON lines with a header that says what made them; CoNLL output of other systems is read too."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from mner.data.examples import Example, fingerprint
from mner.data.formats.conll import IMGID, is_id_line, post_blocks
from mner.data.formats.lines import (
    UniqueIds,
    check_tag,
    json_object,
    json_type,
    read_lines,
    shown,
    string_list,
    text_field,
)
from mner.data.formats.schemes import SchemeOf
from mner.errors import DataFormatError, DataNotFoundError
from mner.files import STANDARD, refuse_foreign, whole, write_text
from mner.labels import spans

FORMAT = 1
"""Version of the format, the value of `mner_predictions` in the header."""
MARK = '{"mner_predictions": '
"""How a prediction file begins."""


class ScoredSpan(NamedTuple):
    """A predicted entity over words `start` up to, not including, `end`.

    `score` is the probability of the whole span; None where a file does not tell.
    """

    start: int
    end: int
    type: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was predicted for one post.

    Attributes:
        id: The post's id.
        image_id: Its image's id, or None.
        words: The words.
        gold: One gold tag a word, or None where gold is unknown.
        pred: One predicted tag a word.
        entities: The predicted entities, with their scores.
        has_image: Whether the model saw an image; None where a file does not tell.
    """

    id: str
    image_id: str | None
    words: tuple[str, ...]
    gold: tuple[str, ...] | None
    pred: tuple[str, ...]
    entities: tuple[ScoredSpan, ...] = ()
    has_image: bool | None = None

    def to(self, *args: Any, **kwargs: Any) -> Prediction:
        """Itself: nothing is to be moved. Lightning moves what `predict_step` returns, and asks this of it."""
        return self


@dataclass(frozen=True, slots=True)
class Predictions:
    """A prediction file.

    Attributes:
        header: What made it; see `prediction_header`.
        posts: The posts, in file order.
    """

    header: dict[str, Any]
    posts: list[Prediction]


def prediction_header(
    *,
    model: str,
    split: str,
    data: str,
    fingerprint: str | None,
    labels: Sequence[str],
    checkpoint: str | None = None,
    seed: int | None = None,
    context: Sequence[str] = (),
) -> dict[str, Any]:
    """The header of a prediction file, with the versions in use.

    Args:
        model: Class path of the model.
        split: Which split, or what else was predicted.
        data: Name of the data module.
        fingerprint: Of the split's labels, or None without gold.
        labels: The label list.
        checkpoint: Where the weights are from.
        seed: Of the training run.
        context: Names of the context sources.
    """
    import torch

    import mner

    return {
        "mner_predictions": FORMAT,
        "model": model,
        "checkpoint": checkpoint,
        "split": split,
        "data": data,
        "fingerprint": fingerprint,
        "labels": list(labels),
        "seed": seed,
        "versions": {"mner": mner.__version__, "torch": str(torch.__version__)},
        "context": list(context),
    }


def write_predictions(path: str | PathLike[str], header: Mapping[str, Any], posts: Iterable[Prediction] = ()) -> None:
    """Write a prediction file; `-` is the standard output. A prediction file that is there is replaced.

    Raises:
        DataFormatError: If there is another file.
        ValueError: If the header is not one of this format, or a post contradicts itself.
    """
    if header.get("mner_predictions") != FORMAT:
        raise ValueError(
            f"Expected a header with mner_predictions={FORMAT}, but got {header.get('mner_predictions')!r}; "
            "`prediction_header` makes one"
        )
    first = json.dumps({"mner_predictions": FORMAT, **header}, ensure_ascii=False) + "\n"
    if os.fspath(path) == STANDARD:
        write_text(path, first + "".join(map(_line, posts)), MARK)
        return
    refuse_foreign(path, MARK)
    with whole(path) as file:
        file.write(first.encode())
        for post in posts:
            file.write(_line(post).encode())


def append_predictions(path: str | PathLike[str], posts: Iterable[Prediction]) -> None:
    """Add posts to a prediction file that `write_predictions` began.

    Raises:
        DataNotFoundError: If there is none.
        DataFormatError: If it is another file.
        ValueError: If a post contradicts itself.
    """
    if not Path(path).is_file() or not Path(path).stat().st_size:
        raise DataNotFoundError(f"Expected a prediction file at {os.fspath(path)}; `write_predictions` begins one")
    refuse_foreign(path, MARK)
    lines = [_line(post) for post in posts]  # all of them, or none where one contradicts itself
    with open(path, "a", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)


def _line(post: Prediction) -> str:
    fault = _fault(post)
    if fault:
        raise ValueError(f"Expected a prediction for each word, but post {post.id!r} has {fault}")
    record = {
        "id": post.id,
        "image_id": post.image_id,
        "words": post.words,
        "gold": post.gold,
        "pred": post.pred,
        "entities": [entity._asdict() for entity in post.entities],
        "has_image": post.has_image,
    }
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def read_predictions(path: str | PathLike[str]) -> Predictions:
    """Read a prediction file of ours, or CoNLL output.

    CoNLL output has a line `token gold pred`, or `token pred`, for each word, in columns separated by tabs or else by
    spaces, a blank line between posts, and before each post perhaps a line `IMGID:<id>`. Without ids the posts are
    numbered from 1. Tags of another scheme become IOB2. Its entities are the lenient ones, without scores; its header
    has `format`, the tags' `scheme` and, where ids and gold are known, the `fingerprint`.

    Raises:
        DataNotFoundError: If there is no such file.
        DataFormatError: If it is malformed; with the line.
    """
    lines = read_lines(path)
    first = next(line for line in lines if line)
    # "{" alone may be the first word of CoNLL output.
    posts = _read_json(path, lines) if re.match(r'\{\s*"', first) else _read_columns(path, lines)
    if not posts.posts:
        advice = "Was the prediction interrupted?"
        raise DataFormatError(path, len(lines), "a header without posts", "at least one post", advice)
    return posts


def _read_json(path: str | PathLike[str], lines: list[str]) -> Predictions:
    header: dict[str, Any] | None = None
    ids = UniqueIds(path)
    known: set[str] = set()
    posts = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        record = json_object(path, number, line)
        if header is None:
            header = _checked_header(path, number, record)
            labels = header.get("labels")
            continue
        post = _post(path, number, record, known)
        ids.add(post.id, number)
        strange = sorted(set(post.pred) - set(labels)) if labels is not None else []
        if strange:
            raise DataFormatError(path, number, f"predicted tags {strange}", f"the header's labels {labels}")
        posts.append(post)
    return Predictions(header or {}, posts)


def _checked_header(path: str | PathLike[str], number: int, header: dict[str, Any]) -> dict[str, Any]:
    version = header.get("mner_predictions")
    if version is None:
        found = f"a first line without 'mner_predictions' (the keys are {sorted(header)})"
        advice = "A file of posts is no prediction file; `mner predict` writes one."
        raise DataFormatError(path, number, found, "the header of a prediction file", advice)
    if version != FORMAT:
        advice = "Read it with the version of mner that wrote it, or write it again."
        raise DataFormatError(path, number, f"format {version!r}", f"format {FORMAT}", advice)
    if header.get("labels") is not None:
        string_list(path, number, header, "labels")
    if header.get("fingerprint") is not None:
        text_field(path, number, header, "fingerprint")
    return header


def _post(path: str | PathLike[str], number: int, record: dict[str, Any], known: set[str]) -> Prediction:
    gold = None if record.get("gold") is None else string_list(path, number, record, "gold")
    has_image = record.get("has_image")
    if has_image is not None and not isinstance(has_image, bool):
        raise DataFormatError(path, number, f"{json_type(has_image)} as 'has_image'", "true or false")
    post = Prediction(
        id=text_field(path, number, record, "id"),
        image_id=None if record.get("image_id") is None else text_field(path, number, record, "image_id"),
        words=string_list(path, number, record, "words"),
        gold=gold,
        pred=string_list(path, number, record, "pred"),
        entities=_entities(path, number, record.get("entities", [])),
        has_image=has_image,
    )
    for tag in (*post.pred, *(gold or ())):
        check_tag(path, number, tag, known)
    fault = _fault(post)
    if fault:
        raise DataFormatError(path, number, f"{fault} in post {post.id!r}", "one gold and one predicted tag a word")
    return post


def _entities(path: str | PathLike[str], number: int, value: object) -> tuple[ScoredSpan, ...]:
    expected = '{"start", "end", "type", "score"}, the score from 0 to 1 or null'
    if not isinstance(value, list):
        raise DataFormatError(path, number, f"{json_type(value)} as 'entities'", f"a list of {expected}")
    found = []
    for entity in value:
        try:
            start, end, type_, score = (entity[key] for key in ScoredSpan._fields)
            good = type(start) is int and type(end) is int and isinstance(type_, str)
            good = good and (score is None or (type(score) in (int, float) and 0 <= score <= 1))
        except (KeyError, TypeError):
            good = False
        if not good:
            raise DataFormatError(path, number, f"the entity {_written(entity)}", expected)
        found.append(ScoredSpan(start, end, type_, score))
    return tuple(found)


def _written(entity: object) -> str:
    try:
        return shown(json.dumps(entity))
    except RecursionError:  # writing goes a little deeper than reading
        return json_type(entity)


def _fault(post: Prediction) -> str:
    """What contradicts itself in a post; "" where nothing does."""
    words = len(post.words)
    if not words:
        return "no words"
    if len(post.pred) != words:
        return f"{words} words and {len(post.pred)} predicted tags"
    if post.gold is not None and len(post.gold) != words:
        return f"{words} words and {len(post.gold)} gold tags"
    outside = [entity for entity in post.entities if not 0 <= entity.start < entity.end <= words]
    return f"an entity at {outside[0].start}..{outside[0].end} of {words} words" if outside else ""


def _read_columns(path: str | PathLike[str], lines: list[str]) -> Predictions:
    blocks = list(post_blocks(lines))
    with_ids = any(is_id_line(block[0][1]) for block in blocks)
    ids = UniqueIds(path)
    scheme = SchemeOf(path)
    width: int | None = None
    read = []
    for position, block in enumerate(blocks, start=1):
        number, line = block[0]
        id_ = str(position)
        if with_ids:
            id_ = line.removeprefix(IMGID).strip(" ")
            if not is_id_line(line) or not id_:
                raise DataFormatError(path, number, shown(line), f"'{IMGID}<id>', since other posts have an id")
            ids.add(id_, number)
            block = block[1:]
        if not block:
            raise DataFormatError(path, number, f"post {id_!r} without words", "at least one word")
        rows = []
        for number, line in block:
            row = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
            width = width or len(row)
            if len(row) != width or width not in (2, 3) or not row[0]:
                expected = "the columns 'token gold pred' or 'token pred', as many in every line"
                raise DataFormatError(path, number, f"{len(row)} columns in {shown(line)}", expected)
            for tag in row[1:]:
                scheme.check(number, tag)
            rows.append(row)
        read.append((id_, list(zip(*rows, strict=True))))
    # One scheme for both columns: predictions with nothing but stray I- beside gold in IOB2 are not IOB1.
    name, converted = scheme.convert(tags for _, columns in read for tags in columns[1:])
    posts = []
    step = (width or 2) - 1
    for number, (id_, columns) in enumerate(read):
        tags = converted[number * step : (number + 1) * step]
        gold, pred = tags[0] if width == 3 else None, tags[-1] or ()
        entities = tuple(ScoredSpan(*span) for span in spans(pred))
        posts.append(Prediction(id_, id_ if with_ids else None, columns[0], gold, pred, entities))
    header: dict[str, Any] = {"format": "conll", "scheme": name, "fingerprint": None}
    if with_ids and width == 3:
        header["fingerprint"] = fingerprint(Example(post.id, post.image_id, post.words, post.gold) for post in posts)
    return Predictions(header, posts)
