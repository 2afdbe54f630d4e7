"""Hugging Face data sets as tables of rows. Nothing here imports `datasets` before it is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mner.data.sources import SPLIT_NAMES
from mner.errors import DataFormatError, DataNotFoundError, MissingDependencyError

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


def inner_of(feature: Any) -> Any:
    """What a list holds; None for what is no list."""
    return getattr(feature, "feature", None)


def is_string(feature: Any) -> bool:
    """Whether a feature is text."""
    return getattr(feature, "dtype", None) in ("string", "large_string")


def type_fault(table: Table, column: str | None, expected: str, advice: str) -> DataFormatError:
    """The error that a column of another type is."""
    found = f"{table.rows.features[column]} in column {column!r}"
    return DataFormatError(table.source, None, found, expected, advice)
