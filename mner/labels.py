"""BIO labels and entity spans: the one place that knows how tags become spans.

Two readings of a malformed sequence are in use. *Lenient* is seqeval's default (conlleval's): an `I-` that continues
nothing opens an entity. *Strict* is seqeval's `mode="strict", scheme=IOB2`: only `B-` opens one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Mode = Literal["lenient", "strict"]
MODES: tuple[Mode, ...] = ("lenient", "strict")


class Span(NamedTuple):
    """An entity over words `start` up to, not including, `end`."""

    start: int
    end: int
    type: str


RESERVED_TYPES = {
    "all": "tables of scores have a row `all` for all types together",
    "strict": "strict scores are logged as `val/strict/f1`, as F1 of such a type would be",
    "(none)": "tables of errors have a row `(none)` for what is missed or spurious",
}
"""Names that an entity type cannot have, and why."""


def check_types(types: Iterable[str]) -> None:
    """Refuse entity types whose scores could not be told from others.

    >>> check_types(["PER", "f1", "loss", "geo-loc"])

    Raises:
        ValueError: If a type has a name of `RESERVED_TYPES`, begins with `strict/`, or begins or ends with `-`, which
            seqeval's strict mode strips, so that it takes `-` and `--` for one type.
    """
    for type_ in types:
        reason = RESERVED_TYPES.get("strict" if type_.startswith("strict/") else type_)
        if reason is None and type_.strip("-") != type_:
            reason = "seqeval's strict mode drops a `-` at the ends of a type, so that scores of several would be mixed"
        if reason is not None:
            raise ValueError(f"Expected types that scores can name, but got {type_!r}: {reason}; rename the type")


def bio_labels(types: Sequence[str]) -> list[str]:
    """The label list of `types`: `O` first (padding is index 0), then `B-` and `I-` of each type.

    >>> bio_labels(["PER", "LOC"])
    ['O', 'B-PER', 'I-PER', 'B-LOC', 'I-LOC']
    """
    if not types or len(set(types)) != len(types) or not all(types):
        raise ValueError(f"Expected argument `types` to be distinct, non-empty names, but got {list(types)}")
    check_types(types)
    return ["O", *(f"{prefix}-{type_}" for type_ in types for prefix in "BI")]


def entity_types(labels: Iterable[str]) -> list[str]:
    """The entity types of a label list, in order of first appearance.

    >>> entity_types(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
    ['PER', 'LOC']
    """
    return list(dict.fromkeys(split_tag(label)[1] for label in labels if label != "O"))


def split_tag(tag: str) -> tuple[str, str]:
    """`"B-PER"` -> `("B", "PER")`, `"O"` -> `("O", "")`.

    >>> split_tag("B-PER"), split_tag("O")
    (('B', 'PER'), ('O', ''))

    Raises:
        ValueError: If `tag` is no BIO tag.
    """
    prefix, dash, type_ = tag.partition("-")
    if tag == "O" or (prefix in ("B", "I") and dash and type_):
        return prefix, type_
    raise ValueError(f"Expected a BIO tag (O, B-TYPE or I-TYPE), but got {tag!r}")


def spans(tags: Sequence[str], mode: Mode = "lenient") -> list[Span]:
    """The entities of one tag sequence.

    >>> spans(["I-PER", "O", "B-LOC", "I-LOC"])
    [Span(start=0, end=1, type='PER'), Span(start=2, end=4, type='LOC')]
    >>> spans(["I-PER", "O", "B-LOC", "I-LOC"], mode="strict")
    [Span(start=2, end=4, type='LOC')]
    """
    if mode not in MODES:
        raise ValueError(f"Expected argument `mode` to be one of {MODES}, but got {mode!r}")
    found: list[Span] = []
    start, open_type = 0, ""
    for position, tag in enumerate([*tags, "O"]):
        prefix, type_ = split_tag(tag)
        if prefix == "I" and type_ == open_type:
            continue
        if open_type:
            found.append(Span(start, position, open_type))
        opens = prefix == "B" or (prefix == "I" and mode == "lenient")
        start, open_type = position, type_ if opens else ""
    return found


def tags_of(entities: Iterable[Span], length: int) -> list[str]:
    """The BIO tags of non-overlapping spans over `length` words; the inverse of `spans`.

    >>> tags_of([Span(1, 3, "LOC")], length=4)
    ['O', 'B-LOC', 'I-LOC', 'O']
    """
    tags = ["O"] * length
    for start, end, type_ in entities:
        if not 0 <= start < end <= length:
            raise ValueError(f"Expected a span within {length} words, but got {start}..{end}")
        if any(tag != "O" for tag in tags[start:end]):
            raise ValueError(f"Expected spans that do not overlap, but {start}..{end} ({type_}) meets another")
        tags[start:end] = [f"B-{type_}"] + [f"I-{type_}"] * (end - start - 1)
    return tags


def stray_insides(tags: Sequence[str]) -> list[int]:
    """Positions whose `I-` continues no entity of its type (after `O`, another type, or at the start).

    >>> stray_insides(["I-PER", "I-PER", "O", "I-LOC"])
    [0, 3]
    """
    previous = "", ""
    stray = []
    for position, tag in enumerate(tags):
        prefix, type_ = split_tag(tag)
        if prefix == "I" and previous[1] != type_:
            stray.append(position)
        previous = prefix, type_
    return stray


def repair(tags: Sequence[str]) -> list[str]:
    """`tags` with each stray `I-` made a `B-`: the lenient entities, written as strict IOB2.

    >>> repair(["I-PER", "I-PER", "O", "I-LOC"])
    ['B-PER', 'I-PER', 'O', 'B-LOC']
    """
    stray = set(stray_insides(tags))
    return [f"B-{split_tag(tag)[1]}" if position in stray else tag for position, tag in enumerate(tags)]


def allowed_transitions(labels: Sequence[str]) -> tuple[list[bool], list[list[bool]]]:
    """Which labels may start a sequence, and which may follow which, under IOB2.

    Returns:
        `start` (l) and `follow` (l, l) with `follow[i][j]` true where label `j` may come right after label `i`.

    >>> start, follow = allowed_transitions(["O", "B-PER", "I-PER"])
    >>> start, follow[0]
    ([True, True, False], [True, True, False])
    """
    pairs = [split_tag(label) for label in labels]
    start = [prefix != "I" for prefix, _ in pairs]
    follow = [[prefix != "I" or type_ == before for prefix, type_ in pairs] for _, before in pairs]
    return start, follow
