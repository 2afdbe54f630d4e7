"""Anybody's own posts: folders, files, pipes or what is in memory, in any format that is read, types from the data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mner.data.datamodules.base import MNERDataModule
from mner.data.examples import Example
from mner.data.formats.memory import posts_in_memory
from mner.data.formats.posts import Reader, read_posts
from mner.data.formats.records import Offsets, Overlaps, Reading
from mner.data.sources import find_posts, find_splits
from mner.data.splitting import by_group
from mner.data.word_splitter import Splitter
from mner.errors import DataFormatError, DataNotFoundError
from mner.labels import bio_labels, split_tag

log = logging.getLogger(__name__)


class PostsDataModule(MNERDataModule):
    """Posts of one's own.

    Splits are the files of a folder that are named so: `train`, `valid` (or `dev`, `val`, `validation`), `test`, with
    whatever suffix the format has. One file alone is dealt out by `shares`; where only valid is missing, it is taken
    from train by them. No image and no near-duplicate text is in two splits that are dealt out so. Posts without gold
    are left out of train and valid, and counted.

    Args:
        root: Folder, file or pipe; None for posts that are in memory.
        types: The entity types; None for those of the training split, in alphabetical order.
        format: How files are read: the name of a format (`mner.data.formats.posts.FORMATS`), a function from a path to
            a list of `Example`, by its import path on the command line (`my_module.read_x`), or None to find out.
        words: How texts become words: `spaces`, a style of `mner.data.word_splitter` (`treebank`, `twitter2015` …), or
            a function; None for the words of the file, else `spaces`.
        overlaps: `error` refuses spans that overlap; `outer` keeps the longer of two.
        annotators: Of posts that several people marked differently: `error`, `first`, `majority`, or the name of one.
        fields: Which key or column is what: `text`, `words`, `tags`, `spans`, `id`, `image`, `annotator`.
        label_names: The names of numbered tags, in order.
        type_map: New names of entity types, such as `{"OTHER": "MISC"}`; null drops a type. Fingerprints are of the
            types as they are read.
        offsets: What offsets count; None to find out.
        shares: Of train, valid and test, where there is one file.
        train: Posts that are in memory: a list of `Example` or of dictionaries, a frame of pandas or polars, a
            `datasets.Dataset`. In place of `root`.
        valid: The same for the valid split.
        test: The same for the test split.
        kwargs: As for `MNERDataModule`.

    Raises:
        DataFormatError: If no post of the training split has an entity, so that there are no types.
    """

    overlap_advice: ClassVar[str] = (
        "If the ids count anew in each file, give `fields: {id: null}`, which numbers the posts of each file; else "
        "take the posts out of one of the two."
    )

    def __init__(
        self,
        root: str | None = None,
        types: list[str] | None = None,
        format: str | Reader | None = None,
        words: str | Splitter | None = None,
        overlaps: Overlaps = "error",
        annotators: str = "error",
        fields: dict[str, str | None] | None = None,
        label_names: list[str] | None = None,
        type_map: dict[str, str | None] | None = None,
        offsets: Offsets | None = None,
        shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
        train: Any = None,
        valid: Any = None,
        test: Any = None,
        **kwargs: Any,
    ) -> None:
        self.format = format
        self.reading = Reading(words, overlaps, annotators, dict(fields or {}), label_names, type_map, offsets)
        self.shares = dict(zip(("train", "valid", "test"), shares, strict=True))
        given = {"train": train, "valid": valid, "test": test}
        self.memory = {name: rows for name, rows in given.items() if rows is not None}
        if (root is None) == (not self.memory):
            raise ValueError("Expected `root`, or posts in memory as `train`, `valid`, `test`, and not both")
        self._parts: dict[str, tuple[list[Example], object]] | None = None
        place = Path(root or ".")
        self.labels = bio_labels(types) if types is not None else self._labels_of(place)
        super().__init__(str(place), **kwargs)

    def split_names(self) -> list[str]:
        """The splits that are there."""
        return list(self._splits(self.root))

    def read(self, split: str) -> tuple[list[Example], object]:
        """The posts of a split, and what messages call the place that they come from."""
        return self._read(self.root, split)

    def describe_inputs(self) -> dict[str, Any]:
        """As for any data module, with the types that were renamed."""
        return {**super().describe_inputs(), "type_map": self.reading.type_map}

    def _read(self, root: Path, split: str) -> tuple[list[Example], object]:
        parts = self._splits(root)
        if split not in parts:
            raise DataNotFoundError(f"No {split} split in {root}: found {sorted(parts)}; name its file {split}.…")
        return parts[split]

    def _splits(self, root: Path) -> dict[str, tuple[list[Example], object]]:
        """The posts of each split, read once."""
        if self._parts is None:
            found = self._found(root)
            parts: dict[str, tuple[list[Example], object]] = {**found}
            if "posts" in parts:
                parts = self._dealt(*parts["posts"], self.shares)
            elif "valid" not in parts and "train" in parts:
                posts, place = parts["train"]
                parts |= self._dealt(posts, place, {name: self.shares[name] for name in ("train", "valid")})
            self._parts = {split: (_labelled(*part, split), part[1]) for split, part in parts.items()}
        return self._parts

    def _found(self, root: Path) -> dict[str, tuple[list[Example], object]]:
        if self.memory:
            return {name: (posts_in_memory(rows, name, self.reading), name) for name, rows in self.memory.items()}
        own = self.format is not None and root.is_dir()  # a format of the user's own has whatever suffix
        files = find_splits(root, any_suffix=True) if own else find_posts(root)
        return {split: (read_posts(file, self.format, reading=self.reading), file) for split, file in files.items()}

    def _dealt(
        self, posts: Sequence[Example], place: object, shares: dict[str, float]
    ) -> dict[str, tuple[list[Example], object]]:
        gold = [post for post in posts if post.tags is not None]
        parts = by_group(gold, shares)
        if gold and (empty := [name for name, part in parts.items() if not part and name != "test"]):
            found = f"{len(gold)} posts of too few kinds: those of one image or of nearly the same text stay together"
            advice = f"Nothing is left for {' and '.join(empty)}."
            raise DataFormatError(place, None, found, "more posts, or splits in files of their own", advice)
        counts = ", ".join(f"{name} {len(part):,}" for name, part in parts.items())
        log.warning("%s: dealt out as %s; no image and no near-duplicate text is in two of them", place, counts)
        return {split: (part, place) for split, part in parts.items() if part or split != "test"}

    def _labels_of(self, root: Path) -> list[str]:
        posts, place = self._read(root, "train")
        types = {type_ for post in posts for tag in post.tags or () if (type_ := split_tag(tag)[1])}
        if not types:
            advice = "Give `types`, or posts with tags."
            raise DataFormatError(place, None, "no entity in any post", "the entity types of the data", advice)
        return bio_labels(sorted(types))


def _labelled(posts: list[Example], place: object, split: str) -> list[Example]:
    """The posts with gold, of a split that needs it."""
    kept = [post for post in posts if post.tags is not None] if split != "test" else posts
    if not kept:
        raise DataFormatError(place, None, f"no post with gold in {split}", "posts that somebody labelled")
    if len(kept) < len(posts):
        log.warning("%s: %d posts without gold left out of %s", place, len(posts) - len(kept), split)
    return kept
