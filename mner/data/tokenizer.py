"""From words to word pieces: each word on its own, so that words and pieces can never be mismatched."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mner.data.word_pieces import (
    IDS_ALONE,
    pieces_as_in_text,
    some_piece,
    some_words,
    special_tokens,
    without_format_characters,
)
from mner.data.word_splitter import readable
from mner.errors import CheckpointError
from mner.files import locate

URL = re.compile(r"\b(https?://|www\.)\S+", re.IGNORECASE)
BINARY = "data:application/octet-stream;base64,"
"""How the content of a file that is no text begins, where text is kept (RFC 2397)."""
MAX_WORD = 1_000
"""Characters of a word that are read."""
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


class Known(NamedTuple):
    """Pieces of words and of context texts."""

    words: dict[str, tuple[int, ...]]
    texts: dict[str, tuple[int, ...]]


class PostTokenizer:
    """Tokenises posts for a transformers model.

    Words are tokenised one by one (a pre-split word's pieces do not depend on its neighbours) and kept, so that a
    corpus costs one pass over its distinct words. A word has the pieces that it has behind a space in running text, the
    first word too; how to get them is tried with each tokeniser. A word without any piece (a lone U+FE0F) becomes the
    unknown piece, and format characters never make a word unknown.

    It can be shared by threads.

    Args:
        name: Hub name or folder of the tokeniser, or `"tiny"`.
        max_length: Most pieces of post and context together; None for what the tokeniser declares. Context is cut
            first; then words keep fewer pieces each (only a word's first piece is ever tagged).
        replace_urls: Word for every URL in posts and context, or None to leave them: a third of a tweet's pieces.
        plain: Whether to read `tokenizer.json` alone, without the class that transformers has for this tokeniser, whose
            import takes torch with it. For those that `is_plain` said it of.

    Raises:
        CheckpointError: If there is a model but no vocabulary, of which transformers says nothing.
    """

    def __init__(
        self, name: str, max_length: int | None = None, replace_urls: str | None = None, plain: bool = False
    ) -> None:
        self.tokenizer = _load(name, plain)
        if len(self.tokenizer) <= len(self.tokenizer.all_special_tokens):
            raise CheckpointError(
                f"Expected a tokeniser at {name!r}, but there is no vocabulary: every word would be unknown. Give the "
                "data module the `tokenizer` that the encoder was trained with (VisualBERT: bert-base-uncased)"
            )
        if _needs_prefix_space(self.tokenizer):
            self.tokenizer = _load(name, plain, add_prefix_space=True)
        declared = self.tokenizer.model_max_length
        if not isinstance(declared, (int, float)) or declared < 1:
            raise CheckpointError(f"Expected a number of pieces that the tokeniser at {name!r} takes, got {declared!r}")
        declared = 512 if declared > 100_000 else int(declared)  # "no limit" is written as a huge number
        self.max_length = declared if max_length is None else max_length
        self.replace_urls = replace_urls
        self._known = Known({}, {})
        self._pieces = pieces_as_in_text(self.tokenizer)
        self._before, self._between, self._after, self._single_after = special_tokens(self.tokenizer)
        self._unknown = (some_piece(self.tokenizer),)

    def learn(self, words: Iterable[str], texts: Iterable[str] = ()) -> Known:
        """Tokenise words and context texts in bulk, and return what is known, these among it."""
        known = self._known  # this one to the end, whatever other threads forget meanwhile
        new_words = [word for word in dict.fromkeys(words) if word not in known.words]
        for start in range(0, len(new_words), 10_000):
            chunk = new_words[start : start + 10_000]
            shown = [self._shown(word) for word in chunk]
            known.words.update(zip(chunk, self._tokenized(shown), strict=True))
        new_texts = [text for text in dict.fromkeys(texts) if text not in known.texts]
        for start in range(0, len(new_texts), 1_000):
            chunk = new_texts[start : start + 1_000]
            clean = [self._shown_text(text) for text in chunk]
            encoded = self.tokenizer(clean, truncation=False, verbose=False, **IDS_ALONE)["input_ids"]
            # A text longer than the model can never be used whole: keep what can be.
            known.texts.update((text, tuple(ids[: self.max_length])) for text, ids in zip(chunk, encoded, strict=True))
        return known

    def _tokenized(self, words: Sequence[str]) -> list[tuple[int, ...]]:
        found = self._pieces(words)
        unknown = self.tokenizer.unk_token_id
        bare = {
            place: seen
            for place, (word, ids) in enumerate(zip(words, found, strict=True))
            if unknown in ids and (seen := without_format_characters(word)) != word
        }
        if bare:
            found = list(found)
            for place, ids in zip(bare, self._pieces(list(bare.values())), strict=True):
                found[place] = ids
        return [ids or self._unknown for ids in found]

    def encode(self, words: Sequence[str], context: Sequence[str] = ()) -> Pieces:
        """Tokenise one post with its context texts.

        Raises:
            PostTooLongError: If the post has more words than fit, even with one piece each.
        """
        ids, starts, post_length, _ = self.encode_plain(words, context, self.learn(words, context))
        return Pieces(np.asarray(ids, dtype=np.int32), np.asarray(starts, dtype=np.int32), post_length)

    def encode_plain(
        self, words: Sequence[str], context: Sequence[str], known: Known
    ) -> tuple[list[int], list[int], int, list[int]]:
        """As `encode`, in lists, of words and texts that `learn` gave: for a million posts one after the other.

        The fourth list says where the first text begins, and where each ends: one number more than there are texts. A
        text ends behind its special token; one that is empty or was cut away ends where it begins.

        Raises:
            PostTooLongError: If the post has more words than fit, even with one piece each.
        """
        if not words:
            raise ValueError("Expected a post of at least one word, but got none")
        pieces = [known.words[word] for word in words]
        texts = [known.texts[text] if text else () for text in context]
        room = self.room
        ids = [*self._before, *chain.from_iterable(pieces)]
        if len(ids) - len(self._before) > room:
            pieces = _shorten_words(pieces, room)
            ids = [*self._before, *chain.from_iterable(pieces)]
        starts = list(accumulate(map(len, pieces[:-1]), initial=len(self._before)))
        post_length = len(ids) + len(self._single_after)
        if any(texts):
            # Special tokens around each context text are counted before the texts are cut.
            fixed = len(self._between) + len(self._after) * sum(map(bool, texts))
            texts = _cut_longest(texts, self.max_length - fixed - len(ids))
        ids += self._between if any(texts) else self._single_after
        bounds = [len(ids)]
        for text in texts:
            if text:
                ids += [*text, *self._after]
            bounds.append(len(ids))
        return ids, starts, post_length, bounds

    @property
    def room(self) -> int:
        """Most words of a post: the pieces that fit beside the special tokens."""
        return self.max_length - len(self._before) - len(self._single_after)

    @property
    def closing(self) -> int:
        """Special pieces behind a post's words: the last word ends so many before the post does."""
        return len(self._single_after)

    def check_fits(self, size: int | None) -> None:
        """Whether the pieces that every post has are among those that an encoder knows; None: nothing is known of it.

        Raises:
            CheckpointError: If they are not.
        """
        always = [*self._before, *self._between, *self._after, *self._single_after, *self._unknown, self.pad_id]
        if size is not None and max(always) >= size:
            raise CheckpointError(
                f"The tokeniser has the special piece {max(always)}, but the encoder knows {size} pieces: they do not "
                "belong together; give the tokeniser that the encoder was trained with"
            )

    def piece_counts(self, words: Sequence[str]) -> list[int]:
        """How many pieces each word has."""
        known = self.learn(words).words
        return [len(known[word]) for word in words]

    def forget(self, beyond: int = 0) -> None:
        """Let go of learnt words and texts if there are more than `beyond`: streams of posts have no end of them."""
        words, texts = self._known
        # New ones in their place: another thread may be reading those.
        self._known = Known({} if len(words) > beyond else words, {} if len(texts) > beyond else texts)

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
            return {path.name: read_kept(path) for path in sorted(Path(folder).iterdir()) if path.is_file()}

    def is_plain(self) -> bool:
        """Whether its `tokenizer.json` alone makes the same pieces; tried on words of many scripts."""
        files = self.files()
        if "tokenizer.json" not in files:
            return False
        try:
            other = self.from_files(files, self.max_length, self.replace_urls, plain=True)
        except CheckpointError:
            return False
        words = list(some_words(self.tokenizer))[: self.room]
        said = [
            (one.fingerprint, one.pad_id, one.room, one.encode(words, [" ".join(words)]).ids.tolist())
            for one in (self, other)
        ]
        return said[0] == said[1]

    @classmethod
    def from_files(
        cls,
        files: dict[str, str],
        max_length: int | None = None,
        replace_urls: str | None = None,
        plain: bool = False,
    ) -> PostTokenizer:
        """A tokeniser from what `files` gave."""
        with TemporaryDirectory() as folder:
            for name, content in files.items():
                if Path(name).name != name:
                    raise ValueError(f"Expected plain names of tokeniser files, but got {name!r}")
                write_kept(Path(folder) / name, content)
            return cls(folder, max_length, replace_urls, plain)

    def limit_to(self, pieces: int | None) -> None:
        """Take no more pieces than an encoder has places for; None: it has no limit."""
        if pieces is not None and pieces < self.max_length:
            self.max_length = pieces
            self.forget()

    def _shown(self, word: str) -> str:
        word = readable(word[:MAX_WORD])
        return self.replace_urls if self.replace_urls is not None and URL.fullmatch(word) else word

    def _shown_text(self, text: str) -> str:
        url = self.replace_urls
        return readable(text) if url is None else URL.sub(lambda _: url, readable(text))


def read_kept(path: Path) -> str:
    """A file's content as text; of one that is no text, such as a SentencePiece model, in base64."""
    content = path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError:
        pass
    else:
        if not text.startswith(BINARY):
            return text
    return BINARY + base64.b64encode(content).decode()


def write_kept(path: Path, content: str) -> None:
    """Write a file from what `read_kept` gave."""
    binary = content.startswith(BINARY)
    path.write_bytes(base64.b64decode(content.removeprefix(BINARY)) if binary else content.encode())


def _load(name: str, plain: bool, **options: Any) -> Any:
    """The tokeniser, but no code of its own: transformers would ask about it on standard input, where posts may be."""
    import transformers

    loader: Any = transformers.PreTrainedTokenizerFast if plain else transformers.AutoTokenizer
    try:
        tokenizer = loader.from_pretrained(locate(name), trust_remote_code=False, **options)
        tokenizer("\U0010ffff")  # one whose unknown piece is not in its vocabulary says so only then
        return tokenizer
    except OSError:  # not there; it says what it looked for
        raise
    except Exception as error:  # of a file that is damaged: what transformers and tokenizers raise shares no class
        if "trust_remote_code" in str(error):
            raise CheckpointError(
                f"The tokeniser at {name!r} is a program of its own, which mner does not run; expected one of those "
                "that transformers knows"
            ) from error
        said = (str(error).strip() or "no more is said").splitlines()[0]
        raise CheckpointError(
            f"The tokeniser at {name!r} cannot be read ({type(error).__name__}: {said}); is a file of it damaged?"
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
    """Cut the longest texts until all fit into `room`; some may have no piece left."""
    if sum(map(len, texts)) <= room:
        return texts
    limit = max(map(len, texts))
    while limit > 0 and sum(min(len(text), limit) for text in texts) > room:
        limit -= 1
    return [text[: max(0, limit)] for text in texts]
