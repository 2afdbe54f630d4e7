"""`mner init`: looks at a folder of posts and writes a commented config that trains on it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import regex

from mner.data.examples import Example, Posts
from mner.data.formats.context import find_text, read_context
from mner.data.formats.images import SUFFIXES, ImageFolder
from mner.data.formats.posts import read_posts
from mner.data.formats.records import Reading
from mner.data.sources import find_context, find_images, find_posts
from mner.errors import DataFormatError
from mner.files import refuse_foreign, write_text
from mner.labels import split_tag

MARK = "# Written by `mner init`"
_SCRIPTS = {
    "Latin": r"\p{Latin}", "Han": r"\p{Han}", "kana": r"[\p{Hiragana}\p{Katakana}]", "Hangul": r"\p{Hangul}",
    "Arabic": r"\p{Arabic}", "Cyrillic": r"\p{Cyrillic}", "Devanagari": r"\p{Devanagari}", "Thai": r"\p{Thai}",
}  # fmt: skip
_ENCODERS = {"English": "bert-base-cased", "Han": "bert-base-chinese"}
_MANY = "xlm-roberta-base"
_SIZES = ((1_000, 30, 8), (10_000, 20, 16), (10**12, 5, 32))
"""Up to how many training posts how many epochs, and posts in a batch."""
_COMMON = {"the", "and", "of", "to", "in", "is", "for", "on", "with", "you", "at", "it"}


def init(
    folder: Path,
    out: Path = Path("config.yaml"),
    text_encoder: str | None = None,
    format: str | None = None,
    reading: Reading | None = None,
) -> int:
    """Look at a folder of posts and write a commented config that trains on it.

    Args:
        folder: Folder with a file for each split, or one export, and perhaps images and captions; or one file.
        out: The config to write.
        text_encoder: The text encoder (name or folder); by default chosen by the script of the posts.
        format: The format of the files; by default found by suffix and content.
        reading: How files are read where they leave a choice.

    Returns:
        Exit code 0.
    """
    refuse_foreign(out, MARK)
    splits = {split: read_posts(file, format, reading=reading) for split, file in find_posts(folder).items()}
    posts = [post for part in splits.values() for post in part]
    types = Counter(split_tag(tag)[1] for post in posts for tag in post.tags or () if tag.startswith("B-"))
    if not types:
        raise DataFormatError(folder, None, "no entity in any post", "posts that somebody labelled, to train on")
    script = _script(posts)
    place = folder if folder.is_dir() else folder.parent
    images, shown = _images(place, posts)
    context = _context(place, posts, tuple(splits))
    said = [
        *(f"{split}: {_about(part)}" for split, part in splits.items()),
        *(f"{split}: {note}" for split, part in splits.items() for note in part.notes),
        "types: " + ", ".join(f"{type_} ({count:,})" for type_, count in sorted(types.items())),
        f"script: {script}",
        f"images: {shown:,} of {len(posts):,} posts have one in {images}" if images else "images: none",
        f"context: {', '.join(context)}" if context else "context: none",
    ]
    print("\n".join([str(folder), *(f"  {line}" for line in said)]))
    encoder = text_encoder or _ENCODERS.get(script, _MANY)
    text = _config(folder, splits, encoder, script, images, context, said, format, reading)
    write_text(out, text, MARK)
    print(f"Written to {out}. Train with: mner fit --config {out}")
    return 0


def _about(part: Posts) -> str:
    without = sum(post.tags is None for post in part)
    ending = f", {without:,} without gold" if without else ""
    return f"{len(part):,} posts, read as {part.format}, tags {part.scheme}{ending}"


def _script(posts: Sequence[Example]) -> str:
    """The script of most letters; `English` for Latin with English words in it."""
    text = " ".join(" ".join(post.words) for post in posts[:: max(1, len(posts) // 1000)])
    counts = Counter({name: len(regex.findall(pattern, text)) for name, pattern in _SCRIPTS.items()})
    script = counts.most_common(1)[0][0]
    words = text.lower().split()
    if script == "Latin" and sum(word in _COMMON for word in words) > 0.05 * len(words):
        return "English"
    return script


def _images(place: Path, posts: Sequence[Example]) -> tuple[str | None, int]:
    """The folder of images that posts name, below `place`, and how many of them have one."""
    folders = [found for split in ("train", "valid", "test") if (found := find_images(place, split)) is not None]
    if any(path.suffix.lower() in SUFFIXES for path in place.iterdir()):
        folders.append(place)
    for folder in dict.fromkeys(folders):
        files = ImageFolder(folder)
        shown = sum(any(image in files for image in post.image_ids) for post in posts)
        if shown:
            inside = folder.is_relative_to(place)
            top = place / "images" if inside and folder.parent == place / "images" else folder
            return str(top.relative_to(place)) if inside else str(top.absolute()), shown
    return None, 0


def _context(place: Path, posts: Sequence[Example], splits: tuple[str, ...]) -> list[str]:
    """The files of texts that have one for some post, below `place`."""
    files = {file for split in splits for file in find_context(place, "train" if split == "posts" else split).values()}
    files |= {file for file in place.glob("captions.*") if file.is_file()}
    found = []
    for file in sorted(files):
        texts = read_context(file)
        if any(find_text(texts, post) for post in posts):
            found.append(file.relative_to(place).as_posix())
    return found


def _config(
    folder: Path, splits: dict[str, Posts], encoder: str, script: str, images: str | None, context: list[str],
    said: list[str], format: str | None, reading: Reading | None,
) -> str:  # fmt: skip
    train = splits.get("train", splits.get("posts", Posts()))
    epochs, batch = next((epochs, batch) for most, epochs, batch in _SIZES if len(train) < most)
    several = "[" + ", ".join(context) + "]"
    root = folder if folder.is_dir() or not (images or context) else folder.parent
    lines = [
        f"{MARK}, which found:",
        *(f"#   {line}" for line in said),
        "seed_everything: 0",
        "model:",
        "  # Others: mner fit --help, and the pages on strategies.",
        f"  class_path: {'VisualAttention' if images else 'TextOnly'}",
        "  init_args:",
        f"    text_encoder: {encoder}  # by the script ({script}); any transformers model, or tiny to try the config",
        *(["    image_encoder: resnet50  # any timm model; `mner features` stores its features"] if images else []),
        "    learning_rate: 5.0e-5",
        "    head_learning_rate: 5.0e-3  # a new CRF on a pretrained encoder learns best at about 100 times the rate",
        "    warmup_ratio: 0.1",
        "data:",
        "  class_path: PostsDataModule",
        "  init_args:",
        f"    root: {root}",
        *([f"    format: {format}"] if format else []),
        *_reading_lines(reading),
        f"    batch_size: {batch}  # by the number of posts",
        *([f"    images: {images}"] if images else []),
        *([f"    context: {several}  # texts that follow the post"] if context else []),
        *(["    shares: [0.8, 0.1, 0.1]  # train, valid, test of the one file"] if "posts" in splits else []),
        "trainer:",
        f"  max_epochs: {epochs}  # by the number of posts",
        "",
    ]
    return "\n".join(lines)


def _reading_lines(reading: Reading | None) -> list[str]:
    default = Reading()
    names = ("words", "overlaps", "annotators", "fields", "label_names", "type_map", "offsets")
    given = {name: getattr(reading, name) for name in names if reading is not None}
    return [
        f"    {name}: {json.dumps(value, ensure_ascii=False)}"
        for name, value in given.items()
        if value != getattr(default, name)
    ]
