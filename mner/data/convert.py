"""`mner data convert`: posts from any format that is read into any that is written, dealt out to splits where asked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, TextIO

from mner.data.examples import SPLITS, Example
from mner.data.formats.conll import conll_text
from mner.data.formats.posts import FORMATS, format_named, read_posts
from mner.data.formats.records import Reading
from mner.data.formats.schemes import Scheme
from mner.data.huggingface.writer import export
from mner.data.sources import find_posts
from mner.data.splitting import by_group
from mner.errors import DataFormatError, MNERError
from mner.files import STANDARD, in_folder, output_folder, refuse_inputs, whole
from mner.labels import spans

HUGGING_FACE = "huggingface"
UNLABELLED = "unlabelled"
"""The file of posts without gold beside the splits that the others are dealt out to."""
_BY_SUFFIX = {
    ".jsonl": "json_lines", ".json": "label_studio", ".txt": "conll", ".conll": "conll", ".conllu": "conllu",
    ".csv": "csv_tokens", ".tsv": "webanno", ".iob": "spacy_iob", ".spacy": "spacy", ".parquet": "parquet",
    ".ann": "brat",
}  # fmt: skip
_NO_IMAGES = ("brat", "webanno", "spacy_iob")


def convert(
    posts: Path,
    out: Path,
    format: str | None = None,
    split: str | None = None,
    by: Literal["group", "share"] = "group",
    seed: int = 0,
    scheme: Scheme = "IOB2",
    input_format: str | None = None,
    reading: Reading | None = None,
    images: Path | None = None,
    context: list[Path] | None = None,
    types: list[str] | None = None,
) -> int:
    """Write posts in another format: a file into a file, a folder of splits into a folder of splits.

    Args:
        posts: File, pipe or folder of posts.
        out: What to write: a file, or a folder for several splits; nothing that is there is replaced unless mner wrote
            it. `-` is the standard output.
        format: The format to write, or huggingface for a folder of Hugging Face datasets with images and texts; by
            default by the suffix of `out` (.jsonl, .txt, .csv, .spacy ...), in a folder json_lines.
        split: Deal all posts out to train, valid and test, by shares: 80/10/10; those without gold go to a file of
            their own, `unlabelled`.
        by: Whether posts of one image or of nearly the same text stay together (group), or not (share).
        seed: Of the split.
        scheme: The tag scheme of CoNLL that is written.
        input_format: The format of `posts`; by default found by suffix and content.
        reading: How `posts` are read where they leave a choice.
        images: Folder of the images, for huggingface.
        context: Files of texts, for huggingface.
        types: The entity types in the order of the labels, for huggingface.

    Returns:
        Exit code 0.
    """
    refuse_inputs(out, [posts])
    if format == HUGGING_FACE:
        return export(posts, out, images, context, types, input_format, reading)
    if images or context or types:
        raise MNERError(f"--images, --context and --types are for --format {HUGGING_FACE}; others hold names of images")
    name = format or _BY_SUFFIX.get(out.suffix.lower(), "json_lines" if not out.suffix else "")
    if not name:
        known = ", ".join(name for name, one in FORMATS.items() if one.write is not None)
        raise MNERError(f"--format is needed for {out}; there are {known}, {HUGGING_FACE}")
    suffix = format_named(name).suffix
    found = {key: read_posts(file, input_format, reading=reading) for key, file in find_posts(posts).items()}
    parts: dict[str, Sequence[Example]] = dict(found)
    if split is not None:
        parts = _dealt([post for part in found.values() for post in part], split, by, seed)
    told = sys.stderr if str(out) == STANDARD else sys.stdout
    for key, part in parts.items():
        print(f"{key}: {_counted(part)}", file=told)
    say_losses(name, parts, told)
    if "posts" in parts:
        if name != "brat" or out.suffix == ".ann":  # brat's folder looks after itself
            refuse_taken(out)
        write_as(out, parts["posts"], name, scheme)
    elif name == "brat":
        for key, part in parts.items():
            write_as(out / key, part, name, scheme)
    else:
        if out.suffix:
            raise MNERError(f"{len(parts)} splits need a folder, but {out} has the name of a file")
        with output_folder(out) as folder:
            for key, part in parts.items():
                write_as(folder / f"{key}{suffix}", part, name, scheme)
    print(f"Written to {out}, as {name}", file=told)
    return 0


def refuse_taken(out: Path) -> None:
    """Refuse to write over a file or folder; the standard output, pipes and devices are none.

    Raises:
        DataFormatError: If there is one.
    """
    if str(out) != STANDARD and (out.is_file() or out.is_dir()):
        raise DataFormatError(out, None, "something there already", "a new file", "Name another, or remove it.")


def write_as(path: Path, posts: Sequence[Example], name: str, scheme: Scheme) -> None:
    """Write posts to a new file in a format, or to the standard output (`-`) or a pipe; `scheme` is for CoNLL."""
    suffix = format_named(name).suffix
    if suffix and (str(path) == STANDARD or (path.exists() and not path.is_file())):
        with TemporaryDirectory() as folder, in_folder(path) as stream:
            write_as(Path(folder) / f"posts{suffix}", posts, name, scheme)
            stream.write((Path(folder) / f"posts{suffix}").read_bytes())
    elif name == "conll":
        with whole(path) as stream:
            stream.write(conll_text(posts, scheme).encode())
    elif (write := format_named(name).write) is not None:
        write(path, posts)


def _dealt(posts: Sequence[Example], split: str, by: str, seed: int) -> dict[str, Sequence[Example]]:
    try:
        shares: dict[str, float] = dict(zip(SPLITS, map(float, split.split("/")), strict=True))
        if min(shares.values()) < 0 or not sum(shares.values()):
            raise ValueError
    except ValueError:
        raise MNERError(f"Expected --split as shares of train/valid/test such as 80/10/10, but got {split!r}") from None
    gold = [post for post in posts if post.tags is not None] or posts
    apart = gold if by == "group" else [Example(str(n), None, (str(n),)) for n in range(len(gold))]
    parts = by_group(apart, shares, seed)
    if by == "share":
        parts = {key: [gold[int(one.id)] for one in part] for key, part in parts.items()}
    rest = [post for post in posts if post.tags is None] if len(gold) < len(posts) else []
    return {**parts, UNLABELLED: rest} if rest else dict(parts)


def _counted(posts: Sequence[Example]) -> str:
    entities = sum(len(spans(post.tags or ())) for post in posts)
    without = sum(post.tags is None for post in posts)
    return f"{len(posts):,} posts, {entities:,} entities" + (f", {without:,} without gold" if without else "")


def say_losses(name: str, parts: dict[str, Sequence[Example]], told: TextIO | None = None) -> None:
    """Say what the format has no place for, on the standard output if not on another stream."""
    posts = [post for part in parts.values() for post in part]
    images = sum(bool(post.image_ids) for post in posts)
    more = sum(bool(post.more_images) for post in posts)
    if name in _NO_IMAGES and images:
        print(f"{name} has no place for images: the names of {images:,} posts' images are not written", file=told)
    elif name in ("csv_tokens", "csv_spans") and more:
        print(f"{name} has one image a post: further images of {more:,} posts are not written", file=told)
