"""What every reader yields: a record of a text with marks or of words with tags, before it becomes a post."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from mner.data.word_splitter import Splitter

Overlaps = Literal["error", "outer"]
Offsets = Literal["characters", "utf-16", "bytes"]
UNTYPED = "spans without a type, left out"
"""What is counted by readers, and looked at once all is read: no span of the file may have one."""


class Mark(NamedTuple):
    """A span that somebody marked, from `start` up to, not including, `end`, and the text that the file gives it."""

    start: int
    end: int
    type: str
    text: str | None = None


@dataclass(slots=True)
class Record:
    """One annotation of one post, as a file has it.

    Attributes:
        place: Number of the line, or what messages call the record.
        id: The post's id; None for a post that is to be numbered.
        text: Its text, in formats that have one.
        words: Its words, in formats that have them.
        places: Where the words are in the text, where a format has both.
        tags: A tag for each word, of any scheme.
        marks: Spans over characters of the text, or over words where there is no text. Without tags or marks the post
            has no gold.
        image_ids: Ids of its images.
        key: What records of one post by several annotators have in common; its id if empty.
        annotator: Who marked it.
        chosen: Whether the tool marks it as the right one of several.
        withheld: Why the annotation does not count (`cancelled`); empty where it does.
    """

    place: int | str
    id: str | None = None
    text: str | None = None
    words: Sequence[str] | None = None
    places: Sequence[tuple[int, int]] | None = None
    tags: Sequence[str] | None = None
    marks: Sequence[Mark] | None = None
    image_ids: tuple[str, ...] = ()
    key: str = ""
    annotator: str = ""
    chosen: bool = False
    withheld: str = ""

    @property
    def labelled(self) -> bool:
        """Whether it has tags or marks, if only an empty list of them."""
        return self.tags is not None or self.marks is not None


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read where they leave a choice.

    Attributes:
        words: How texts become words: `spaces` (and line breaks) alone, a style of `mner.data.word_splitter`, or a
            function from a text to its words. None for the words that a file has, else `spaces`, or `characters` in
            scripts without spaces. Words are cut at the edges of spans in any case.
        overlaps: `error` refuses spans that overlap; `outer` keeps the longer of two.
        annotators: Of posts that several people marked differently: `error`, `first`, `majority` (spans of more than
            half of them), or the name of one; `predictions` for what a model marked in tasks of Label Studio.
        fields: Which of a file's keys or columns is what: `text`, `words`, `tags`, `spans`, `id`, `image`, `annotator`;
            a column by its number, counted from 1, where columns have no names. `id: null` numbers the posts, `image:
            id` takes the post's id.
        label_names: The names of numbered tags, in order.
        type_map: Entity types by other names: `{"OTHER": "MISC"}`; null drops a type.
        offsets: What offsets count; None to find out from the texts of spans.
    """

    words: str | Splitter | None = None
    overlaps: Overlaps = "error"
    annotators: str = "error"
    fields: Mapping[str, str | None] = field(default_factory=dict)
    label_names: Sequence[str] | None = None
    type_map: Mapping[str, str | None] | None = None
    offsets: Offsets | None = None

    def __post_init__(self) -> None:
        known = ("text", "words", "tags", "spans", "id", "image", "annotator")
        if wrong := sorted(set(self.fields) - set(known)):
            raise ValueError(f"Expected argument `fields` to name some of {known}, but got {wrong}")
        if self.overlaps not in ("error", "outer"):
            raise ValueError(f"Expected argument `overlaps` to be 'error' or 'outer', but got {self.overlaps!r}")
        if self.offsets not in (None, "characters", "utf-16", "bytes"):
            raise ValueError(f"Expected `offsets` as 'characters', 'utf-16' or 'bytes', but got {self.offsets!r}")


class Notes(Counter[str]):
    """What was found in a file that had to be decided, and how often."""

    def add(self, what: str, count: int = 1) -> None:
        """Count something; `what` follows a number: `spans with blanks at an end, taken off`."""
        if count:
            self[what] += count

    def lines(self) -> list[str]:
        """A line each."""
        return [f"{count:,} {what}" for what, count in self.items()]
