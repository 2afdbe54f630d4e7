"""Is a data set fit for training? Faults of labels, images, texts and splits, found before a run finds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from mner.data.examples import Example, fingerprint
from mner.data.formats.context import find_text, read_context
from mner.data.formats.images import ImageFolder, Reason, load_image, report_broken
from mner.data.formats.posts import read_posts
from mner.data.formats.records import Reading
from mner.data.sources import SPLIT_NAMES, find_context, find_images, find_posts
from mner.errors import DataFormatError
from mner.labels import check_types, split_tag, stray_insides

ONE = "posts"
"""What the posts of one file are called, which is no split."""


@dataclass
class SplitReport:
    """What was found in one split.

    Attributes:
        posts: Posts.
        fingerprint: Of the labels.
        scheme: The tag scheme that the file is in.
        types: Entity types that its tags name.
        stray: `I-` tags that continue no entity of their type.
        duplicates: Posts whose text an earlier post of the split has.
        images: Images that could be opened, or None where they were not looked for.
        bad_images: Image id -> why it could not be opened.
        without_text: For each context source, the posts without a text.
    """

    posts: int
    fingerprint: str
    scheme: str = "IOB2"
    types: list[str] = field(default_factory=list)
    stray: int = 0
    duplicates: int = 0
    images: int | None = None
    bad_images: dict[str, Reason] = field(default_factory=dict)
    without_text: dict[str, int] = field(default_factory=dict)


@dataclass
class Report:
    """What `verify` found. Errors make a data set unfit for training, warnings are for the user to judge.

    Attributes:
        splits: By name.
        errors: Faults that a run would fail on, or that would make its score worthless.
        warnings: Facts that a user should know.
    """

    splits: dict[str, SplitReport] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def fit_for_training(self) -> bool:
        """Whether there are no errors."""
        return not self.errors

    def render(self) -> str:
        """The report as text."""
        lines = []
        for name, split in self.splits.items():
            lines.append(f"{name}: {split.posts:,} posts, labels {split.fingerprint}, types {' '.join(split.types)}")
            lines.append(f"  tags: {split.scheme}" + (", read as IOB2" if split.scheme != "IOB2" else ""))
            if split.images is None:
                lines.append("  images: not checked")
            else:
                missing = sum(reason == "missing" for reason in split.bad_images.values())
                broken = len(split.bad_images) - missing
                lines.append(f"  images: {split.images:,} good, {missing:,} missing, {broken:,} broken")
            for source, without in split.without_text.items():
                lines.append(f"  {source}: a text for {split.posts - without:,} of {split.posts:,} posts")
        lines += [f"warning: {text}" for text in self.warnings]
        lines += [f"error: {text}" for text in self.errors]
        verdict = "fit for training" if self.fit_for_training else "NOT fit for training"
        lines.append(f"{verdict} ({_count(self.errors, 'error')}, {_count(self.warnings, 'warning')})")
        return "\n".join(lines)


def verify(
    splits: Mapping[str, Sequence[Example]],
    images: Path | Mapping[str, Path] | None = None,
    *,
    types: Sequence[str] | None = None,
    context: Mapping[str, Mapping[str, Mapping[str, str]]] | None = None,
    max_length: int = 512,
    special: int = 2,
) -> Report:
    """Look for faults in a data set.

    Errors are: no posts, tags that are no BIO tags, entity types that are not expected, posts without tags in train or
    valid, an id twice in a split or in two splits. Warnings are: stray `I-`, missing and broken images, equal texts in
    a split or in two splits, posts without a text in a context source, a test split without tags, posts longer than the
    encoder, which are read in windows.

    Args:
        splits: The posts of each split.
        images: Folder of the images, or one for each split; None to leave images unchecked. Every image is decoded.
        types: The entity types that are expected; None for those of the training split.
        context: For each split the texts of each source, as `read_context` gives them.
        max_length: Most word pieces of the encoder.
        special: How many of them are special tokens.

    Raises:
        DataNotFoundError: If `images` names a folder that is not there.
    """
    report = Report()
    if not any(splits.values()):
        report.errors.append("no posts at all")
    expected = None if types is None else set(types)
    for name, posts in splits.items():
        split = SplitReport(len(posts), fingerprint(posts), getattr(posts, "scheme", "IOB2"))
        report.splits[name] = split
        if not posts:
            report.errors.append(f"{name}: no posts")
        report.warnings += [f"{name}: {note}" for note in getattr(posts, "notes", ()) if "without gold" not in note]
        _check_ids(name, posts, report)
        _check_tags(name, posts, split, report)
        if expected is None and name == "train":
            expected = set(split.types)
        _check_texts(name, posts, split, report)
        _check_lengths(name, posts, max_length, special, report)
        _check_context(name, posts, (context or {}).get(name, {}), split, report)
        folder = images.get(name) if isinstance(images, Mapping) else images
        if folder is not None:
            _check_images(name, posts, folder, split, report)
    for name, split in report.splits.items():
        try:
            check_types(split.types)
        except ValueError as error:
            report.errors.append(f"{name}: {error}")
        strange = sorted(set(split.types) - expected) if expected is not None else []
        if strange:
            whose = "expected" if types is not None else "of the training split"
            report.errors.append(
                f"{name}: entity types {strange} are not among those {whose}, {sorted(expected or ())}"
            )
    for (first, posts), (second, others) in combinations(splits.items(), 2):
        _check_overlap(first, posts, second, others, report)
    return report


def verify_command(
    root: Path,
    images: Path | None = None,
    types: list[str] | None = None,
    text_encoder: str | None = None,
    format: str | None = None,
    reading: Reading | None = None,
) -> int:
    """Check a data set: tags, images, texts, duplicates, overlap of the splits. Print what was found.

    Args:
        root: Folder of the data set, with a file for each split, or one file or pipe of posts.
        images: Folder of the images; by default looked for in the data set's folder.
        types: The entity types that are expected; by default those of the training split.
        text_encoder: The model that is to read the posts (name or folder), for its longest post; by default 512 pieces.
        format: The format of the files; by default found by suffix and content.
        reading: How files are read where they leave a choice.

    Returns:
        Exit code: 0 if the data set is fit for training, else 1.
    """
    files = find_posts(root)
    faults: list[str] = []
    splits: dict[str, list[Example]] = {}
    context: dict[str, dict[str, Mapping[str, str]]] = {}
    for name, file in files.items():
        try:
            splits[name] = read_posts(file, format, reading=reading)
            # One file in a folder is dealt out: what lies beside it is for all of its posts, those of train, too.
            texts = find_context(root, "train" if name == ONE else name) if root.is_dir() else {}
            context[name] = {source: read_context(path) for source, path in texts.items()}
        except DataFormatError as error:
            faults.append(str(error))
    found = {name: find_images(root, "train" if name == ONE else name) for name in splits if root.is_dir()}
    folders = {name: images or found.get(name) for name in splits}
    length: dict[str, int] = {}
    if text_encoder is not None:
        from mner.data.encoder_limit import encoder_config, encoder_limit
        from mner.data.tokenizer import PostTokenizer

        tokenizer = PostTokenizer(text_encoder)
        tokenizer.limit_to(encoder_limit(encoder_config(text_encoder)))
        length = {"max_length": tokenizer.max_length, "special": tokenizer.max_length - tokenizer.room}
    places = {name: path for name, path in folders.items() if path}
    report = verify(splits, places, types=types, context=context, **length)
    if faults:
        report.errors = [error for error in report.errors if error != "no posts at all"] + faults
    for name in (name for name in SPLIT_NAMES if name not in files and ONE not in files):
        # Training needs a valid split to choose its checkpoint; a test split may be held back.
        (report.warnings if name == "test" else report.errors).append(f"{name}: no such split in {root}")
    print(f"{root}\n{report.render()}")
    return 0 if report.fit_for_training else 1


def _check_ids(name: str, posts: Sequence[Example], report: Report) -> None:
    twice = [id_ for id_, count in Counter(post.id for post in posts).items() if count > 1]
    if twice:
        report.errors.append(f"{name}: {_count(twice, 'id')} used more than once: {_some(twice)}")


def _check_tags(name: str, posts: Sequence[Example], split: SplitReport, report: Report) -> None:
    unlabelled, malformed, types = [], [], set()
    for post in posts:
        if post.tags is None:
            unlabelled.append(post.id)
            continue
        try:
            types |= {split_tag(tag)[1] for tag in post.tags}
            split.stray += len(stray_insides(post.tags))
        except ValueError:
            malformed.append(post.id)
            continue
        if len(post.tags) != len(post.words):
            malformed.append(post.id)
    split.types = sorted(types - {""})
    if malformed:
        report.errors.append(f"{name}: {_count(malformed, 'post')} with malformed tags: {_some(malformed)}")
    if unlabelled:
        text = f"{name}: {_count(unlabelled, 'post')} without gold tags: {_some(unlabelled)}"
        (report.warnings if name in ("test", ONE) else report.errors).append(text)
    if split.stray:
        report.warnings.append(
            f"{name}: {split.stray:,} stray I- (an I- that continues no entity); lenient and strict scores will differ"
        )


def _check_texts(name: str, posts: Sequence[Example], split: SplitReport, report: Report) -> None:
    seen: set[tuple[str, ...]] = set()
    twice = []
    for post in posts:
        if post.words in seen:
            twice.append(post.id)
        seen.add(post.words)
    split.duplicates = len(twice)
    if twice:
        report.warnings.append(f"{name}: {_count(twice, 'post')} with the text of an earlier one: {_some(twice)}")


def _check_lengths(name: str, posts: Sequence[Example], max_length: int, special: int, report: Report) -> None:
    long = [len(post.words) for post in posts if len(post.words) > max_length - special]
    if long:
        have = "has" if len(long) == 1 else "have"
        report.warnings.append(
            f"{name}: {_count(long, 'post')} {have} more words than fit into an encoder of {max_length} pieces "
            f"(most: {max(long):,}); they are read in windows that overlap"
        )


def _check_context(
    name: str, posts: Sequence[Example], sources: Mapping[str, Mapping[str, str]], split: SplitReport, report: Report
) -> None:
    for source, texts in sources.items():
        without = [post.id for post in posts if not find_text(texts, post)]
        split.without_text[source] = len(without)
        if without:
            report.warnings.append(f"{name}: {_count(without, 'post')} without a text in {source}: {_some(without)}")


def _check_images(name: str, posts: Sequence[Example], folder: Path, split: SplitReport, report: Report) -> None:
    files = ImageFolder(folder)
    ids = dict.fromkeys(image_id for post in posts for image_id in post.image_ids)
    for image_id in ids:
        try:
            path = files.find(image_id)
        except DataFormatError as error:
            report.errors.append(f"{name}: {error}")
            continue
        reason: Reason = "missing" if path is None else load_image(path)[1]
        if reason:
            split.bad_images[image_id] = reason
    split.images = len(ids) - len(split.bad_images)
    if split.bad_images:
        report.warnings.append(f"{name}: {report_broken(split.bad_images, len(ids))}")
    if files.names.loose:
        report.warnings.append(f"{name}: {files.names.report()}")
    without = [post.id for post in posts if post.image_id is None]
    if without:
        report.warnings.append(f"{name}: {_count(without, 'post')} without an image id: {_some(without)}")


def _check_overlap(
    first: str, posts: Sequence[Example], second: str, others: Sequence[Example], report: Report
) -> None:
    texts = {post.words for post in posts}
    ids = {post.id: post.words for post in posts}
    shared = [post for post in others if post.id in ids]
    if shared:
        same = sum(ids[post.id] == post.words for post in shared)
        report.errors.append(
            f"{first} and {second} share {_count(shared, 'id')}, {same:,} of them with the same text: "
            f"{_some([post.id for post in shared])}. If the ids number the posts of each split, make them differ"
        )
    alike = [post.id for post in others if post.words in texts and post.id not in ids]
    if alike:
        report.warnings.append(f"{first} and {second} share the text of {_count(alike, 'post')}: {_some(alike)}")


def _count(items: Sequence[object], noun: str) -> str:
    return f"{len(items):,} {noun}{'' if len(items) == 1 else 's'}"


def _some(ids: Sequence[str], show: int = 5) -> str:
    return ", ".join(ids[:show]) + (", ..." if len(ids) > show else "")
