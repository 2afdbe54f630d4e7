"""Posts in the columns of Hugging Face data sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from sys import intern
from typing import Any

from mner.data.examples import Example, Posts
from mner.data.formats.context import Texts
from mner.data.formats.lines import json_type, shown
from mner.data.formats.schemes import SchemeOf, split_any_tag
from mner.data.huggingface.tables import Table, import_datasets, inner_of, is_string, type_fault


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column holds what; None for what a data set does not have.

    Attributes:
        tokens: The words, a list of strings.
        tags: A tag for each word: a list of strings, or of numbers.
        id: The post's id.
        image_id: The image's id.
    """

    tokens: str = "tokens"
    tags: str | None = "ner_tags"
    id: str | None = "id"
    image_id: str | None = "image_id"


def tag_names(table: Table, columns: Columns, given: Sequence[str] | None) -> list[str] | None:
    """The names of numbered tags, in their order; None for tags that are strings, or no tags.

    Args:
        table: One split.
        columns: Its columns.
        given: The names, for numbers that have none in the data set.

    Raises:
        DataFormatError: If the columns of words and tags are not what they should be, or a name is no BIO tag.
    """
    datasets = import_datasets()
    tokens = table.column(columns.tokens)
    inner = inner_of(table.rows.features[tokens])
    if not is_string(inner):
        raise type_fault(table, tokens, "a list of strings", "Texts have to be split into words first.")
    if columns.tags is None:
        return None
    tags = table.column(columns.tags)
    inner = inner_of(table.rows.features[tags])
    if is_string(inner):
        return None
    if isinstance(inner, datasets.ClassLabel):
        names: Sequence[str] = given or inner.names
    elif isinstance(inner, datasets.Value) and "int" in inner.dtype:
        if given is None:
            advice = "Give their names as `label_names`, in order; the data set's page or code has them."
            raise type_fault(table, tags, "a list of ClassLabel or of strings", advice)
        names = given
    else:
        raise type_fault(table, tags, "a list of ClassLabel or of strings", "")
    scheme = SchemeOf(table.source)
    for name in names:
        scheme.check(f"column {tags!r}", name)
    return list(names)


def types_of(names: Sequence[str] | None, tables: Mapping[str, Table], columns: Columns) -> list[str]:
    """The entity types: as numbered tags have them, in their order, or those of the first split, alphabetically."""
    if names is not None:
        return list(dict.fromkeys(type_ for name in names if (type_ := split_any_tag(name)[1])))
    if columns.tags is None:
        return []
    table = next(iter(tables.values()))
    found = {tag for chunk in table.chunks([columns.tags]) for tags in chunk[columns.tags] for tag in tags or ()}
    return sorted({type_ for tag in found if (type_ := _type_of(tag))})


def _type_of(tag: object) -> str:
    try:
        return split_any_tag(str(tag))[1]
    except ValueError:
        return ""  # what is no tag, reading says with its row


def ids_of(table: Table, columns: Columns) -> Iterator[tuple[str, str, str | None]]:
    """Name, post id and image id of each row.

    Raises:
        DataFormatError: If a post has no id, or that of another.
    """
    chosen = table.column(columns.id, default="id"), table.column(columns.image_id, default="image_id")
    seen: dict[str, str] = {}
    wanted = [column for column in chosen if column is not None]
    rows = _columnar(table, wanted, chosen)
    for name, (given, image_id) in zip(table.names, rows, strict=True):
        id_ = name if chosen[0] is None else _id(table, name, chosen[0], given)
        if (first := seen.setdefault(id_, name)) != name:
            advice = "With `id: null` the rows are numbered instead."
            raise table.fault(name, f"the id {id_!r} again, after row {first}", "each id once in a split", advice)
        if chosen[1] is None:
            yield name, id_, id_
        else:
            yield name, id_, None if image_id is None else _id(table, name, chosen[1], image_id)


def _columnar(table: Table, wanted: list[str], chosen: tuple[str | None, ...]) -> Iterator[tuple[Any, ...]]:
    if not wanted:
        yield from ((None,) * len(chosen) for _ in range(len(table.rows)))
        return
    for chunk in table.chunks(wanted):
        length = len(chunk[wanted[0]])
        yield from zip(*(chunk[key] if key is not None else [None] * length for key in chosen), strict=True)


def _id(table: Table, row: str, column: str, value: object) -> str:
    if isinstance(value, (str, int)) and not isinstance(value, bool) and value != "":
        return str(value)
    raise table.fault(row, f"{_shown(value)} in column {column!r}", "an id, a string or a whole number")


def read_table(table: Table, columns: Columns, names: Sequence[str] | None) -> Posts:
    """The posts of one split.

    Args:
        table: The split.
        columns: Its columns.
        names: The names of numbered tags, from `tag_names`.

    Raises:
        DataFormatError: For a post without words, another number of tags than words, what is no tag, tags of two
            schemes, an id twice; with the row.
    """
    tokens = str(table.column(columns.tokens))
    tags = table.column(columns.tags)
    scheme = SchemeOf(table.source)
    posts = []
    rows = _columnar(table, [tokens, *([] if tags is None else [tags])], (tokens, tags))
    for (row, id_, image_id), (words, found) in zip(ids_of(table, columns), rows, strict=True):
        read = _words(table, row, tokens, words)
        labels = None if found is None or tags is None else _tags(table, row, tags, found, names, len(read), scheme)
        posts.append(Example(id_, image_id, read, labels))
    return scheme.posts(posts)


def _words(table: Table, row: str, column: str, words: object) -> tuple[str, ...]:
    if not isinstance(words, list) or not words:
        found = f"{'an empty list' if words == [] else _shown(words)} in column {column!r}"
        raise table.fault(row, found, "at least one word", "Take the row out with `filter` of datasets.")
    for word in words:
        if not isinstance(word, str) or not word:
            raise table.fault(row, f"{_shown(word)} among the words in {column!r}", "words with content")
    return tuple(intern(word) for word in words)


def _tags(
    table: Table, row: str, column: str, found: list[Any], names: Sequence[str] | None, words: int, scheme: SchemeOf
) -> tuple[str, ...]:
    if len(found) != words:
        raise table.fault(row, f"{words} words and {len(found)} tags in {column!r}", "as many tags as words")
    tags = []
    for value in found:
        if names is None:
            if not isinstance(value, str):
                raise table.fault(row, f"the tag {_shown(value)} in {column!r}", "O, B-TYPE or I-TYPE")
            scheme.check(f"row {row}", value, f" in {column!r}")
            tags.append(intern(value))
        elif isinstance(value, int) and 0 <= value < len(names):
            scheme.check(f"row {row}", names[value], f" in {column!r}")
            tags.append(names[value])
        else:
            advice = "Where gold is unknown, the whole list is null." if value == -1 else ""
            raise table.fault(row, f"the tag {value!r} in {column!r}", f"a number from 0 to {len(names) - 1}", advice)
    return tuple(tags)


def read_texts(table: Table, columns: Columns, column: str) -> Texts:
    """A column of texts, as a source of context; null is no text.

    Raises:
        DataFormatError: If it holds something else.
    """
    if not is_string(table.rows.features[column]):
        raise type_fault(table, column, "strings", "")
    texts = (text for chunk in table.chunks([column]) for text in chunk[column])
    found = {id_: text or "" for (_, id_, _), text in zip(ids_of(table, columns), texts, strict=True)}
    return _ByPost(found, {})


class _ByPost(Texts):
    """Texts of posts by their exact ids."""

    def find(self, post: Example) -> str:
        return self.by_post.get(post.id, "").strip()


def _shown(value: object) -> str:
    return shown(value) if isinstance(value, str) else json_type(value)
