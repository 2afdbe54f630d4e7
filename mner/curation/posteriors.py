"""What models say of posts: the probability of each label at each word, kept as files that others can write too."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mner.data.examples import Example
from mner.errors import DataFormatError, DataNotFoundError, MNERError
from mner.files import in_folder

if TYPE_CHECKING:
    from mner.batch import Batch
    from mner.fusion.base import FusionModule
    from mner.tagger.tagger import Tagger

KEYS = ("ids", "labels", "lengths", "posteriors")


@dataclass
class Posteriors:
    """Label distributions of posts.

    Attributes:
        labels: The BIO labels, l of them.
        of: By post id: (w, l), each row 1 in sum.
        about: What made them, plain text by name.
    """

    labels: list[str]
    of: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)


def mean(several: Sequence[Posteriors], posts: Sequence[Example]) -> Posteriors:
    """The mean of what several models, or the models of several folds, say of each post.

    Raises:
        MNERError: If they have other labels than each other, or a post has none, or of another number of words.
    """
    if not several:
        raise MNERError("Expected posteriors of one model or more, but got none")
    labels, found = several[0].labels, Posteriors(several[0].labels)
    for other in several[1:]:
        if sorted(other.labels) != sorted(labels):
            raise MNERError(f"Expected models with the same labels, but got {labels} and {other.labels}")
    order = [[one.labels.index(label) for label in labels] for one in several]
    for post in posts:
        rows = [one.of[post.id][:, places] for one, places in zip(several, order, strict=True) if post.id in one.of]
        if not rows:
            raise MNERError(f"No posteriors of post {post.id!r}: expected every post in one of the files at least")
        wrong = [len(row) for row in rows if len(row) != len(post.words)]
        if wrong:
            raise MNERError(f"Posteriors of {wrong[0]} words for post {post.id!r}, which has {len(post.words)} words")
        found.of[post.id] = np.mean(rows, axis=0, dtype=np.float32)
    return found


def write_posteriors(path: Path, found: Posteriors) -> None:
    """Write a NumPy archive: `ids` (n,), `labels` (l,), `lengths` (n,), `posteriors` (sum of lengths, l).

    Raises:
        DataFormatError: If there is a file that mner did not write.
    """
    arrays: dict[str, Any] = {
        "ids": np.array(list(found.of), dtype=str),
        "labels": np.array(found.labels, dtype=str),
        "lengths": np.array([len(rows) for rows in found.of.values()], dtype=np.int64),
        "posteriors": np.concatenate([np.zeros((0, len(found.labels)), np.float32), *found.of.values()]),
        **{f"about_{name}": np.array(value) for name, value in found.about.items()},
    }
    with in_folder(path) as stream:
        np.savez_compressed(stream, allow_pickle=False, **arrays)


def read_posteriors(path: Path) -> Posteriors:
    """Read what `write_posteriors` wrote, or others in the same form.

    Raises:
        DataNotFoundError: If there is no such file.
        DataFormatError: If it holds something else, or numbers that are no probabilities.
    """
    if not path.is_file():
        raise DataNotFoundError(f"Expected a file of posteriors (.npz), but there is none at {path}")
    expected = f"a NumPy archive with {', '.join(KEYS)}"
    try:
        with np.load(path, allow_pickle=False) as archive:
            ids, labels, lengths, rows = (archive[key] for key in KEYS)
            about = {name[6:]: str(archive[name]) for name in archive.files if name.startswith("about_")}
    except (OSError, ValueError, KeyError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise DataFormatError(path, None, f"something else ({error})", expected) from None
    if rows.ndim != 2 or rows.shape != (lengths.sum(), len(labels)) or len(ids) != len(lengths):
        sizes = f"{len(ids)} posts of {int(lengths.sum())} words, {len(labels)} labels"
        found = f"posteriors of shape {rows.shape} for {sizes}"
        raise DataFormatError(path, None, found, "a row a word and a column a label")
    if not np.isfinite(rows).all() or (rows < 0).any() or (len(rows) and abs(rows.sum(1) - 1).max() > 0.01):
        raise DataFormatError(path, None, "numbers that are no probabilities", "rows of at least 0, 1 in sum")
    parts = np.split(rows.astype(np.float32), np.cumsum(lengths)[:-1]) if len(lengths) else []
    return Posteriors([str(label) for label in labels], dict(zip(map(str, ids), parts, strict=True)), about)


def posteriors_by(
    checkpoint: str | Path, posts: Sequence[Example], images: Path | None = None, device: str = "auto"
) -> Posteriors:
    """What a checkpoint says of posts, prepared as it says that its own were; `about` has what it was trained on.

    Args:
        checkpoint: The file, or the folder or Hub name of a shared model.
        posts: The posts.
        images: Folder of their images.
        device: `auto`, `cpu`, `cuda`, …
    """
    from mner.tagger.tagger import Tagger

    tagger = Tagger.load(checkpoint, device=device)
    found = posteriors_of(tagger.model, tagger_batches(tagger, posts, images), str(tagger.device))
    marks = tagger.data.get("fingerprints") or {}
    found.about = {"trained on": str(marks["train"])} if "train" in marks else {}
    return found


def tagger_batches(tagger: Tagger, posts: Sequence[Example], images: Path | None = None) -> Iterator[Batch]:
    """Posts as batches of a tagger's model; long ones in windows, as in evaluation."""
    from mner.data.formats.images import ImageFolder
    from mner.tagger.post import Post
    from mner.tagger.sections import Section

    folder = None if images is None else ImageFolder(images)
    order = sorted(posts, key=lambda post: len(post.words))
    for start in range(0, len(order), tagger.batch_size):
        some = order[start : start + tagger.batch_size]
        given = []
        for post in some:
            files = [file for id_ in post.image_ids if folder is not None and (file := folder.find(id_)) is not None]
            given.append(Post(words=post.words, image=files or None, context=post.context or None))
        items: list[Any] = []
        for number, one in enumerate(tagger.prepare(given)):
            section = Section(number, one.words, one.context, one.seen, one.object_names, one.relation)
            rows = tagger.decoder.items(section)
            items.append({**rows[0], "rest": rows[1:]} if len(rows) > 1 else rows[0])
        batch = tagger.decoder.batch(items)
        windows = batch.get("windows", [1] * len(some))
        batch["id"] = [post.id for post, count in zip(some, windows, strict=True) for _ in range(count)]
        yield batch


def posteriors_of(model: FusionModule, batches: Iterable[Batch], device: str = "cpu") -> Posteriors:
    """What a model says of the posts of batches, such as those of a data module's loader.

    Args:
        model: The model; it is in evaluation mode behind it, on `device`.
        batches: The batches.
        device: Where it runs.
    """
    import torch

    from mner.data.windows import whole_posts
    from mner.probing.runner import to_device

    model.eval().to(device)
    found = Posteriors(list(model.labels))
    with torch.no_grad():
        for batch in batches:
            scores, whole = whole_posts(model.label_scores(moved := to_device(batch, device)), moved)
            marginals = model.decoding_crf.marginals(scores, whole["word_mask"]).float().cpu().numpy()
            for id_, words, rows in zip(whole["id"], whole["words"], marginals, strict=True):
                found.of[id_] = rows[: len(words)]
    return found
