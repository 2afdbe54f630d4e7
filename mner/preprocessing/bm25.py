"""BM25 over a corpus on disk: an index that is built once and then mapped into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import regex

from mner.errors import MissingDependencyError
from mner.files import output_folder
from mner.preprocessing.corpus import Corpus, Text

_LEFT_OUT = regex.compile(r"https?:\S*|@\w+")
_WORD = regex.compile(r"[\p{L}\p{N}\p{M}]+")
_FILES = [f"{part}.csc.index.npy" for part in ("data", "indices", "indptr")] + ["params.index.json", "vocab.index.json"]
Found = list[tuple[int, float]]
"""Numbers of texts with their scores, best first."""


class BM25:
    """Okapi BM25 (Robertson and Zaragoza 2009) in Lucene's form, which MoRe (Wang et al. 2022) used, by bm25s.

    ::

        score(q, d) = Σ_{w in q} log(1 + (n - n_w + 0.5) / (n_w + 0.5)) · f_wd / (f_wd + k1 (1 - b + b |d| / mean |d|))

    Words are runs of letters and digits in small letters; URLs and users are left out.

    Args:
        corpus: The texts; the index lies beside them and is built if it is not there.
        k1: How fast the repetition of a word stops to count.
        b: How much the length of a text counts.

    Raises:
        MissingDependencyError: Without bm25s.
    """

    name = "bm25"

    def __init__(self, corpus: Corpus, k1: float = 1.2, b: float = 0.75) -> None:
        if k1 < 0 or not 0 <= b <= 1:
            raise ValueError(f"Expected `k1` of at least 0 and `b` from 0 to 1, but got {k1} and {b}")
        try:
            import bm25s
        except ImportError as error:
            raise MissingDependencyError("Retrieving by words needs bm25s: pip install mner[retrieval]") from error
        self.corpus = corpus
        place = Path(f"bm25-k1-{k1:g}-b-{b:g}")
        if not all((corpus.folder / place / name).is_file() for name in _FILES):
            index: Any = bm25s.BM25(k1=k1, b=b, method="lucene")
            index.index(_numbered(corpus), create_empty_token=False, show_progress=False)
            with output_folder(corpus.folder) as draft:
                index.save(draft / place, show_progress=False)
        self._index: Any = bm25s.BM25.load(corpus.folder / place, mmap=True, show_progress=False, verbosity=0)

    def search(self, queries: Sequence[Text], count: int) -> list[Found]:
        """The `count` best texts for each query; fewer where fewer share a word with it."""
        return [self._search(query, count) for query in queries]

    def _search(self, query: Text, count: int) -> Found:
        known = self._index.vocab_dict
        ids = [known[word] for word in words_of(query.text) if word in known]
        if not ids:
            return []
        scores = self._index.get_scores_from_ids(ids)
        best = np.argpartition(-scores, count)[:count] if count < len(scores) else np.arange(len(scores))
        best = best[np.lexsort((best, -scores[best]))]
        return [(int(place), float(scores[place])) for place in best if scores[place]]


def words_of(text: str) -> list[str]:
    """The words that BM25 compares.

    >>> words_of("RT @bo: Rain in L.A. #Oslo2024 http://t.co/1")
    ['rt', 'rain', 'in', 'l', 'a', 'oslo2024']
    """
    found: list[str] = _WORD.findall(_LEFT_OUT.sub(" ", text.lower()))
    return found


def _numbered(corpus: Corpus) -> Any:
    """The words of all texts as numbers; one object a number, whichever text it is in."""
    from bm25s.tokenization import Tokenized

    vocabulary: dict[str, int] = {}

    def numbers() -> Iterator[list[int]]:
        for text in corpus.texts():
            yield [vocabulary.setdefault(word, len(vocabulary)) for word in words_of(text.text)]

    ids = list(numbers())
    return Tokenized(ids=ids, vocab=vocabulary)
