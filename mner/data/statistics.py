"""What a data set holds, in numbers: sizes as in Table 2 of the paper, entities by type, stray tags, fingerprints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mner.data.examples import Example, Posts, fingerprint
from mner.data.formats.posts import read_posts
from mner.data.formats.records import Reading
from mner.data.sources import SPLIT_NAMES, find_posts
from mner.labels import spans, stray_insides


@dataclass(frozen=True, slots=True)
class SplitStatistics:
    """Numbers of one split.

    Attributes:
        posts: Posts.
        unlabelled: Posts without gold tags.
        without_entity: Labelled posts without an entity.
        mean_words: Words in a post.
        max_words: Words in the longest post.
        mean_characters: Characters in a post, spaces not counted (so that Twitter-2015 has the 95 of Table 2).
        lenient: Entities by type, where a stray `I-` opens one.
        strict: Entities by type, where only `B-` opens one.
        stray: `I-` tags that continue no entity of their type.
        fingerprint: Of the labels.
        scheme: The tag scheme that the file is in.
    """

    posts: int
    unlabelled: int
    without_entity: int
    mean_words: float
    max_words: int
    mean_characters: float
    lenient: dict[str, int]
    strict: dict[str, int]
    stray: int
    fingerprint: str
    scheme: str = "IOB2"


def split_statistics(examples: Sequence[Example]) -> SplitStatistics:
    """The numbers of one split.

    >>> split_statistics([Example("1", None, ("In", "Oslo"), ("O", "I-LOC"))]).lenient
    {'LOC': 1}
    """
    lenient: Counter[str] = Counter()
    strict: Counter[str] = Counter()
    stray = without = 0
    for tags in (example.tags for example in examples):
        if tags is not None:
            found = spans(tags)
            lenient.update(span.type for span in found)
            strict.update(span.type for span in spans(tags, mode="strict"))
            stray += len(stray_insides(tags))
            without += not found
    lengths = [len(example.words) for example in examples]
    characters = [len("".join(example.words)) for example in examples]
    types = sorted(lenient)
    return SplitStatistics(
        posts=len(examples),
        unlabelled=sum(example.tags is None for example in examples),
        without_entity=without,
        mean_words=sum(lengths) / max(1, len(lengths)),
        max_words=max(lengths, default=0),
        mean_characters=sum(characters) / max(1, len(characters)),
        lenient={type_: lenient[type_] for type_ in types},
        strict={type_: strict[type_] for type_ in types},
        stray=stray,
        fingerprint=fingerprint(examples),
        scheme=getattr(examples, "scheme", "IOB2"),
    )


def render_statistics(splits: Mapping[str, SplitStatistics | None]) -> str:
    """A table with a column for each split; None stands for a split that was not found."""
    types = sorted({type_ for split in splits.values() if split is not None for type_ in split.lenient})
    rows: list[tuple[str, Callable[[SplitStatistics], str]]] = [
        ("posts", lambda split: f"{split.posts:,}"),
        ("  without an entity", lambda split: f"{split.without_entity:,}"),
        ("words, mean", lambda split: f"{split.mean_words:.1f}"),
        ("words, most", lambda split: f"{split.max_words:,}"),
        ("characters, mean", lambda split: f"{split.mean_characters:.1f}"),
        ("entities, lenient", lambda split: f"{sum(split.lenient.values()):,}"),
        *((f"  {type_}", _count("lenient", type_)) for type_ in types),
        ("entities, strict", lambda split: f"{sum(split.strict.values()):,}"),
        *((f"  {type_}", _count("strict", type_)) for type_ in types),
        ("stray I-", lambda split: f"{split.stray:,}"),
        ("tag scheme", lambda split: split.scheme),
        ("fingerprint", lambda split: split.fingerprint),
    ]
    if any(split is not None and split.unlabelled for split in splits.values()):
        rows.insert(1, ("  without gold", lambda split: f"{split.unlabelled:,}"))
    table = [["", *splits]]
    for name, cell in rows:
        absent = "not found" if name == "posts" else "-"
        table.append([name, *(absent if split is None else cell(split) for split in splits.values())])
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = []
    for first, *rest in table:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def stats(root: Path, format: str | None = None, reading: Reading | None = None) -> int:
    """Print the numbers of a data set: posts, lengths, entities by type, stray tags, fingerprints.

    Args:
        root: Folder of the data set, with a file for each split, or one file or pipe of posts.
        format: The format of the files; by default found by suffix and content.
        reading: How files are read where they leave a choice.

    Returns:
        Exit code 0.
    """
    posts = {split: read_posts(file, format, reading=reading) for split, file in find_posts(root).items()}
    names = tuple(posts) if "posts" in posts else tuple(SPLIT_NAMES)
    columns = {split: split_statistics(posts[split]) if split in posts else None for split in names}
    if len(posts) > 1:
        columns["all"] = split_statistics(_joined(posts.values()))
    print(f"{root}\n\n{render_statistics(columns)}")
    for split, part in posts.items():
        for note in part.notes:
            print(f"{split}, read as {part.format}: {note}")
    print(
        "\nLenient: a stray I- opens an entity (conlleval, seqeval's default). Strict: only B- does (seqeval's IOB2)."
    )
    return 0


def _joined(splits: Iterable[Posts]) -> Posts:
    """All posts; of more than one scheme, all are named."""
    parts = list(splits)
    return Posts((post for part in parts for post in part), "/".join(dict.fromkeys(part.scheme for part in parts)))


def _count(mode: str, type_: str) -> Callable[[SplitStatistics], str]:
    return lambda split: f"{getattr(split, mode).get(type_, 0):,}"
