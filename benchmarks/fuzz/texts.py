"""Any text through the tagger: words and offsets, windows, entities. Nothing seen is lost, each word is read once.

The texts are posts of the sample data and of many scripts, broken in characters and not in bytes: joined, cut, letters
of all planes put in, halves of surrogate pairs, marks that combine, what cannot be seen.
"""

from __future__ import annotations

import random
import sys
import unicodedata
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from outcomes import Outcome, Target, tried

from mner.data.formats.conll import read_conll
from mner.data.sample.texts import TYPES, write_sample
from mner.data.tokenizer import PostTokenizer
from mner.data.windows import encode_windows, kept, windows
from mner.data.word_pieces import FORMAT_CHARACTERS
from mner.data.word_splitter import STYLES, Word, split_words
from mner.data.word_style import as_written
from mner.fusion import TextOnly
from mner.labels import bio_labels, spans
from mner.tagger.tagger import Tagger

SCRIPTS = [
    "RT @The_Who: don't stop!! #1st http://t.co/a1b2C3 $AAPL U.S. 7-star…",
    "今天北京下雨了\uff0c明天呢\uff1fカタカナと漢字。",
    "กรุงเทพมหานครเป็นเมืองหลวง",
    "مرحبا بالعالم في القاهرة",
    "שלום עולם, תל אביב",
    "नमस्ते दुनिया, दिल्ली",
    "Привет, Москва! Ёлка",
    "👨\u200d👩\u200d👧 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f 👍🏽 🇩🇪 ❤️",
    "Zu\u0308rich cafe\u0301 ﬁn ① ½ İstanbul ß ŉ",
]
ODD = "\u200b\u00ad\u200d\u200c\u200e\u200f\u2060\ufe0f\ufe0e\ufeff\u202e\u2066\u061c\u180e\x00\x1c\x85\u2028\xa0\t\r\n"
ODD += "\ud800\udfff\u0301\u20e3\u3000\u30fc\ufffd\uffff\U000e0001\U000e01ef\U0010ffff'\u2019@#_-./:…$"

WHITE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""Unicode's white space, which unlike Python's has no control characters but the old ones."""


def change(pick: random.Random, text: str, other: str) -> str:
    """A text with something put in, taken out, doubled, joined or turned."""
    place, length = pick.randrange(len(text) + 1), pick.randint(1, 8)
    odd = [pick.choice(ODD) if pick.random() < 0.6 else chr(pick.randrange(sys.maxunicode)) for _ in range(length)]
    some = "".join(odd)
    changed = (
        text[:place] + some + text[place:],
        text[:place] + text[place + length :],
        text[:place] + text[max(0, place - length) :],
        text[:place] + other[pick.randrange(len(other) + 1) :],
        text[:place] + text[place:][::-1],
        text[:place] + text[place:].swapcase(),
        unicodedata.normalize(pick.choice(("NFC", "NFD", "NFKC", "NFKD")), text),
        text.replace(" ", pick.choice(("", "  ", "\u200b", "\xa0"))),
    )
    return pick.choice(changed)


class Texts:
    """Real texts to break: posts of the sample data and of many scripts."""

    def __init__(self, pick: random.Random, folder: Path) -> None:
        write_sample(folder / "sample", 40, 1, 1)
        self.posts = [post.words for post in read_conll(folder / "sample" / "train.txt")]
        self.texts = [*SCRIPTS, *(as_written(words)[0] for words in self.posts)]
        self.pick = pick

    def __call__(self) -> str:
        """One, broken."""
        text = self.pick.choice(self.texts)
        for _ in range(self.pick.choice((1, 1, 2, 3, 6))):
            text = change(self.pick, text, self.pick.choice(self.texts))
        return text

    def words(self) -> list[str]:
        """The words of one, which need not be words."""
        texts = [self() for _ in range(self.pick.randint(1, 40))]
        return [text if self.pick.random() < 0.1 else self.pick.choice(text.split() or ["x"]) for text in texts]


def wrong_words(text: str, words: Sequence[Word]) -> str:
    """What is wrong with the words of a text, by rules that share no code with what splits it."""
    if any(text[word.start : word.end] != word.text or word.end <= word.start for word in words):
        return f"a word that is not where it says: {words}"
    if any(before.end > word.start for before, word in pairwise(words)):
        return f"words out of order, or that overlap: {words}"
    if any(not FORMAT_CHARACTERS.sub("", word.text).strip(WHITE) for word in words):
        return f"a word of nothing that is seen: {words}"
    places = {place for word in words for place in range(word.start, word.end)}
    rest = "".join(character for place, character in enumerate(text) if place not in places)
    lost = FORMAT_CHARACTERS.sub("", rest).strip(WHITE)
    return f"lost {lost!r}" if lost else ""


def split_target(pick: random.Random, folder: Path) -> Callable[[], Outcome]:
    """`split_words`, each style in turn."""
    texts = Texts(pick, folder)

    def once() -> Outcome:
        text, style = texts(), pick.choice(STYLES)
        result, details = tried(lambda: split_words(text, style), lambda words: wrong_words(text, words))
        return result, details and f"{details}\n{style}: {text!r}"

    return once


def written_target(pick: random.Random, folder: Path) -> Callable[[], Outcome]:
    """Words put together as people write, by which the style of data is found."""
    texts = Texts(pick, folder)

    def check(words: list[str], found: Any) -> str:
        text, places = found
        return "" if [text[start:end] for start, end in places] == words else f"{found}"

    def once() -> Outcome:
        words = texts.words()
        result, details = tried(lambda: as_written(words), lambda found: check(words, found))
        return result, details and f"{details}\n{words!r}"

    return once


def wrong_windows(sizes: Sequence[int], room: int, places: Sequence[tuple[int, int]]) -> str:
    """What is wrong with a post's windows: each word in some, no gap, each answered for once."""
    count = len(sizes)
    if places[0][0] != 0 or places[-1][1] != count or any(end <= start for start, end in places if count):
        return f"windows that do not span the post: {places}"
    if any(b[0] > a[1] or b[0] <= a[0] or b[1] <= a[1] for a, b in pairwise(places)):
        return f"a gap, or a window that does not go on: {places}"
    if any(end - start > room for start, end in places):
        return f"more words than fit: {places}"
    answered = [word for start, end in kept(places) for word in range(start, end)]
    return "" if answered == list(range(count)) else f"words answered for twice or never: {kept(places)}"


def window_target(pick: random.Random, folder: Path) -> Callable[[], Outcome]:
    """`windows`, for words of any number of pieces."""

    def once() -> Outcome:
        sizes = [pick.choice((1, 1, 1, 2, 5, 40, 3000)) for _ in range(pick.choice((0, 1, 5, 30, 200)))]
        room, share = pick.choice((1, 2, 3, 7, 50, 510)), pick.choice((1.0, 0.75))
        result, details = tried(lambda: windows(sizes, room, share), lambda found: wrong_windows(sizes, room, found))
        return result, details and f"{details}\n{sizes}, {room}, {share}"

    return once


def piece_target(pick: random.Random, folder: Path) -> Callable[[], Outcome]:
    """`encode_windows`: words of any kind as the model reads them."""
    texts = Texts(pick, folder)
    tokenizers = [PostTokenizer("tiny", max_length=length) for length in (8, 20, 128)]

    def encode(tokenizer: PostTokenizer, words: list[str], context: list[str]) -> Any:
        tokenizer.forget()
        return encode_windows(tokenizer, words, context, tokenizer.learn(words, context))

    def check(tokenizer: PostTokenizer, words: list[str], found: Any) -> str:
        answered = [word for window in found for word in range(*window.words)]
        if answered != list(range(len(words))):
            return f"words answered for twice or never: {answered}"
        for window in found:
            starts, ids = window.word_starts, window.ids
            if len(ids) > tokenizer.max_length or len(starts) != window.words[1] - window.words[0]:
                return f"too many pieces, or not one start a word: {window}"
            inside = not starts or 0 < starts[0] <= starts[-1] < window.post_length
            if not inside or any(b <= a for a, b in pairwise(starts)):
                return f"starts of words that are none: {window}"
        return ""

    def once() -> Outcome:
        tokenizer, words = pick.choice(tokenizers), texts.words()
        context = [texts() for _ in range(pick.choice((0, 0, 1, 2)))]
        result, details = tried(
            lambda: encode(tokenizer, words, context), lambda found: check(tokenizer, words, found)
        )
        return result, details and f"{details}\n{tokenizer.max_length}: {words!r} {context!r}"

    return once


def tagger_target(pick: random.Random, folder: Path) -> Callable[[], Outcome]:
    """`Tagger`: entities where they say, in texts of which most are longer than the encoder."""
    texts, held = Texts(pick, folder), []
    torch.manual_seed(0)
    model = TextOnly(bio_labels(TYPES), text_encoder="tiny")
    torch.nn.init.normal_(model.head.weight, std=3.0)
    tokenizer = PostTokenizer("tiny", max_length=16)
    taggers = [Tagger(model, tokenizer=tokenizer, words=style, device="cpu") for style in STYLES]

    def check(text: str, found: Any) -> str:
        if wrong := wrong_words(text, found.words):
            return wrong
        if [(e.word_start, e.word_end, e.type) for e in found] != [tuple(span) for span in spans(found.tags)]:
            return f"entities that are not those of the tags: {found} {found.tags}"
        at = all(text[e.start : e.end] == e.text and e.text and 0 <= e.score <= 1 for e in found)
        return "" if at and len(found.tags) == len(found.words) else f"an entity that is not where it says: {found}"

    def once() -> Outcome:  # batches, since a text alone takes as long as sixteen
        if not held:
            given, tagger = [texts() for _ in range(16)], pick.choice(taggers)
            found: list[Any] = []
            result, details = tried(lambda: found.extend(tagger(given)))
            held.extend(zip(given, found, strict=True) if result == "read" else [(given, details)])
        text, one = held.pop()
        if isinstance(one, str):
            return "an error", f"{one}\n{text!r}"
        result, details = tried(lambda: one, lambda found: check(text, found))
        return result, details and f"{details}\n{text!r}"

    return once


TARGETS: dict[str, Target] = {
    "split_words": split_target,
    "as_written": written_target,
    "windows": window_target,
    "encode_windows": piece_target,
    "Tagger": tagger_target,
}
