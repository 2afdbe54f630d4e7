"""From words to word pieces: each word on its own, so that words and pieces can never be mismatched."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mner.errors import CheckpointError
from mner.files import locate

URL = re.compile(r"(https?://|www\.)\S+", re.IGNORECASE)
IDS_ALONE = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
_TRIED = ["Anna", "NAÏVE", "don't", "#MNER", "3,14", "http://t.co/a1b2", "ゐ", "🙂"]
Ints = NDArray[np.int32]


class PostTooLongError(ValueError):
    """A post has more words than the encoder has positions."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """One tokenised post.

    Attributes:
        ids: (t,) ids of the post, then of its context, with special tokens.
        word_starts: (w,) where each word's first piece is.
        post_length: How many of `ids` belong to the post alone (special tokens included): cutting there drops the
            context. Segment ids are 0 before and 1 from there on.
    """

    ids: Ints
    word_starts: Ints
    post_length: int


class PostTokenizer:
    """Tokenises posts for a transformers model.

    Words are tokenised one by one (a pre-split word's pieces do not depend on its neighbours) and kept, so that a
    corpus costs one pass over its distinct words. A word without any piece (a lone U+FE0F) becomes the unknown piece.

    Args:
        name: Hub name or folder of the tokeniser, or `"tiny"`.
        max_length: Most pieces of post and context together; None for what the tokeniser declares. Context is cut
            first; then words keep fewer pieces each (only a word's first piece is ever tagged).
        replace_urls: Word that stands for every URL, or None to leave them. URLs are a third of a tweet's pieces.

    Raises:
        CheckpointError: If there is a model but no vocabulary, of which transformers says nothing.
    """

    def __init__(self, name: str, max_length: int | None = None, replace_urls: str | None = None) -> None:
        self.tokenizer = _load(name)
        if len(self.tokenizer) <= len(self.tokenizer.all_special_tokens):
            raise CheckpointError(
                f"Expected a tokeniser at {name!r}, but there is no vocabulary: every word would be unknown. Give the "
                "data module the `tokenizer` that the encoder was trained with (VisualBERT: bert-base-uncased)"
            )
        if _needs_prefix_space(self.tokenizer):
            self.tokenizer = _load(name, add_prefix_space=True)
        declared = self.tokenizer.model_max_length
        declared = 512 if declared > 100_000 else declared  # "no limit" is written as a huge number
        self.max_length = declared if max_length is None else max_length
        self.replace_urls = replace_urls
        self._words: dict[str, tuple[int, ...]] = {}
        self._texts: dict[str, tuple[int, ...]] = {}
        self._before, self._between, self._after = self._template()
        self._single_after = self._after_single()
        self._unknown = self._unknown_piece()

    def learn(self, words: Iterable[str], texts: Iterable[str] = ()) -> None:
        """Tokenise words and context texts in bulk; `encode` then only looks them up."""
        new_words = [word for word in dict.fromkeys(words) if word not in self._words]
        for start in range(0, len(new_words), 10_000):
            chunk = new_words[start : start + 10_000]
            shown = [[self._shown(word)] for word in chunk]
            encoded = self.tokenizer(shown, is_split_into_words=True, **IDS_ALONE)["input_ids"]
            for word, ids in zip(chunk, encoded, strict=True):
                self._words[word] = tuple(ids) or self._unknown
        new_texts = [text for text in dict.fromkeys(texts) if text not in self._texts]
        for start in range(0, len(new_texts), 1_000):
            chunk = new_texts[start : start + 1_000]
            encoded = self.tokenizer(chunk, truncation=False, verbose=False, **IDS_ALONE)["input_ids"]
            # A text longer than the model can never be used whole: keep what can be.
            self._texts.update((text, tuple(ids[: self.max_length])) for text, ids in zip(chunk, encoded, strict=True))

    def encode(self, words: Sequence[str], context: Sequence[str] = ()) -> Pieces:
        """Tokenise one post with its context texts.

        Raises:
            PostTooLongError: If the post has more words than fit, even with one piece each.
        """
        self.learn(words, context)
        ids, starts, post_length = self.encode_plain(words, context)
        return Pieces(np.asarray(ids, dtype=np.int32), np.asarray(starts, dtype=np.int32), post_length)

    def encode_plain(self, words: Sequence[str], context: Sequence[str] = ()) -> tuple[list[int], list[int], int]:
        """As `encode`, in lists, of words and texts that were learnt: for a million posts one after the other.

        Raises:
            PostTooLongError: If the post has more words than fit, even with one piece each.
        """
        if not words:
            raise ValueError("Expected a post of at least one word, but got none")
        pieces = [self._words[word] for word in words]
        texts = [found for text in context if text and (found := self._texts[text])]
        room = self.room
        ids = [*self._before, *chain.from_iterable(pieces)]
        if len(ids) - len(self._before) > room:
            pieces = _shorten_words(pieces, room)
            ids = [*self._before, *chain.from_iterable(pieces)]
        starts = list(accumulate(map(len, pieces[:-1]), initial=len(self._before)))
        post_length = len(ids) + len(self._single_after)
        if texts:
            # Special tokens around each context text are counted before the texts are cut.
            fixed = len(self._between) + len(self._after) * len(texts)
            texts = _cut_longest(texts, self.max_length - fixed - len(ids))
        if texts:
            ids += self._between
            for text in texts:
                ids += [*text, *self._after]
        else:
            ids += self._single_after
        return ids, starts, post_length

    @property
    def room(self) -> int:
        """Most words of a post: the pieces that fit beside the special tokens."""
        return self.max_length - len(self._before) - len(self._single_after)

    def piece_counts(self, words: Sequence[str]) -> list[int]:
        """How many pieces each word has."""
        self.learn(words)
        return [len(self._words[word]) for word in words]

    def forget(self, beyond: int = 0) -> None:
        """Let go of learnt words and texts if there are more than `beyond`: streams of posts have no end of them."""
        for learnt in (self._words, self._texts):
            if len(learnt) > beyond:
                learnt.clear()

    @property
    def pad_id(self) -> int:
        """Id to pad with; masked, so any id does where the tokeniser has none."""
        return int(self.tokenizer.pad_token_id or 0)

    @cached_property
    def fingerprint(self) -> str:
        """A name for the pieces that it makes: the same for tokenisers of one vocabulary that split words alike."""
        tried = self.tokenizer(_TRIED, is_split_into_words=True, verbose=False)["input_ids"]
        known = json.dumps([sorted(self.tokenizer.get_vocab().items()), list(tried)])
        return hashlib.sha256(known.encode()).hexdigest()[:16]

    def files(self) -> dict[str, str]:
        """The tokeniser's own files, name to content, to be kept in checkpoints."""
        with TemporaryDirectory() as folder:
            self.tokenizer.save_pretrained(folder)
            return {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(folder).iterdir())}

    @classmethod
    def from_files(
        cls, files: dict[str, str], max_length: int | None = None, replace_urls: str | None = None
    ) -> PostTokenizer:
        """A tokeniser from what `files` gave."""
        with TemporaryDirectory() as folder:
            for name, content in files.items():
                if Path(name).name != name:
                    raise ValueError(f"Expected plain names of tokeniser files, but got {name!r}")
                (Path(folder) / name).write_text(content, encoding="utf-8")
            return cls(folder, max_length, replace_urls)

    def _shown(self, word: str) -> str:
        return self.replace_urls if self.replace_urls is not None and URL.fullmatch(word) else word

    def _template(self) -> tuple[list[int], list[int], list[int]]:
        """Special tokens before the post, between post and context, and after the context."""
        (one,), (two,) = self._ids("a")[:1], self._ids("b")[:1]
        pair = self.tokenizer("a", "b")["input_ids"]
        first, second = pair.index(one), len(pair) - 1 - pair[::-1].index(two)
        return pair[:first], pair[first + 1 : second], pair[second + 1 :]

    def _after_single(self) -> list[int]:
        (one,) = self._ids("a")[:1]
        single: list[int] = self.tokenizer("a")["input_ids"]
        return single[single.index(one) + 1 :]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ValueError(f"Expected the tokeniser to know the letter {text!r} as one piece, but got {len(ids)}")
        return ids

    def _unknown_piece(self) -> tuple[int, ...]:
        unknown = self.tokenizer.unk_token_id
        return (int(self._ids("a")[0] if unknown is None else unknown),)


def _load(name: str, **options: Any) -> Any:
    """The tokeniser, but no code of its own: transformers would ask about it on standard input, where posts may be."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(locate(name), trust_remote_code=False, **options)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise CheckpointError(
            f"The tokeniser at {name!r} is a program of its own, which mner does not run; expected one of those that "
            "transformers knows"
        ) from error


def _needs_prefix_space(tokenizer: Any) -> bool:
    return getattr(tokenizer, "add_prefix_space", None) is False


def _shorten_words(pieces: list[tuple[int, ...]], room: int) -> list[tuple[int, ...]]:
    """Keep as many pieces of each word as fit into `room` together, the same limit for all."""
    if len(pieces) > room:
        raise PostTooLongError(
            f"the post has {len(pieces)} words, but only {room} fit into the encoder; split it into shorter posts"
        )
    limit = max(map(len, pieces))
    while sum(min(len(word), limit) for word in pieces) > room:
        limit -= 1
    return [word[:limit] for word in pieces]


def _cut_longest(texts: list[tuple[int, ...]], room: int) -> list[tuple[int, ...]]:
    """Cut the longest texts until all fit into `room`; texts without a piece left go."""
    if sum(map(len, texts)) <= room:
        return texts
    limit = max(map(len, texts))
    while limit > 0 and sum(min(len(text), limit) for text in texts) > room:
        limit -= 1
    return [text[:limit] for text in texts if limit > 0]
