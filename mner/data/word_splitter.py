"""From raw text to words with their places, split as the public Twitter files split theirs.

Nobody published how Twitter-2015 and Twitter-2017 were tokenised, and they differ: `@user` and `#tag` are one word in
the first and two in the second, `1st` is one word in the first and `1 st` in the second, `7-star` likewise. A model
that has read one of them should be given words of its kind. The rules here were read off the files; docs/tagging.md
says how far they agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import regex

Style = Literal["twitter2015", "twitter2017"]
# Emoji, the signs that change them (skin tones, U+FE0F, zero-width joiner) and flags.
_EMOJI = r"\p{Emoji_Presentation}\p{Extended_Pictographic}\p{Emoji_Modifier}\p{Regional_Indicator}\u200d\ufe0e\ufe0f"
_WORD = r"\p{L}\p{M}\p{N}"
_RULES: dict[str, str] = {
    # Hyphens, slashes, @, #, &, * and = stay inside or at the edges; underscores, full stops, apostrophes and the
    # like are words of their own, wherever they stand. Whatever sticks to a URL belongs to it.
    "twitter2015": rf"""
        (?:https?:|www\.|https?…|\bh(?:tt?)?…) \S*
        | \$ (?=[A-Za-z]{{2}}) [A-Za-z]+ (?![{_WORD}])          # a share's name: $AAPL
        | (?<!\S) \.\.\. (?!\S)                                 # three dots by themselves
        | [{_WORD}@#&*/=\-]+
        | [{_EMOJI}]+
        | \S
    """,
    # Letters with digits behind them are one word, digits with letters behind them are two; numbers keep their
    # points and commas; everything else stands alone, each emoji and each sign that changes one too.
    "twitter2017": rf"""
        (?:https?:|www\.) \S*
        | (?<!\S) :-? [()D] (?!\S)                              # a smiley
        | \d+ (?:[.,]\d+)*
        | [\p{{L}}\p{{M}}_] [{_WORD}_]*
        | \S
    """,
}
_PATTERNS = {style: regex.compile(rule, regex.VERBOSE) for style, rule in _RULES.items()}


class Word(NamedTuple):
    """A word and where it is: `text[start:end] == word`."""

    text: str
    start: int
    end: int


Splitter = Callable[[str], list[Word]]


def split_words(text: str, style: Style = "twitter2015") -> list[Word]:
    """The words of a text, with character offsets. White space is between words; all else is in exactly one.

    Args:
        text: Anything; control characters and halves of surrogate pairs are words too.
        style: Which data's rules.

    Raises:
        ValueError: If there is no such style.

    >>> [word.text for word in split_words("RT @The_Who: don't stop! #1st")]
    ['RT', '@The', '_', 'Who', ':', 'don', "'", 't', 'stop', '!', '#1st']
    >>> [word.text for word in split_words("RT @The_Who: don't stop! #1st", "twitter2017")]
    ['RT', '@', 'The_Who', ':', 'don', "'", 't', 'stop', '!', '#', '1', 'st']
    """
    if style not in _PATTERNS:
        raise ValueError(f"Expected argument `style` to be one of {get_args(Style)}, but got {style!r}")
    return [Word(match.group(), *match.span()) for match in _PATTERNS[style].finditer(text)]


def style_of(data: str | None) -> Style:
    """The style of a data module's data, by its name; `twitter2015` where it says nothing.

    >>> style_of("Twitter2017DataModule"), style_of("SnapchatDataModule"), style_of(None)
    ('twitter2017', 'twitter2015', 'twitter2015')
    """
    return "twitter2017" if "2017" in (data or "") else "twitter2015"


def readable(text: str) -> str:
    """`text` without halves of surrogate pairs, which tokenisers cannot take; as long as it was."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)
    return text
