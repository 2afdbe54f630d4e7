"""How many gold entities the texts beside posts name: `mner data leakage`.

Notes by a language model are the output of a rival system, which found entities in the post itself; retrieved texts may
hold the post. A model that reads them is to be compared with that system, not with one that reads the post alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import regex

from mner.data.examples import Example
from mner.data.formats.context import find_text, read_context
from mner.data.formats.posts import read_posts
from mner.data.sources import find_posts
from mner.errors import DataNotFoundError
from mner.labels import spans

_WORD = regex.compile(r"[\p{L}\p{N}\p{M}]+")


@dataclass(frozen=True)
class Leakage:
    """What texts name of the gold of their posts.

    Attributes:
        posts: Posts with gold tags.
        with_text: Those of them that have a text.
        entities: Entities of the posts with gold, by type.
        named: Those of them whose words are in the post's text, in order and side by side, by type.
        other_words: Words of these posts that are in no entity.
        other_named: Those of them that are in the post's text: how much of the post it repeats anyway.
    """

    posts: int
    with_text: int
    entities: dict[str, int]
    named: dict[str, int]
    other_words: int
    other_named: int

    def report(self) -> str:
        """In words, for the user."""
        if not self.posts:
            return "no gold tags, so that nobody knows whether the texts name the entities"
        total, named = sum(self.entities.values()), sum(self.named.values())
        types = ", ".join(f"{type_} {_share(self.named.get(type_, 0), n)}" for type_, n in self.entities.items())
        return (
            f"{self.with_text:,} of {self.posts:,} posts have a text; the texts name {named:,} of {total:,} gold "
            f"entities ({_share(named, total)}: {types or 'none'}) and {_share(self.other_named, self.other_words)} of "
            "the posts' other words"
        )

    def facts(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def leakage(posts: Iterable[Example], texts: Mapping[str, str]) -> Leakage:
    """Count the gold entities that texts name; small and capital letters and signs make no difference.

    Args:
        posts: Posts with gold tags; others are left out.
        texts: By post id or image id, as `read_context` gives them.

    >>> post = Example("1", None, ("Anna", "is", "in", "Old", "Town"), ("B-PER", "O", "O", "B-LOC", "I-LOC"))
    >>> leakage([post], {"1": "The old town is a quarter."}).named
    {'LOC': 1, 'PER': 0}
    """
    entities: Counter[str] = Counter()
    named: Counter[str] = Counter()
    count, with_text, others, other_named = 0, 0, 0, 0
    for post in posts:
        if post.tags is None:
            continue
        raw = find_text(texts, post)
        text = f" {plain(raw)} "
        count, with_text = count + 1, with_text + bool(raw)
        inside: set[int] = set()
        for start, end, type_ in spans(post.tags):
            words = plain(" ".join(post.words[start:end]))
            entities[type_] += 1
            named[type_] += bool(words) and f" {words} " in text
            inside |= set(range(start, end))
        rest = [plain(word) for place, word in enumerate(post.words) if place not in inside]
        others += sum(bool(word) for word in rest)
        other_named += sum(bool(word) and f" {word} " in text for word in rest)
    return Leakage(count, with_text, dict(sorted(entities.items())), dict(sorted(named.items())), others, other_named)


def plain(text: str) -> str:
    """The words of a text in small letters, without signs.

    >>> plain("L.A. Lakers' #Win")
    'l a lakers win'
    """
    return " ".join(_WORD.findall(text.casefold()))


def leakage_command(posts: Path, context: list[str] | None = None) -> int:
    """How many gold entities do the texts beside posts name?

    Notes of a language model name nearly all (they are another system's output), captions of images few. The share of
    the other words of the posts that a text repeats stands beside it.

    Args:
        posts: File of posts with gold tags, or a folder with splits.
        context: Files of context texts.

    Returns:
        Exit code 0.

    Raises:
        DataNotFoundError: If a file is missing.
        DataFormatError: If one is malformed.
    """
    if not context:
        raise DataNotFoundError("Expected files of context texts, but got none")
    for split, place in find_posts(posts).items():
        read = read_posts(place)
        for file in context:
            print(f"{split}, {Path(file).name}: {leakage(read, read_context(file)).report()}")
    return 0


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"
