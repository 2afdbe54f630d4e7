"""Data sets of the Hugging Face Hub, or in its format on disk, as a data module."""

from __future__ import annotations

from typing import Any, ClassVar

from mner.data.datamodules.base import MNERDataModule
from mner.data.examples import Example
from mner.data.formats.context import Texts
from mner.data.formats.images import ImageSource
from mner.data.huggingface.examples import Columns, read_table, read_texts, tag_names, types_of
from mner.data.huggingface.images import DatasetImages
from mner.data.huggingface.tables import open_tables
from mner.errors import DataFormatError, DataNotFoundError
from mner.labels import bio_labels


class DatasetsDataModule(MNERDataModule):
    """Posts of any data set for token classification in the format of Hugging Face `datasets`.

    Words, tags, ids, images and texts are columns; images are decoded one by one as they are needed. Labels are read
    from the data set. Needs the package `datasets`: `pip install 'mner[datasets]'`.

    Args:
        path: Name on the Hub, a folder that `save_to_disk` wrote, or a folder of Parquet or JSON-lines files.
        config: Which of its configurations, where it has several.
        revision: Branch, tag or commit on the Hub.
        splits: Which of its splits is which, where names are unusual, or parts of them are meant:
            `{"train": "train[:90%]", "valid": "train[90%:]"}`.
        tokens: Column of words.
        tags: Column of tags, numbers with names (ClassLabel) or strings; None where there is no gold.
        id: Column of ids; None to number the rows, as is done if there is no such column.
        image_id: Column of the images' ids; None for the post's own, as is done if there is no such column.
        types: The entity types; None for those of the data set.
        label_names: Names of the numbers in `tags`, in order, for a data set that has none.
        kwargs: As for `MNERDataModule`, without `root`. `images` may name a column of images, and each of `context` a
            column of texts; what is no column is a folder or a file, as in other data modules.

    Raises:
        MissingDependencyError: If `datasets` is not installed.
        DataNotFoundError: If there is no such data set, configuration or split.
        DataFormatError: If a column is missing, or holds something else.
    """

    overlap_advice: ClassVar[str] = (
        "If the ids count anew in each split, give `id: null`, so that the rows are numbered; else take the posts out "
        "of one of the two."
    )

    def __init__(
        self,
        path: str,
        config: str | None = None,
        revision: str | None = None,
        splits: dict[str, str] | None = None,
        tokens: str = "tokens",
        tags: str | None = "ner_tags",
        id: str | None = "id",
        image_id: str | None = "image_id",
        types: list[str] | None = None,
        label_names: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.path = path
        self.splits = dict(splits or {})
        self.tables = open_tables(path, config, revision, self.splits)
        self.columns = Columns(tokens, tags, id, image_id)
        self.label_names = label_names
        names = tag_names(next(iter(self.tables.values())), self.columns, label_names)
        found = types or types_of(names, self.tables, self.columns)
        if not found:
            raise DataFormatError(
                path, None, "no entity types", "some in the tags, or in `types`", "Without gold, `types` names them."
            )
        self.labels = bio_labels(found)
        super().__init__(root=path, **kwargs)

    def split_names(self) -> list[str]:
        """The splits that are there."""
        return list(self.tables)

    def read(self, split: str) -> tuple[list[Example], object]:
        """The posts of a split, without the texts of `context`, and what messages call the place they come from."""
        if split not in self.tables:
            raise DataNotFoundError(
                f"No {split} split in {self.root}: found {', '.join(self.tables)}; expected it under a usual name, or "
                f"in `splits`, such as splits: {{{split}: 'train[90%:]'}}, with the rest for the other"
            )
        table = self.tables[split]
        posts = read_table(table, self.columns, tag_names(table, self.columns, self.label_names))
        return posts, f"{table.source}, {split}"

    def image_source(self, split: str | None) -> ImageSource | None:
        """Where the images of a split are, or those of any post (None); None without images."""
        chosen = [self.tables[split]] if split is not None else list(self.tables.values())
        tables = [table for table in chosen if self.images in table.rows.column_names]
        if self.images is None or not tables:
            return super().image_source(split)
        found = DatasetImages(tables, self.images, self.columns)
        self._folders.append(found)
        return found

    def read_source(self, name: str, split: str) -> Texts:
        """The texts of one context source: a column, or files."""
        table = self.tables[split]
        if name in table.rows.column_names:
            return read_texts(table, self.columns, name)
        return super().read_source(name, split)
