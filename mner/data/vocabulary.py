"""The words of a training split and of a file of word vectors, for a word-level text encoder; what they cover."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np
from numpy.typing import NDArray

from mner.data.examples import Example
from mner.data.formats.word_vectors import Vector, WordVectors, read_vectors
from mner.errors import DataFormatError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
"""The first words of every vocabulary; padding has id 0, the unknown word 1."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words by id, and their vectors.

    Attributes:
        words: `SPECIAL`, then the training split's words from frequent to rare, then those of the vectors' file alone.
        singletons: (first, end) of the ids of words that training has once.
        table: (v, e) a vector for each word, zeros for padding.
        known: How many words have their vector from the file; the others' are random.
        lowercase: Whether words were made lower case.
    """

    words: tuple[str, ...]
    singletons: tuple[int, int]
    table: NDArray[np.float32]
    known: int
    lowercase: bool


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of a split is known, in different words (types) and in running words.

    Attributes:
        types: Different words.
        running: Words.
        types_with_vector: Different words that the file of vectors has.
        running_with_vector: Words that it has.
        types_in_vocabulary: Different words of the vocabulary.
        running_in_vocabulary: Words of the vocabulary.
    """

    types: int
    running: int
    types_with_vector: int
    running_with_vector: int
    types_in_vocabulary: int
    running_in_vocabulary: int


def count_words(examples: Iterable[Example], lowercase: bool = True) -> Counter[str]:
    """The words of posts as a word-level tokeniser reads them, and how often each is there.

    Made lower case if asked for, and parted at spaces, of which words hardly ever have any.

    >>> count_words([Example("1", None, ("Old", "Town", "old"))])
    Counter({'old': 2, 'town': 1})
    """
    from tokenizers.pre_tokenizers import WhitespaceSplit

    split = WhitespaceSplit().pre_tokenize_str
    counts = Counter(word for example in examples for word in example.words)
    read: Counter[str] = Counter()
    for word, count in counts.items():
        for piece, _ in split(lower(word) if lowercase else word):
            read[piece] += count
    return read


def lower(word: str) -> str:
    """Lower case as the tokeniser makes it, letter by letter."""
    from tokenizers.normalizers import Lowercase

    lowered: str = Lowercase().normalize_str(word)
    return lowered


def read_vectors_for(path: str | PathLike[str], examples: Iterable[Example], most_frequent: int = 0) -> WordVectors:
    """The vectors of the words of posts, from any file that `read_vectors` reads.

    Words are looked for as they are and in lower case. A word that the file has in capitals alone stands for its lower
    case as well, so that a cased file serves a vocabulary in lower case.

    Args:
        path: The file.
        examples: The posts.
        most_frequent: Keep the file's first so many rows too.

    Raises:
        DataNotFoundError: If there is no such file.
        DataFormatError: If it is malformed.
    """
    words = set(count_words(examples, lowercase=False))
    found = read_vectors(path, words | set(map(lower, words)), most_frequent)
    for word, vector in list(found.vectors.items()):
        found.vectors.setdefault(lower(word), vector)
    return found


def find_vector(word: str, vectors: WordVectors | None) -> Vector | None:
    """A word's vector: its own, else that of its lower case, else None."""
    if vectors is None:
        return None
    found = vectors.vectors.get(word)
    return vectors.vectors.get(lower(word)) if found is None else found


def build_vocabulary(
    counts: Mapping[str, int],
    vectors: WordVectors | None = None,
    width: int = 100,
    lowercase: bool = True,
    seed: int = 0,
) -> Vocabulary:
    """The vocabulary of a training split.

    Args:
        counts: Its words, from `count_words`.
        vectors: Vectors of its words; the most frequent words of the file, where it was read with some, are added.
        width: Width of the vectors where there is no file.
        lowercase: As for `count_words`.
        seed: Of the vectors of words that the file lacks. They are drawn from a normal distribution as wide as the
            file's numbers are; without a file, so that vectors are about 1 long.

    Raises:
        DataFormatError: If there is no word.

    >>> vocabulary = build_vocabulary({"in": 3, "oslo": 1, "the": 2}, width=8)
    >>> vocabulary.words[4:], vocabulary.singletons, vocabulary.table.shape
    (('in', 'the', 'oslo'), (6, 7), (7, 8))
    """
    often = sorted((word for word in counts if counts[word] > 1), key=lambda word: -counts[word])
    once = [word for word in counts if counts[word] == 1]
    more = [] if vectors is None else vectors.frequent
    words = dict.fromkeys(SPECIAL)
    words.update(dict.fromkeys(often))
    first = len(words)
    words.update(dict.fromkeys(once))
    end = len(words)
    if end == len(SPECIAL):
        raise DataFormatError("the training split", None, "no word", "posts with words")
    words.update(dict.fromkeys(lower(word) if lowercase else word for word in more))
    found = {place: vector for place, word in enumerate(words) if (vector := find_vector(word, vectors)) is not None}
    width = width if vectors is None else vectors.width
    scale = float(np.std(list(found.values()))) if found else width**-0.5
    table = np.random.default_rng(seed).normal(0.0, scale, (len(words), width)).astype(np.float32)
    for place, vector in found.items():
        table[place] = vector
    table[0] = 0.0
    return Vocabulary(tuple(words), (first, end), table, len(found), lowercase)


def coverage(counts: Mapping[str, int], vocabulary: Vocabulary, vectors: WordVectors | None = None) -> Coverage:
    """What of a split's words, from `count_words`, a vocabulary and a file of vectors have."""
    known = set(vocabulary.words)
    with_vector = [word for word in counts if find_vector(word, vectors) is not None]
    inside = [word for word in counts if word in known]
    return Coverage(
        types=len(counts),
        running=sum(counts.values()),
        types_with_vector=len(with_vector),
        running_with_vector=sum(counts[word] for word in with_vector),
        types_in_vocabulary=len(inside),
        running_in_vocabulary=sum(counts[word] for word in inside),
    )


def render_coverage(splits: Mapping[str, Coverage]) -> str:
    """A table with two lines for each split: different words, and running words."""
    rows: list[Sequence[str]] = [("", "", "words", "with a vector", "in the vocabulary")]
    for split, some in splits.items():
        for name, total, *parts in (
            ("different", some.types, some.types_with_vector, some.types_in_vocabulary),
            ("running", some.running, some.running_with_vector, some.running_in_vocabulary),
        ):
            shares = [f"{part:,} ({part / max(1, total):.1%})" for part in parts]
            rows.append((split if name == "different" else "", name, f"{total:,}", *shares))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join([*map(str.ljust, row[:2], widths[:2]), *map(str.rjust, row[2:], widths[2:])]).rstrip() for row in rows
    )
