"""What a tokeniser does with a word in running text, and around a text: found by trying, not by what it says of itself.

Attributes such as `add_prefix_space` are not always true, and no letter is a single piece in every vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from typing import Any, NamedTuple

import regex

from mner.errors import CheckpointError

IDS_ALONE = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
Ids = tuple[int, ...]
Way = Callable[[Sequence[str]], list[Ids]]

FORMAT_CHARACTERS = regex.compile(r"\p{Default_Ignorable_Code_Point}+")
"""What is not seen: zero-width spaces, joiners, soft hyphens, direction marks, variation selectors, tags of flags."""

_WORDS = (*"ab.—", "Anna", "visits", "2017", "@user", "#tag", "Москва", "東京", "の", "กรุงเทพ", "مرحبا", "नमस्ते")
_FROM_VOCABULARY = 12


class SpecialTokens(NamedTuple):
    """Ids before a text, between a pair of texts, after a pair, and after a single text."""

    before: list[int]
    between: list[int]
    after: list[int]
    after_single: list[int]


def pieces_as_in_text(tokenizer: Any) -> Way:
    """A function from words to the pieces that each has behind a space in running text.

    Three ways are tried on words of many scripts and of the vocabulary: the word as a list of one word, the word behind
    a space, and the word behind another one, whose pieces are then taken off. The last is what the others are compared
    with, and is right wherever words do not share pieces. The first way that agrees on all words is taken.

    >>> from mner.data.tokenizer import PostTokenizer
    >>> tokenizer = PostTokenizer("tiny").tokenizer
    >>> pieces_as_in_text(tokenizer)(["go"]) == [tuple(tokenizer("we go", add_special_tokens=False)["input_ids"][1:])]
    True
    """

    def listed(words: Sequence[str]) -> list[Ids]:
        rows = tokenizer([[word] for word in words], is_split_into_words=True, **IDS_ALONE)["input_ids"]
        return [tuple(row) for row in rows]

    def spaced(words: Sequence[str]) -> list[Ids]:
        return _ids(tokenizer, [f" {word}" for word in words])

    probes = list(some_words(tokenizer))
    behind = next((way for anchor in probes if (way := _behind(tokenizer, anchor, probes)) is not None), None)
    if behind is None:  # words share pieces: there is nothing to compare with
        return listed
    expected = behind(probes)
    return next((way for way in (listed, spaced) if _tried(way, probes) == expected), behind)


def special_tokens(tokenizer: Any) -> SpecialTokens:
    """The special tokens around texts, found around any two texts that can be told in the result.

    Raises:
        CheckpointError: If there are no two such texts.
    """
    for one, two in permutations(some_words(tokenizer), 2):
        first, second = _ids(tokenizer, [one, two])
        single, pair = list(tokenizer(one)["input_ids"]), list(tokenizer(one, two)["input_ids"])
        alone, start, end = _place(first, single), _place(first, pair), _place(second[::-1], pair[::-1])
        if not first or not second or alone is None or start is None or end is None:
            continue
        begin, stop = start + len(first), len(pair) - end - len(second)
        if alone == start and begin <= stop:
            return SpecialTokens(pair[:start], pair[begin:stop], pair[len(pair) - end :], single[alone + len(first) :])
    raise CheckpointError(
        "Expected a tokeniser that keeps a text's pieces together, with special tokens around them, but it does so for "
        "no two texts that were tried; choose another tokeniser"
    )


def some_piece(tokenizer: Any) -> int:
    """The unknown piece, or any piece for a tokeniser that knows everything."""
    if tokenizer.unk_token_id is not None:
        return int(tokenizer.unk_token_id)
    return next(ids[0] for ids in _ids(tokenizer, list(some_words(tokenizer))) if ids)


def without_format_characters(word: str) -> str:
    r"""A word as it is seen; one of nothing else is left as it is.

    >>> without_format_characters("La\u00adgos\u200b"), without_format_characters("\ufe0f")
    ('Lagos', '️')
    """
    return FORMAT_CHARACTERS.sub("", word) or word


def _ids(tokenizer: Any, texts: list[str]) -> list[Ids]:
    return [tuple(row) for row in tokenizer(texts, **IDS_ALONE)["input_ids"]]


def some_words(tokenizer: Any) -> Iterator[str]:
    """Words of many scripts, and some of the vocabulary itself, whatever its script is."""
    yield from _WORDS
    size = len(tokenizer)
    special = set(tokenizer.all_special_tokens)
    for number in range(size - 1, 0, -max(1, size // _FROM_VOCABULARY)):
        piece = tokenizer.convert_ids_to_tokens(number)
        if piece is None or piece in special:
            continue
        word = str(tokenizer.convert_tokens_to_string([piece])).strip().removeprefix("##")
        if word and word.isprintable() and "\ufffd" not in word and not any(map(str.isspace, word)):
            yield word


def _behind(tokenizer: Any, anchor: str, probes: Sequence[str]) -> Way | None:
    """Words behind another one, whose pieces are taken off; None where those change with what follows."""
    (lead,) = _ids(tokenizer, [anchor])

    def behind(words: Sequence[str]) -> list[Ids]:
        return [row[len(lead) :] for row in _ids(tokenizer, [f"{anchor} {word}" for word in words])]

    rows = _ids(tokenizer, [f"{anchor} {word}" for word in probes])
    return behind if all(row[: len(lead)] == lead for row in rows) else None


def _tried(way: Way, words: Sequence[str]) -> list[Ids] | None:
    try:
        return way(words)
    except (AssertionError, ValueError):  # some refuse lists of words, by an assertion
        return None


def _place(part: Sequence[int], whole: Sequence[int]) -> int | None:
    """Where `part` first stands in `whole`."""
    starts = range(len(whole) - len(part) + 1)
    return next((start for start in starts if tuple(whole[start : start + len(part)]) == tuple(part)), None)
