"""Posts as text with spans, for the formats that hold no words: words joined by spaces."""

from __future__ import annotations

from mner.data.examples import Example
from mner.data.formats.records import Mark
from mner.errors import MNERError
from mner.labels import spans


def joined(post: Example) -> tuple[str, list[Mark]]:
    """The words of a post joined by spaces, and its entities over the characters.

    Raises:
        MNERError: If a word holds a blank, at which it would be split when it is read again.

    >>> joined(Example("1", None, ("In", "Oslo"), ("O", "B-LOC")))
    ('In Oslo', [Mark(start=3, end=7, type='LOC', text='Oslo')])
    """
    for word in post.words:
        if any(blank in word for blank in " \t\r\n"):
            raise MNERError(
                f"Post {post.id!r} has the word {word!r}, which holds a blank: a format of texts cannot say that it is "
                "one word; write a format of words, such as json_lines"
            )
    starts, end = [], 0
    for word in post.words:
        starts.append(end)
        end += len(word) + 1
    text = " ".join(post.words)
    marks = []
    for first, until, type_ in spans(post.tags or ()):
        start, stop = starts[first], starts[until - 1] + len(post.words[until - 1])
        marks.append(Mark(start, stop, type_, text[start:stop]))
    return text, marks
