"""Parquet files and folders that `save_to_disk` of Hugging Face `datasets` wrote; in columns, as rows of JSON.

Read by pyarrow and by datasets: `pip install 'mner[datasets]'`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mner.data.examples import Example
from mner.data.formats.lines import Source
from mner.data.formats.records import Notes, Reading, Record
from mner.data.formats.rows import read_rows
from mner.errors import DataFormatError, MissingDependencyError
from mner.files import whole


def imported(name: str) -> Any:
    """A package that Parquet needs.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingDependencyError(
            f"Expected the package `{name.partition('.')[0]}` for this format, but it is not installed; "
            "`pip install 'mner[datasets]'`"
        ) from None


def read_parquet(source: Source, reading: Reading, notes: Notes) -> list[Record]:
    """Records of the rows of a file; numbered tags have the names that Hugging Face data sets keep with them."""
    parquet = imported("pyarrow.parquet")
    import pyarrow

    try:
        table = parquet.read_table(pyarrow.BufferReader(source.raw))
        rows = table.to_pylist()
        kept = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataFormatError(source, None, f"no Parquet ({error})"[:200], "a Parquet file") from None
    info = kept.get("info") if isinstance(kept, dict) else None
    features = info.get("features") if isinstance(info, dict) else None
    columns = features.values() if isinstance(features, dict) else ()
    names = next((found for column in columns if (found := _class_names(column))), None)
    return _records(source, rows, reading, notes, names)


def _class_names(feature: Any) -> list[str] | None:
    """The names of a list of ClassLabel, as `datasets` writes it into the file."""
    if isinstance(feature, dict):
        if isinstance(feature.get("names"), list):
            return list(feature["names"])
        return _class_names(feature.get("feature"))
    return None


def is_saved_dataset(source: Source) -> bool:
    """Whether a folder is one split that `save_to_disk` wrote."""
    return (source.path / "state.json").is_file() and (source.path / "dataset_info.json").is_file()


def read_saved_dataset(source: Source, reading: Reading, notes: Notes) -> list[Record]:
    """Records of the rows of a data set on disk.

    Raises:
        DataFormatError: If it is none.
    """
    if not is_saved_dataset(source):
        expected = "a folder with dataset_info.json and state.json: one split that save_to_disk wrote"
        raise DataFormatError(source, None, "a folder" if source.path.is_dir() else "a file", expected)
    datasets = imported("datasets")
    return dataset_records(source, datasets.load_from_disk(str(source)), reading, notes)


def dataset_records(source: Source, rows: Any, reading: Reading, notes: Notes) -> list[Record]:
    """Records of a `datasets.Dataset`; its images are left where they are."""
    datasets = imported("datasets")
    features = rows.features
    undecoded = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    for name in undecoded:
        rows = rows.cast_column(name, datasets.Image(decode=False))
    names = None
    for feature in features.values():
        inner = getattr(feature, "feature", None)
        names = names or (list(inner.names) if isinstance(inner, datasets.ClassLabel) else None)
    return _records(source, rows.with_format(None).to_list(), reading, notes, names)


def _records(
    source: Source, rows: list[dict[str, Any]], reading: Reading, notes: Notes, names: list[str] | None
) -> list[Record]:
    from dataclasses import replace

    if names is not None and reading.label_names is None:
        reading = replace(reading, label_names=names)
    return read_rows(source, [(f"row {number}", row) for number, row in enumerate(rows, start=1)], reading, notes)


def write_parquet(path: Path, posts: Sequence[Example]) -> None:
    """Posts as a Parquet file with the columns `id`, `image_ids`, `tokens`, `ner_tags` (names)."""
    parquet = imported("pyarrow.parquet")
    import pyarrow

    strings = pyarrow.list_(pyarrow.string())
    columns = {
        "id": pyarrow.array([post.id for post in posts], pyarrow.string()),
        "image_ids": pyarrow.array([list(post.image_ids) for post in posts], strings),
        "tokens": pyarrow.array([list(post.words) for post in posts], strings),
        "ner_tags": pyarrow.array([None if post.tags is None else list(post.tags) for post in posts], strings),
    }
    with whole(path) as stream:
        parquet.write_table(pyarrow.table(columns), stream)
