"""Posts in memory: a list of `Example` or of dictionaries, a frame of pandas or polars, a `datasets.Dataset`."""

from __future__ import annotations

from typing import Any

from mner.data.examples import Example, Posts
from mner.data.formats.assemble import map_types, posts_of
from mner.data.formats.lines import Source
from mner.data.formats.parquet import dataset_records
from mner.data.formats.records import Notes, Reading, Record
from mner.data.formats.rows import read_rows
from mner.data.formats.tables import table_records


def posts_in_memory(rows: Any, name: str, reading: Reading | None = None) -> Posts:
    """Posts of rows that are at hand, read as those of files are.

    Args:
        rows: A list of `Example` or of dictionaries with the keys of any JSON that is read; a frame of pandas or polars
            with a row a post, a token or a span; a `datasets.Dataset`.
        name: What they are called in messages, such as `train`.
        reading: How they are read where they leave a choice.

    Raises:
        TypeError: If it is something else.
        DataFormatError: If a row is no post; with its number.

    >>> posts_in_memory([{"tokens": ["In", "Oslo"], "ner_tags": ["O", "B-LOC"]}], "train")[0].tags
    ('O', 'B-LOC')
    """
    reading, source, notes = reading or Reading(), Source(f"{name}.memory"), Notes()
    if isinstance(rows, (list, tuple)) and rows and all(isinstance(row, Example) for row in rows):
        given = [
            Record(f"post {n}", post.id, words=post.words, tags=post.tags, image_ids=post.image_ids)
            for n, post in enumerate(rows, start=1)
        ]
        posts_of(source, given, Reading(), Notes(), "memory")  # says what is wrong with them
        found = rows if reading.type_map is None else map_types(rows, reading.type_map, notes)
        return Posts(found, "IOB2", "memory", notes.lines())
    return posts_of(source, _records(source, rows, reading, notes), reading, notes, "memory")


def _records(source: Source, rows: Any, reading: Reading, notes: Notes) -> list[Record]:
    if type(rows).__module__.startswith("datasets."):
        return dataset_records(source, rows, reading, notes)
    if hasattr(rows, "to_dicts"):  # polars
        table = rows.to_dicts()
    elif hasattr(rows, "iloc") and hasattr(rows, "to_dict"):  # pandas
        table = rows.to_dict("records")
    elif isinstance(rows, (list, tuple)) and all(isinstance(row, dict) for row in rows):
        return read_rows(source, [(f"row {n}", row) for n, row in enumerate(rows, start=1)], reading, notes)
    else:
        raise TypeError(
            f"Expected posts as a list of Example or of dictionaries, a pandas or polars frame, or a datasets.Dataset, "
            f"but got {type(rows).__name__}"
        )
    table = [{str(key): _cell(value) for key, value in row.items()} for row in table]
    plain = all(value is None or isinstance(value, (str, int, float, bool)) for row in table for value in row.values())
    if plain and table:
        cells = [(f"row {n}", {k: _text(v) for k, v in row.items()}) for n, row in enumerate(table, start=1)]
        return table_records(source, list(table[0]), cells, reading, notes)
    return read_rows(source, [(f"row {n}", row) for n, row in enumerate(table, start=1)], reading, notes)


def _cell(value: Any) -> Any:
    """A cell without numpy's types and without the sign for nothing, NaN."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return (
        None
        if (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")
        else value
    )


def _text(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value)
