"""Where a data set's folder keeps its splits, images and texts: the one place that knows the names in use.

Two layouts are found: `train.txt`, `valid.txt`, `test.txt` with `images/` and `captions/` beside them, and the Snapchat
layout with `texts/{train,dev,test}.json`, `images/{train,dev,test}/` and `captions/{train,dev,test}_….json`.
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from os import PathLike
from pathlib import Path

from mner.data.examples import SPLITS, Example, nested_subset
from mner.data.formats.conll import CONLL_SUFFIXES
from mner.data.formats.context import Texts, attach, read_context
from mner.data.formats.feature_store import FeatureStore
from mner.data.formats.images import ImageSource
from mner.data.formats.json_lines import JSON_SUFFIXES
from mner.data.formats.lines import Source
from mner.data.formats.parquet import is_saved_dataset
from mner.errors import DataFormatError, DataNotFoundError
from mner.labels import entity_types, repair

log = logging.getLogger(__name__)

SPLIT_NAMES = {"train": ("train",), "valid": ("valid", "dev", "val", "validation"), "test": ("test",)}
CONTEXT_FOLDERS = ("captions", "context", "knowledge")


def find_splits(root: str | PathLike[str], any_suffix: bool = False) -> dict[str, Path]:
    """The file of each split that is there, under the keys `train`, `valid`, `test`.

    Args:
        root: The folder.
        any_suffix: Look for files of any suffix, such as those of a format of the user's own.

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
        candidates = [
            file
            for place in places
            for name in names
            for file in (sorted(place.glob(f"{name}.*")) if any_suffix else [place / f"{name}{s}" for s in _SUFFIXES])
        ]
        files = [file for file in candidates if file.is_file()]
        files = [file for file in files if file.suffix != ".txt" or file.with_suffix(".ann") not in files]
        folders = [folder / name for name in names if (folder / name).is_dir()]
        files += [place for place in folders if not any_suffix and not files and is_posts(place)]
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


def find_posts(root: str | PathLike[str]) -> dict[str, Path]:
    """The files of posts of a file, pipe or folder: those of its splits, or the one that there is, as `posts`.

    Raises:
        DataNotFoundError: If there is none, or in a folder several that are not named by splits.
    """
    place = Path(root)
    if not place.is_dir() or is_posts(place):
        return {"posts": place}
    try:
        return find_splits(place)
    except DataNotFoundError:
        files = [file for file in sorted(place.iterdir()) if file.is_file() and file.suffix.lower() in _SUFFIXES]
        ours = (".mner.json", ".patch.json")  # what an output was begun with, corrections
        files = [file for file in files if not (file.name.startswith(".") or file.name.endswith(ours))]
        files = [file for file in files if file.suffix != ".txt" or file.with_suffix(".ann") not in files]
        files = [file for file in files if not file.stem.lower().startswith(CONTEXT_FOLDERS)]  # captions.jsonl
        if len(files) != 1:
            raise
        return {"posts": files[0]}


def is_posts(place: Path) -> bool:
    """Whether a folder is posts itself: of brat, or a split that `save_to_disk` wrote."""
    return is_saved_dataset(Source(place)) or (
        next(place.glob("*.ann"), None) is not None
        and not any((place / f"{name}.ann").exists() for names in SPLIT_NAMES.values() for name in names)
    )


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


def check_types(posts: Iterable[Example], labels: Sequence[str], place: object) -> None:
    """Refuse posts with tags that are no labels; `place` is what the message calls the file.

    Raises:
        DataFormatError: If there is one.
    """
    known = set(labels)
    for post in posts:
        unknown = sorted(set(post.tags or ()) - known)
        if unknown:
            found, expected = f"tags {unknown} in post {post.id!r}", f"entity types {entity_types(labels)}"
            advice = (
                "Choose this data set's data module, or give `types` to SnapchatDataModule or DatasetsDataModule; "
                "`type_map` of PostsDataModule renames types."
            )
            raise DataFormatError(place, None, found, expected, advice)


def refuse_overlap(ids: Mapping[str, Iterable[str]], used: Collection[str], root: Path, advice: str) -> None:
    """Compare the splits in use with all that are there: a test set that was trained on says nothing.

    Args:
        ids: Of the posts of each split that is there.
        used: The splits in use.
        root: Folder of the data set, for the message.
        advice: What to do about it.

    Raises:
        DataFormatError: If a split in use shares posts with another.
    """
    known = {split: set(some) for split, some in ids.items()}
    for one, other in combinations(SPLITS, 2):
        both = known.get(one, set()) & known.get(other, set())
        if both and (one in used or other in used):
            found = f"{len(both)} posts in both {one} and {other} ({', '.join(sorted(both)[:3])} …)"
            raise DataFormatError(root, None, found, "splits that do not overlap", advice)


def find_place(root: Path, name: str, what: str) -> Path:
    """A file or folder by a name that is absolute, below `root`, or below the current folder.

    Raises:
        DataNotFoundError: If there is none; `what` says what it was to be.
    """
    below = root / name
    place = Path(name) if Path(name).is_absolute() or not below.exists() else below
    if not place.exists():
        raise DataNotFoundError(f"No {what} at {below} nor at {Path(name).absolute()}")
    return place


def with_context(posts: list[Example], sources: Mapping[str, Texts], split: str) -> list[Example]:
    """The posts with their texts from each source, and a word about those that have none.

    Args:
        posts: The posts.
        sources: Texts by the name of their source, in order.
        split: Name of the split, for messages.

    Raises:
        DataNotFoundError: If a source has a text for none of the posts.
    """
    found, without = attach(posts, sources)
    for name, count in without.items():
        report_coverage(f"Context {name}", "text", count, len(posts), split)
    return found


def report_coverage(source: str, what: str, without: int, posts: int, split: str) -> None:
    """A word about the posts for which a file has nothing.

    Args:
        source: What the file is called.
        what: What it has of a post.
        without: Posts of which it has none.
        posts: All posts.
        split: Name of the split.

    Raises:
        DataNotFoundError: If it has something of no post: then its ids are others, or it is another file.
    """
    if posts and without == posts:
        raise DataNotFoundError(f"{source} has a {what} for none of the {posts} {split} posts; check its ids")
    if without:
        log.warning("%s: %d of %d posts have no %s in %s", split, without, posts, what, source)


def read_source(pattern: str, root: Path) -> Texts:
    """The texts of the files that match a pattern, as one source; absolute or below `root`.

    Raises:
        DataNotFoundError: If no file matches.
    """
    place = pattern if Path(pattern).is_absolute() else str(root / pattern)
    files = sorted(glob.glob(place))
    if not files:
        raise DataNotFoundError(f"No context file matches {place}; give files relative to root={root}, or absolute")
    return read_context(*files)


_SUFFIXES = (
    *(*CONLL_SUFFIXES, *JSON_SUFFIXES),
    *(".csv", ".tsv", ".tab", ".conllu", ".conllup", ".iob", ".bio", ".spacy", ".parquet", ".ann"),
)


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


def report_images(
    posts: Sequence[Example], split: str, folder: ImageSource | None = None, store: FeatureStore | None = None
) -> None:
    """Log how many posts have no image. Files that cannot be read are known only once they are used.

    Args:
        posts: The posts.
        split: Their split, for the message.
        folder: Where their images are, or
        store: where their features are.

    Raises:
        DataNotFoundError: If no post has any: then the folder or the ids are wrong.
    """
    if not posts or (store is None and folder is None):
        return
    counts = _from_store(posts, store) if store is not None else _from_folder(posts, folder)
    counts = {"without image id": sum(post.image_id is None for post in posts), **counts}
    listed = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    if sum(counts.values()) == len(posts):
        place = folder.folder if store is None and folder is not None else getattr(store, "path", "the feature store")
        advice = "" if store is None else ", or extract them with `mner features --images … --out …`"
        raise DataNotFoundError(
            f"{place} has none of the images of the {len(posts)} {split} posts ({listed}); check folder and ids{advice}"
        )
    names = getattr(store, "names_index", None) if store is not None else getattr(folder, "names", None)
    if names is not None and names.loose:
        log.warning("%s: %s", split, names.report())
    if listed:
        log.warning(
            "%s: %d of %d posts have no image (%s); they get the learned 'no image' vector",
            split, sum(counts.values()), len(posts), listed,
        )  # fmt: skip


def _from_folder(posts: Sequence[Example], folder: ImageSource | None) -> dict[str, int]:
    shown = [post.image_ids for post in posts if post.image_id is not None]
    return {"missing": sum(folder is None or not any(id_ in folder for id_ in image_ids) for image_ids in shown)}


def _from_store(posts: Sequence[Example], store: FeatureStore) -> dict[str, int]:
    shown = [post.image_ids for post in posts if post.image_id is not None]
    absent = [image_ids for image_ids in shown if not any(image_id in store for image_id in image_ids)]
    never = set(store.missing(image_id for image_ids in absent for image_id in image_ids))
    unknown = sum(never.issuperset(image_ids) for image_ids in absent)
    return {"broken when they were extracted": len(absent) - unknown, "never extracted": unknown}


def training_posts(posts: list[Example], fraction: float, seed: int, repaired: bool) -> list[Example]:
    """The training posts that are used: a part of them, drawn with `seed`, and with a stray `I-` made a `B-`."""
    if fraction < 1:
        posts = nested_subset(posts, fraction, seed)
        log.info("train: %d posts kept by train_fraction=%g", len(posts), fraction)
    if repaired:
        posts = [replace(post, tags=tuple(repair(post.tags))) if post.tags else post for post in posts]
    return posts
