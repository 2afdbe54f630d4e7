"""How far annotators agree: F1 of their spans, Cohen's kappa over words, and which types they confuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from mner.data.examples import Example
from mner.data.formats.joined import joined
from mner.data.formats.posts import read_records
from mner.data.formats.records import Reading, Record
from mner.data.formats.schemes import SchemeOf
from mner.errors import MNERError

Marks = frozenset[tuple[int, int, str]]
Annotations = dict[str, dict[str, tuple[str, Marks]]]
"""Text and spans by annotator, by post."""
NONE = "(none)"


@dataclass
class Agreement:
    """How far two annotators agree on the posts that both marked.

    Attributes:
        posts: How many these are.
        spans: How many spans each has.
        same: Spans that both have, with type.
        same_edges: Spans that both have, whatever the type.
        confused: How often a word has one type by the first and another by the second; `(none)` is outside of spans.
    """

    posts: int = 0
    spans: tuple[int, int] = (0, 0)
    same: int = 0
    same_edges: int = 0
    confused: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def f1(self) -> float:
        """F1 of the spans of one against those of the other; 1 where neither has any."""
        return 2 * self.same / sum(self.spans) if sum(self.spans) else 1.0

    @property
    def edges_f1(self) -> float:
        """F1 of their edges alone."""
        return 2 * self.same_edges / sum(self.spans) if sum(self.spans) else 1.0

    @property
    def kappa(self) -> float:
        """Cohen's kappa (1960) over the types of words, those outside of spans too; 1 where there is one type only."""
        total = sum(self.confused.values())
        first: Counter[str] = Counter()
        second: Counter[str] = Counter()
        for (one, other), count in self.confused.items():
            first[one] += count
            second[other] += count
        observed = sum(count for (one, other), count in self.confused.items() if one == other) / max(1, total)
        chance = sum(first[type_] * second[type_] for type_ in first) / max(1, total) ** 2
        return 1.0 if chance == 1 else (observed - chance) / (1 - chance)


def compare(posts: Annotations, one: str, other: str) -> Agreement:
    """Compare two annotators.

    >>> text = "Ana of Oslo"
    >>> marks = {"ann": frozenset({(0, 3, "PER"), (7, 11, "LOC")}), "bob": frozenset({(0, 3, "PER"), (7, 11, "ORG")})}
    >>> found = compare({"1": {name: (text, some) for name, some in marks.items()}}, "ann", "bob")
    >>> found.f1, found.edges_f1, round(found.kappa, 2), found.confused["LOC", "ORG"]
    (0.5, 1.0, 0.57, 1)
    """
    found = Agreement()
    for by in posts.values():
        if one not in by or other not in by:
            continue
        (text, first), (_, second) = by[one], by[other]
        found.posts += 1
        found.spans = found.spans[0] + len(first), found.spans[1] + len(second)
        found.same += len(first & second)
        found.same_edges += len({mark[:2] for mark in first} & {mark[:2] for mark in second})
        for start, end in _pieces(text, [*first, *second]):
            found.confused[_type_at(first, start, end), _type_at(second, start, end)] += 1
    return found


def _pieces(text: str, marks: Sequence[tuple[int, int, str]]) -> Iterable[tuple[int, int]]:
    """Words between spaces, cut at the edges of all spans."""
    edges = {edge for start, end, _ in marks for edge in (start, end)}
    begin = None
    for place, sign in enumerate(text + " "):
        if begin is not None and (sign.isspace() or place in edges):
            yield begin, place
            begin = None
        if begin is None and not sign.isspace():
            begin = place


def _type_at(marks: Marks, start: int, end: int) -> str:
    return next((type_ for first, last, type_ in sorted(marks) if first <= start and end <= last), NONE)


def agreement(posts: list[Path], format: str | None = None, reading: Reading | None = None) -> int:
    """Compare annotators: F1 of spans, Cohen's kappa, which types they confuse.

    Args:
        posts: An export with several annotators, or a file for each, whose posts are matched by id, or else by text.
        format: The format of the files; by default found by suffix and content.
        reading: How files are read where they leave a choice.

    Returns:
        Exit code 0.
    """
    found = collect({path.stem: read_records(path, format, reading) for path in posts})
    names = sorted({name for by in found.values() for name in by})
    if len(names) < 2:
        raise MNERError(f"Expected two annotators or more, but found {', '.join(names) or 'none'}")
    print(f"{'annotators':32} {'posts':>6} {'spans':>13} {'F1':>6} {'edges':>6} {'kappa':>6}")
    confused: Counter[tuple[str, str]] = Counter()
    for one, other in combinations(names, 2):
        pair = compare(found, one, other)
        if not pair.posts:
            print(f"{one + ' / ' + other:32} {0:6}  no post in common")
            continue
        scores = f"{100 * pair.f1:6.1f} {100 * pair.edges_f1:6.1f} {pair.kappa:6.3f}"
        print(f"{one + ' / ' + other:32} {pair.posts:6,} {pair.spans[0]:6,} {pair.spans[1]:6,} {scores}")
        for types, count in pair.confused.items():
            first, second = sorted(types)
            confused[first, second] += count * (first != second)
    most = [(types, count) for types, count in confused.most_common(12) if count]
    if most:
        print("\nWords that one gives one type and the other another:")
        print("\n".join(f"{one + ' / ' + other:32} {count:6,}" for (one, other), count in most))
    return 0


def collect(files: Mapping[str, Sequence[Record]]) -> Annotations:
    """The annotations of each post, of one file with several annotators or of one file each.

    Raises:
        MNERError: If two annotators have the same post with different texts, or one of them, or a file beside others,
            has a post twice.
    """
    found: Annotations = {}
    with_ids = all(record.id or record.key for records in files.values() for record in records)
    for name, records in files.items():
        schemes = SchemeOf(name)
        for record, (text, marks) in zip(records, _texts(records, schemes), strict=True):
            if record.withheld or not record.labelled:
                continue
            who = (record.annotator or name) if len(files) == 1 else name
            key = (record.key or record.id or "") if with_ids else text
            while who in found.get(key, {}):
                if with_ids:
                    again = f"post {record.id or record.key!r} twice by {who!r}"
                    advice = " Annotators of one file are compared when it is given alone." if len(files) > 1 else ""
                    raise MNERError(f"{name}: found {again}; expected one annotation a post.{advice}")
                key += "\n"  # a text that comes again is another post
            post = found.setdefault(key, {})
            if any(text != other for other, _ in post.values()):
                raise MNERError(f"{name}, post {record.id or record.key!r}: another text than of another annotator")
            post[who] = text, marks
    return found


def _texts(records: Sequence[Record], scheme: SchemeOf) -> Iterable[tuple[str, Marks]]:
    """Text and spans of each record, those of words as well."""
    for record in records:
        for tag in record.tags or ():
            scheme.check(record.place, tag)
    _, tags = scheme.convert(record.tags for record in records)
    for record, own in zip(records, tags, strict=True):
        if record.text is not None and record.marks is not None:
            yield record.text, frozenset((mark.start, mark.end, mark.type) for mark in record.marks)
        elif record.words is not None:
            text, marks = joined(Example("", None, tuple(record.words), own))
            yield text, frozenset((mark.start, mark.end, mark.type) for mark in marks)
        else:
            yield record.text or "", frozenset()
