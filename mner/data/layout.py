"""Where a data set's folder keeps its splits, images and texts: the one place that knows the names in use.

Two layouts are found: `train.txt`, `valid.txt`, `test.txt` with `images/` and `captions/` beside them, and the Snapchat
layout with `texts/{train,dev,test}.json`, `images/{train,dev,test}/` and `captions/{train,dev,test}_….json`.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from mner.data.readers import CONLL_SUFFIXES, JSON_SUFFIXES
from mner.errors import DataFormatError, DataNotFoundError

SPLIT_NAMES = {"train": ("train",), "valid": ("valid", "dev", "val", "validation"), "test": ("test",)}
CONTEXT_FOLDERS = ("captions", "context", "knowledge")


def find_splits(root: str | PathLike[str]) -> dict[str, Path]:
    """The file of each split that is there, under the keys `train`, `valid`, `test`.

    Raises:
        DataNotFoundError: If there is no such folder, or no split in it.
        DataFormatError: If two files could be the same split.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataNotFoundError(f"Expected a folder with posts, but there is none at {folder.absolute()}")
    found = {}
    for split, names in SPLIT_NAMES.items():
        places = [folder, folder / "texts", *(folder / "texts" / name for name in names)]
        candidates = [place / f"{name}{suffix}" for place in places for name in names for suffix in _SUFFIXES]
        files = [file for file in candidates if file.is_file()]
        if len(files) > 1:
            both = " and ".join(str(file.relative_to(folder)) for file in files)
            raise DataFormatError(folder, None, f"{both} for the {split} split", "one file a split", "Move one away.")
        if files:
            found[split] = files[0]
    if not found:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise DataNotFoundError(
            f"No split in {folder}: found {there}; expected train.txt, valid.txt and test.txt (or .jsonl), there or in "
            "texts/. `mner data download` fetches the public Twitter text."
        )
    return found


def find_images(root: str | PathLike[str], split: str) -> Path | None:
    """The folder with a split's images: `images/<split>`, `images`, `<root>_images` in or beside the root; or None."""
    folder = Path(root)
    name = folder.absolute().name + "_images"
    places = [
        *(folder / "images" / split_name for split_name in _names(split)),
        folder / "images",
        folder / name,
        folder.absolute().parent / name,
    ]
    return next((place for place in places if place.is_dir()), None)


def find_context(root: str | PathLike[str], split: str) -> dict[str, Path]:
    """The files of texts for a split, by source name: `captions/blip2.jsonl` is `blip2`, for every split.

    A file whose name begins with a split's (`dev_image_captions.json`), or that lies in a folder named by it, belongs
    to that split alone.

    Raises:
        DataFormatError: If two files could be the same source.
    """
    found: dict[str, Path] = {}
    for place in (Path(root) / name for name in CONTEXT_FOLDERS):
        folders = [place, *(place / name for name in _names(split))]
        files = sorted(file for folder in folders if folder.is_dir() for file in folder.iterdir())
        for file in files:
            if file.suffix.lower() not in (".txt", *JSON_SUFFIXES) or not file.is_file():
                continue
            owner, name = _owner(file.stem)
            if owner not in (None, split):
                continue
            name = name or place.name
            if name in found:
                both = f"{found[name]} and {file} for the source {name!r}"
                raise DataFormatError(root, None, both, "one file a source and split", "Rename or remove one.")
            found[name] = file
    return found


_SUFFIXES = (*CONLL_SUFFIXES, *JSON_SUFFIXES)


def _names(split: str) -> tuple[str, ...]:
    if split not in SPLIT_NAMES:
        raise ValueError(f"Expected argument `split` to be one of {tuple(SPLIT_NAMES)}, but got {split!r}")
    return SPLIT_NAMES[split]


def _owner(stem: str) -> tuple[str | None, str]:
    """`dev_image_captions` -> (`valid`, `image_captions`); `blip2` -> (None, `blip2`)."""
    first, _, rest = stem.partition("_")
    for split, names in SPLIT_NAMES.items():
        if first.lower() in names:
            return split, rest
    return None, stem
