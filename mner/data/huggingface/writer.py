"""Posts as Hugging Face `datasets`: what `DatasetsDataModule` reads back, and anybody else can load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mner.data.examples import Example
from mner.data.formats.context import attach, read_context
from mner.data.formats.images import ImageFolder, ImageSource
from mner.data.formats.posts import read_posts
from mner.data.formats.records import Reading
from mner.data.huggingface.images import DatasetImages
from mner.data.huggingface.tables import import_datasets
from mner.data.sources import find_context, find_images, find_posts
from mner.errors import DataFormatError
from mner.files import REGISTER, output_folder
from mner.labels import bio_labels, entity_types

if TYPE_CHECKING:
    import datasets

    from mner.data.datamodules.base import MNERDataModule  # brings Lightning, which files need not

NAMES = {"train": "train", "valid": "validation", "test": "test"}
"""What the Hub calls our splits."""

COLUMNS = ("id", "image_id", "tokens", "ner_tags", "image")


def to_dataset(
    examples: Sequence[Example],
    labels: Sequence[str],
    images: ImageSource | None = None,
    context: Sequence[str] = (),
) -> datasets.Dataset:
    """Posts as a `datasets.Dataset` with the columns `id`, `image_id`, `tokens`, `ner_tags`, `image` and the contexts.

    Image files are named, not read; `save_to_disk` and `push_to_hub` put them into the data set as they are, broken
    ones too. A missing one is null.

    Args:
        examples: The posts; gold that is unknown becomes null.
        labels: The BIO labels, for the names of the tags.
        images: Where the images are, such as an `ImageFolder`; None for no column `image`.
        context: A name for each of the texts in `Example.context`; each becomes a column.

    Raises:
        MissingDependencyError: If `datasets` is not installed.
        ValueError: If a post has a tag that is no label, or another number of texts than there are names.
    """
    module = import_datasets()
    taken = sorted(set(context) & set(COLUMNS))
    if taken or len(set(context)) < len(context):
        raise ValueError(f"Expected distinct names of `context`, other than {COLUMNS}, but got {list(context)}")
    for post in examples:
        if len(post.context) != len(context):
            raise ValueError(
                f"Expected a text for each of `context` {list(context)}, but post {post.id!r} has {len(post.context)}"
            )
    text = module.Value("string")
    features = {
        "id": text,
        "image_id": text,
        "tokens": module.List(text),
        "ner_tags": module.List(module.ClassLabel(names=list(labels))),
    }
    columns: dict[str, list[Any]] = {
        "id": [post.id for post in examples],
        "image_id": [post.image_id for post in examples],
        "tokens": [list(post.words) for post in examples],
        "ner_tags": list(_numbers(examples, labels)),
    }
    if images is not None:
        features["image"] = module.Image()
        columns["image"] = [_stored(post.image_id, images) for post in examples]
    for place, name in enumerate(context):
        features[name] = text
        columns[name] = [post.context[place] for post in examples]
    return module.Dataset.from_dict(columns, features=module.Features(features))


def to_datasets(data: MNERDataModule) -> datasets.DatasetDict:
    """All splits of a data module as a `datasets.DatasetDict`, with its images and context.

    For example::

        data = Twitter2017DataModule("data/twitter2017", images="images", image_encoder="resnet50")
        to_datasets(data).save_to_disk("twitter2017")      # or .push_to_hub("me/twitter2017", private=True)

    Args:
        data: The data module. `DatasetsDataModule` gives the same posts back.

    Raises:
        MissingDependencyError: If `datasets` is not installed.
    """
    splits = {
        split: to_dataset(data.examples(split), data.labels, data.image_source(split), data.context_names)  # type: ignore[arg-type]
        for split in data.split_names()
    }
    return _together(splits)


def export(
    root: Path,
    out: Path,
    images: Path | None = None,
    context: list[Path] | None = None,
    types: list[str] | None = None,
    format: str | None = None,
    reading: Reading | None = None,
) -> int:
    """Write a data set in the format of Hugging Face datasets: `datasets.load_from_disk(out)`, DatasetsDataModule.

    Args:
        root: Folder of the data set, with a file for each split, or one file, which becomes train.
        out: Folder to write.
        images: Folder of the images; by default looked for in the data set's folder.
        context: Files of texts; by default those in its folder `captions`. Each becomes a column, named as its file.
        types: The entity types, in the order of the labels; by default those of all tags, in alphabetical order.
        format: The format of the files; by default found by suffix and content.
        reading: How files are read where they leave a choice.

    Returns:
        Exit code 0.
    """
    import_datasets()
    _refuse_full(out)
    found_posts = find_posts(root)
    posts = {
        "train" if split == "posts" else split: read_posts(file, format, reading=reading)
        for split, file in found_posts.items()
    }
    named = entity_types(sorted({tag for part in posts.values() for post in part for tag in post.tags or ()}))
    labels = bio_labels(types or sorted(named))
    splits = {}
    for split, part in posts.items():
        files = {path.stem: path for path in context} if context else find_context(root, split)
        found = attach(part, {name: read_context(path) for name, path in files.items()})
        folder = images or find_images(root, split)
        place = None if folder is None else ImageFolder(folder)
        splits[split] = to_dataset(found.examples, labels, place, list(files))
        there = sum(post.image_id is not None and place is not None and post.image_id in place for post in part)
        without = "".join(f", {count:,} without a text of {name}" for name, count in found.missing.items() if count)
        print(f"{split}: {len(part):,} posts, {there:,} images{without}")
    with output_folder(out, check=_refuse_full) as draft:
        _together(splits).save_to_disk(str(draft))
    print(f"Written to {out}. To train on it: --data DatasetsDataModule --data.path {out}")
    return 0


def _refuse_full(out: Path) -> None:
    names = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    others = any(not name.startswith(".mner") for name in names)
    if (out.exists() and not out.is_dir()) or (others and REGISTER not in names):  # or one that was stopped
        raise DataFormatError(out, None, "something there already", "a new or empty folder")


def _together(splits: Mapping[str, Any]) -> Any:
    return import_datasets().DatasetDict({NAMES[split]: rows for split, rows in splits.items()})


def _numbers(examples: Sequence[Example], labels: Sequence[str]) -> Iterator[list[int] | None]:
    index = {label: number for number, label in enumerate(labels)}
    for post in examples:
        unknown = sorted(set(post.tags or ()) - set(index))
        if unknown:
            raise ValueError(f"Expected tags among the labels {list(labels)}, but post {post.id!r} has {unknown}")
        yield None if post.tags is None else [index[tag] for tag in post.tags]


def _stored(image_id: str | None, images: ImageSource) -> dict[str, Any] | None:
    if image_id is None or image_id not in images:
        return None
    if isinstance(images, DatasetImages):
        return images.stored(image_id)
    if isinstance(images, ImageFolder):
        return {"bytes": None, "path": str(images.find(image_id))}
    raise TypeError(f"Expected `images` to be an ImageFolder or DatasetImages, but got {type(images).__name__}")
