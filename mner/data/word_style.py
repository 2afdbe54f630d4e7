"""Which style of splitting text is that of some data: the one that gives their words again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import regex

from mner.data.word_splitter import STYLES, UNSPACED, Style, split_words

log = logging.getLogger(__name__)

MOST = 1_000
"""Posts that are looked at, evenly spread."""
MARGIN = 0.005
"""How much more of the words another style has to find to replace the one that goes with the data's name."""
# What people write without a space before it, behind it, on both sides.
_CLOSING = r"[,.!?:;)\]}%\u2026\u201d\u00bb\u3001\u3002\u300d\u300f\uff01\uff09\uff0c\uff1a\uff1b\uff1f]+"
_LEFT = regex.compile(rf"{_CLOSING}|(?i:['\u2019](?:s|re|ve|ll|d|m)|n['\u2019]t)")
_RIGHT = regex.compile(r"[(\[{@#$\u201c\u00ab\uff08\u300c\u300e]")
_BOTH = regex.compile(r"['\u2019_/\-]")
_ENDS_IN_LETTER, _BEGINS_WITH_LETTER = regex.compile(r"[\p{L}\p{N}]$"), regex.compile(r"[\p{L}\p{N}]")
_NUMBER, _UNIT = regex.compile(r"\d+"), regex.compile(r"(?i:st|nd|rd|th|am|pm)")
_SIGN = r"\u3001\u3002\u300c-\u300f\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f"
_ENDS_UNSPACED = regex.compile(rf"[{UNSPACED}{_SIGN}]\p{{M}}*$")
_BEGINS_UNSPACED = regex.compile(rf"[{UNSPACED}{_SIGN}]")


class WordStyle(NamedTuple):
    """A style, and the share of the data's words that it gives again."""

    style: Style
    share: float


def find_style(posts: Sequence[Sequence[str]], default: Style = "twitter2015") -> WordStyle:
    """The style that gives the words of posts again best; logged in one line.

    The raw texts are not there, so that each post is put together in two ways, by spaces and as people write (no space
    before a full stop, behind `@`, between Chinese characters ...), and split by each style. The share of a style is
    the geometric mean of both, each 2 right / (words + words found).

    Args:
        posts: Their words.
        default: The style that is kept unless another finds clearly more.

    >>> find_style([["we", "saw", "Ed.", "O'Neill", "in", "St.", "Lagos"]])
    WordStyle(style='whitespace', share=1.0)
    >>> find_style([["don", "'", "t", "go", ",", "@user", "!"]]).style, find_style([list("今天北京")]).style
    ('twitter2015', 'characters')
    """
    step = max(1, len(posts) // MOST)
    chosen = [list(words) for words in posts[::step] if words]
    shares = {style: (_share(chosen, style, False) * _share(chosen, style, True)) ** 0.5 for style in STYLES}
    best = max(STYLES, key=lambda style: shares[style] + MARGIN * (style == default))
    found = WordStyle(best, round(shares[best], 4))
    text = "words are those of style %r, which gives %.1f %% of them again; taggers will split text so"
    if found.share < 0.9:
        text += ". That is little: give the tagger a function, `words=`, that splits text as your data are"
    (log.info if found.share >= 0.9 else log.warning)(text, found.style, 100 * found.share)
    return found


def as_written(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Words put together as people write, and their places.

    >>> as_written(["@", "bo", "don", "'", "t", "go", "!", "1", "st"])[0]
    "@bo don't go! 1st"
    """
    text, places, open_quote, glue = "", [], False, True
    for number, word in enumerate(words):
        following = words[number + 1] if number + 1 < len(words) else ""
        between = bool(_ENDS_IN_LETTER.search(text) and _BEGINS_WITH_LETTER.match(following))
        quote = word == '"'
        inner = bool(_BOTH.fullmatch(word)) and between
        unit = bool(_UNIT.fullmatch(word)) and number > 0 and bool(_NUMBER.fullmatch(words[number - 1]))
        unspaced = bool(_ENDS_UNSPACED.search(text[-3:]) and _BEGINS_UNSPACED.match(word))
        if not (glue or inner or unit or unspaced or _LEFT.fullmatch(word) or (quote and open_quote)):
            text += " "
        places.append((len(text), len(text) + len(word)))
        text += word
        open_quote ^= quote
        glue = inner or bool(_RIGHT.fullmatch(word) and following) or (quote and open_quote)
    return text, places


def _by_spaces(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    places, start = [], 0
    for word in words:
        places.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(words), places


def _share(posts: Sequence[Sequence[str]], style: Style, written: bool) -> float:
    right = total = 0
    for words in posts:
        text, places = as_written(words) if written else _by_spaces(words)
        found = {(word.start, word.end) for word in split_words(text, style)}
        right += len(found.intersection(places))
        total += len(found) + len(places)
    return 2 * right / total if total else 0.0
