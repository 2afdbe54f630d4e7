"""Posts and images in the columns of Hugging Face data sets. Nothing here imports `datasets` before it is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from sys import intern
from typing import Any

from PIL import Image

from mner.data.batch import Example
from mner.data.context import Texts
from mner.data.images import Reason, load_image
from mner.data.lines import json_type, shown
from mner.errors import DataFormatError, DataNotFoundError, MissingDependencyError
from mner.labels import entity_types, spans, split_tag, stray_insides

CHUNK = 1000
"""Rows that are read together."""


def import_datasets() -> Any:
    """The package `datasets`.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise MissingDependencyError(
            "Expected the package `datasets` for Hugging Face data sets, but it is not installed; "
            "`pip install 'mner[datasets]'`"
        ) from None
    return datasets


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


@dataclass(frozen=True)
class Table:
    """The rows of one split, and where they come from.

    Attributes:
        rows: The `datasets.Dataset`.
        source: The data set's name or folder.
        parts: Name, first and last row (exclusive) of each piece of a split that the rows were put together from.
    """

    rows: Any
    source: str
    parts: Sequence[tuple[str, int, int]]

    @property
    def names(self) -> Iterator[str]:
        """A name for each row, `train/12`: rows of a split are counted from 0, as `dataset[12]` does."""
        return (f"{name}/{row}" for name, start, stop in self.parts for row in range(start, stop))

    def column(self, name: str | None, default: str = "") -> str | None:
        """The name of a column that is there; None for none, or where a default one is not there.

        Raises:
            DataFormatError: If it is not there.
        """
        if name is None or name in self.rows.column_names:
            return name
        if name == default:
            return None
        advice = "Name the columns of this data set in the options of the data module."
        found = f"no column {name!r} (the columns are {', '.join(self.rows.column_names)})"
        raise DataFormatError(self.source, None, found, f"a column {name!r}", advice)

    def chunks(self, names: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
        """The values of some columns, some rows at a time; other columns, such as images, are not touched."""
        chosen = self.rows.with_format(None).select_columns(list(dict.fromkeys(names)))
        yield from chosen.iter(batch_size=CHUNK)

    def fault(self, row: str, found: str, expected: str, advice: str = "") -> DataFormatError:
        """The error that a row is."""
        return DataFormatError(f"{self.source}, row {row}", None, found, expected, advice)


def open_tables(path: str, config: str | None, revision: str | None, splits: Mapping[str, str]) -> dict[str, Table]:
    """The splits of a data set, under the keys `train`, `valid`, `test`, as far as they are there.

    Args:
        path: Name on the Hub, a folder that `save_to_disk` wrote, or a folder of files (Parquet, JSON lines, ...).
        config: Which of its configurations.
        revision: Branch, tag or commit on the Hub.
        splits: Names of splits that have others than usual, or parts of them: `{"valid": "train[90%:]"}`.

    Raises:
        MissingDependencyError: If `datasets` is not installed.
        DataNotFoundError: If there is no such data set, configuration or split.
    """
    from mner.data.layout import SPLIT_NAMES

    unknown = sorted(set(splits) - set(SPLIT_NAMES))
    if unknown:
        raise ValueError(f"Expected `splits` to name some of {tuple(SPLIT_NAMES)}, but got {unknown}")
    found = _load(path, config, revision)
    tables = {}
    for split, names in SPLIT_NAMES.items():
        name = splits.get(split) or next((name for name in names if name in found), None)
        if name is not None:
            tables[split] = _part(found, name, path)
    if not tables:
        raise DataNotFoundError(
            f"{path} has the splits {', '.join(found)}; expected train, valid (or validation, dev) and test. Say which "
            "is which, such as splits: {train: 'all[:80%]', valid: 'all[80%:]'}"
        )
    return tables


def _load(path: str, config: str | None, revision: str | None) -> dict[str, Any]:
    datasets = import_datasets()
    place = Path(path)
    try:
        if any((place / name).is_file() for name in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(path)
        else:
            loaded = datasets.load_dataset(path, config, revision=revision)
    except Exception as error:  # no network, no such name or configuration, no file that fits: it has many errors
        said = " ".join(str(error).split()) or type(error).__name__
        raise DataNotFoundError(
            f"Expected a data set at {path!r} (a name on the Hugging Face Hub, a folder that save_to_disk wrote, or a "
            f"folder of Parquet or JSON-lines files), but datasets could not load it: {said[:400]}"
        ) from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _part(found: Mapping[str, Any], name: str, path: str) -> Table:
    datasets = import_datasets()
    try:
        parts = datasets.ReadInstruction.from_spec(name).to_absolute({key: len(rows) for key, rows in found.items()})
    except (ValueError, AssertionError) as error:
        raise DataNotFoundError(f"{path} has no split {name!r}, but {', '.join(found)} ({error})") from error
    places = [(part.splitname, part.from_ or 0, _end(part.to, found[part.splitname])) for part in parts]
    pieces = [
        found[key] if (start, stop) == (0, len(found[key])) else found[key].select(range(start, stop))
        for key, start, stop in places
    ]
    return Table(pieces[0] if len(pieces) == 1 else datasets.concatenate_datasets(pieces), path, places)


def _end(stop: int | None, rows: Any) -> int:
    return len(rows) if stop is None else stop


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
    inner = _inner(table.rows.features[tokens])
    if not _is_string(inner):
        raise _type_fault(table, tokens, "a list of strings", "Texts have to be split into words first.")
    if columns.tags is None:
        return None
    tags = table.column(columns.tags)
    inner = _inner(table.rows.features[tags])
    if _is_string(inner):
        return None
    if isinstance(inner, datasets.ClassLabel):
        names: Sequence[str] = given or inner.names
    elif isinstance(inner, datasets.Value) and "int" in inner.dtype:
        if given is None:
            advice = "Give their names as `label_names`, in order; the data set's page or code has them."
            raise _type_fault(table, tags, "a list of ClassLabel or of strings", advice)
        names = given
    else:
        raise _type_fault(table, tags, "a list of ClassLabel or of strings", "")
    for name in names:
        try:
            split_tag(name)
        except ValueError:
            advice = "Convert other schemes (BIOES, plain types) to BIO first, with `map` of datasets."
            raise DataFormatError(
                f"{table.source}, column {tags!r}", None, f"the label {name!r}", "O, B-TYPE or I-TYPE", advice
            ) from None
    return list(names)


def _inner(feature: Any) -> Any:
    """What a list holds; None for what is no list."""
    return getattr(feature, "feature", None)


def _is_string(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("string", "large_string")


def _type_fault(table: Table, column: str | None, expected: str, advice: str) -> DataFormatError:
    found = f"{table.rows.features[column]} in column {column!r}"
    return DataFormatError(table.source, None, found, expected, advice)


def types_of(names: Sequence[str] | None, tables: Mapping[str, Table], columns: Columns) -> list[str]:
    """The entity types: as numbered tags have them, in their order, or those of the first split, alphabetically."""
    if names is not None:
        return entity_types(names)
    if columns.tags is None:
        return []
    table = next(iter(tables.values()))
    found = {tag for chunk in table.chunks([columns.tags]) for tags in chunk[columns.tags] for tag in tags or ()}
    return sorted({type_ for tag in found if (type_ := _type_of(tag))})


def _type_of(tag: object) -> str:
    prefix, _, type_ = str(tag).partition("-")
    return type_ if prefix in ("B", "I") else ""  # what is no tag, reading says with its row


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


def read_table(table: Table, columns: Columns, names: Sequence[str] | None) -> list[Example]:
    """The posts of one split.

    Args:
        table: The split.
        columns: Its columns.
        names: The names of numbered tags, from `tag_names`.

    Raises:
        DataFormatError: For a post without words, another number of tags than words, a tag that is no BIO tag, an id
            twice; with the row. Also if most entities begin with I-, as in IOB1.
    """
    tokens = str(table.column(columns.tokens))
    tags = table.column(columns.tags)
    known: set[str] = set()
    posts = []
    rows = _columnar(table, [tokens, *([] if tags is None else [tags])], (tokens, tags))
    for (row, id_, image_id), (words, found) in zip(ids_of(table, columns), rows, strict=True):
        read = _words(table, row, tokens, words)
        labels = None if found is None or tags is None else _tags(table, row, tags, found, names, len(read), known)
        posts.append(Example(id_, image_id, read, labels))
    _refuse_iob1(table, posts)
    return posts


def _words(table: Table, row: str, column: str, words: object) -> tuple[str, ...]:
    if not isinstance(words, list) or not words:
        found = f"{'an empty list' if words == [] else _shown(words)} in column {column!r}"
        raise table.fault(row, found, "at least one word", "Take the row out with `filter` of datasets.")
    for word in words:
        if not isinstance(word, str) or not word:
            raise table.fault(row, f"{_shown(word)} among the words in {column!r}", "words with content")
    return tuple(intern(word) for word in words)


def _tags(
    table: Table, row: str, column: str, found: list[Any], names: Sequence[str] | None, words: int, known: set[str]
) -> tuple[str, ...]:
    if len(found) != words:
        raise table.fault(row, f"{words} words and {len(found)} tags in {column!r}", "as many tags as words")
    tags = []
    for value in found:
        if names is None:
            if value not in known:
                _check_tag(table, row, column, value)
                known.add(value)
            tags.append(intern(value))
        elif isinstance(value, int) and 0 <= value < len(names):
            tags.append(names[value])
        else:
            advice = "Where gold is unknown, the whole list is null." if value == -1 else ""
            raise table.fault(row, f"the tag {value!r} in {column!r}", f"a number from 0 to {len(names) - 1}", advice)
    return tuple(tags)


def _check_tag(table: Table, row: str, column: str, value: object) -> None:
    try:
        if isinstance(value, str) and not any(character.isspace() for character in value):
            split_tag(value)
            return
    except ValueError:
        pass
    advice = "Convert other schemes (BIOES, plain types) to BIO first, with `map` of datasets."
    raise table.fault(row, f"the tag {_shown(value)} in {column!r}", "O, B-TYPE or I-TYPE", advice)


def _refuse_iob1(table: Table, posts: Sequence[Example]) -> None:
    """In IOB1 an entity begins with I- unless one of its type is right before it: read as IOB2, all would be stray."""
    entities = sum(len(spans(post.tags)) for post in posts if post.tags)
    stray = sum(len(stray_insides(post.tags)) for post in posts if post.tags)
    if entities and stray > entities / 2:
        raise DataFormatError(
            table.source,
            None,
            f"{stray} of {entities} entities that begin with I- (IOB1)",
            "IOB2, where each begins with B-",
            "Convert them: `map` of datasets with mner.labels.repair.",
        )


def read_texts(table: Table, columns: Columns, column: str) -> Texts:
    """A column of texts, as a source of context; null is no text.

    Raises:
        DataFormatError: If it holds something else.
    """
    if not _is_string(table.rows.features[column]):
        raise _type_fault(table, column, "strings", "")
    texts = (text for chunk in table.chunks([column]) for text in chunk[column])
    found = {id_: text or "" for (_, id_, _), text in zip(ids_of(table, columns), texts, strict=True)}
    return _ByPost(found, {})


class _ByPost(Texts):
    """Texts of posts by their exact ids."""

    def find(self, post: Example) -> str:
        return self.by_post.get(post.id, "").strip()


class DatasetImages:
    """The images in a column, by image id; decoded one by one, when they are asked for.

    Args:
        tables: Splits with that column.
        column: The column: images, or the bytes of image files.
        columns: The others.

    Attributes:
        folder: What messages call the place.
        size: Shorter side that `open` needs; see `load_image`.

    Raises:
        DataFormatError: If the column holds something else.
    """

    def __init__(self, tables: Sequence[Table], column: str, columns: Columns) -> None:
        datasets = import_datasets()
        self.folder = f"{tables[0].source}, column {column!r}"
        self.size: int | None = None
        self._rows: list[Any] = []
        self._index: dict[str, tuple[int, int]] = {}
        self._column = column
        for table in tables:
            feature = table.rows.features[column]
            if not isinstance(feature, datasets.Image) and getattr(feature, "dtype", "") not in _BINARY:
                advice = ""
                if _is_string(feature):
                    advice = "For names of files give their folder as `images`, and this column as `image_id`."
                raise _type_fault(table, column, "images (datasets.Image, or the bytes of files)", advice)
            rows = table.rows.with_format(None).select_columns([column])
            rows = rows.cast_column(column, datasets.Image(decode=False))
            there = _present(rows)
            for row, (_, _, image_id) in enumerate(ids_of(table, columns)):
                if image_id is not None and there[row]:
                    self._index.setdefault(image_id, (len(self._rows), row))
            self._rows.append(rows)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._index

    def stored(self, image_id: str) -> dict[str, Any] | None:
        """The image as it is stored, `{"bytes", "path"}`, or None."""
        place = self._index.get(image_id)
        if place is None:
            return None
        found: dict[str, Any] | None = self._rows[place[0]][place[1]][self._column]
        return found

    def load(self, image_id: str) -> tuple[Image.Image | None, Reason]:
        """The image and "", or None and why there is none."""
        found = self.stored(image_id)
        if found is None:
            return None, "missing"
        if found["bytes"] is not None:
            return load_image(BytesIO(found["bytes"]), self.size)
        # A pipe or a device would be read for ever.
        return load_image(found["path"], self.size) if os.path.isfile(found["path"]) else (None, "missing")

    def open(self, image_id: str) -> Image.Image | None:
        """The image, or None where it is missing or broken."""
        return self.load(image_id)[0]


_BINARY = ("binary", "large_binary")


def _present(rows: Any) -> list[bool]:
    """Which rows have an image. Looks at Arrow's own marks, so that no image is read."""
    import pyarrow.compute as pc

    there: list[bool] = []
    for chunk in rows.with_format("arrow").iter(batch_size=CHUNK):
        cells = chunk.column(0)
        fields = [pc.is_valid(pc.struct_field(cells, name)) for name in ("bytes", "path")]
        there += pc.or_(*fields).to_pylist()
    return there


def _shown(value: object) -> str:
    return shown(value) if isinstance(value, str) else json_type(value)
