"""From raw text to words with their places, split as the training data are.

Nobody published how Twitter-2015 and Twitter-2017 were tokenised, and they differ: `@user` and `#tag` are one word in
the first and two in the second, `1st` is one word in the first and `1 st` in the second, `7-star` likewise. A model
that has read one of them should be given words of its kind. The rules here were read off the files; docs/tagging.md
says how far they agree. Other data have other words: which style is theirs is found out (`mner.data.word_style`).

Format characters (zero-width spaces and joiners, soft hyphens, direction marks, variation selectors, tags of flags) are
not seen by any style: they split nothing and are never words of their own. What changes the character before it belongs
to that one's word; others are inside a word or in none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import regex

from mner.data.word_pieces import FORMAT_CHARACTERS

Style = Literal["twitter2015", "twitter2017", "treebank", "whitespace", "characters"]
STYLES: tuple[Style, ...] = get_args(Style)
# Emoji, skin tones and flags; the signs that change them besides are format characters.
_EMOJI = r"\p{Emoji_Presentation}\p{Extended_Pictographic}\p{Emoji_Modifier}\p{Regional_Indicator}"
_WORD = r"\p{L}\p{M}\p{N}"
UNSPACED = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Tai_Tham}\u30fc\uff70"
)
"""Letters of scripts that put no spaces between words, as part of a character class."""
_CLITIC = r"['\u2019](?:s|re|ve|ll|d|m)(?![\p{L}\p{N}])"
# They change the character before them: joiners, variation selectors, tags.
_CHANGING = frozenset("\u200c\u200d\u180b\u180c\u180d").union(
    *(map(chr, range(*ends)) for ends in ((0xFE00, 0xFE10), (0xE0100, 0xE01F0), (0xE0020, 0xE0080)))
)
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
    # points and commas; everything else stands alone, each emoji and each skin tone too.
    "twitter2017": rf"""
        (?:https?:|www\.) \S*
        | (?<!\S) :-? [()D] (?!\S)                              # a smiley
        | \d+ (?:[.,]\d+)*
        | [\p{{L}}\p{{M}}_] [{_WORD}_]*
        | \S
    """,
    # As the Penn Treebank and CoNLL-2003: punctuation stands alone, U.S. and O'Neill are one word, don't is do n't.
    "treebank": rf"""
        (?:https?:|www\.) \S*
        | [@\#] [{_WORD}_]+
        | \d+ (?:[.,:/] \d+)* (?![{_WORD}])
        | (?:\p{{L}}\.){{2,}}
        | (?i: [{_WORD}]+? (?= n['\u2019]t (?![{_WORD}])) | n['\u2019]t (?![{_WORD}]) | {_CLITIC})
        | [{_WORD}]+ (?: (?! (?i:{_CLITIC}) ) ['\u2019&.\-] [{_WORD}]+ )*
        | \.{{2,}} | -{{2,}}
        | [{_EMOJI}]+
        | \S
    """,
    "whitespace": r"\S+",
    # Scripts without spaces: each letter with its marks; what else there is as far as white space or a sign.
    "characters": rf"""
        (?:https?:|www\.) [^\s{UNSPACED}]*
        | [{UNSPACED}] \p{{M}}*
        | (?: (?! [{UNSPACED}] ) [{_WORD}] )+
        | [{_EMOJI}]+
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
    """The words of a text, with character offsets. White space is between words; all else that is seen is in one.

    Args:
        text: Anything; control characters and halves of surrogate pairs are words too, format characters never.
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
    if not FORMAT_CHARACTERS.search(text):
        return [Word(match.group(), *match.span()) for match in _PATTERNS[style].finditer(text)]
    hidden = {place for match in FORMAT_CHARACTERS.finditer(text) for place in range(*match.span())}
    places = [place for place in range(len(text)) if place not in hidden]
    words = []
    for match in _PATTERNS[style].finditer("".join(text[place] for place in places)):
        start, end = places[match.start()], places[match.end() - 1] + 1
        while end < len(text) and text[end] in _CHANGING:
            end += 1
        words.append(Word(text[start:end], start, end))
    return words


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
