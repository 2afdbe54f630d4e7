"""Words as characters: a fixed character set, and an encoder by convolutions or a BiLSTM."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.nn.recurrent import BiLSTM

MAX_CHARACTERS = 20
"""Characters kept of a word; the rest is cut off."""

# Fixed, so that a checkpoint needs no fitted vocabulary. The order is part of every checkpoint: never change it.
_PADDING, _OTHER_LETTER, _OTHER = 0, 1, 2
_CHARACTERS = (
    "".join(map(chr, range(0x21, 0x7F)))  # ASCII
    + "".join(map(chr, range(0xA1, 0x100)))  # Latin-1
    + "\u2018\u2019\u201c\u201d\u2026\u2013\u2014\u2022\u20ac\u2122"  # quotes, ellipsis, dashes, bullet, €, TM
)
_IDS = {character: index for index, character in enumerate(_CHARACTERS, start=3)}
CHARACTER_COUNT = 3 + len(_CHARACTERS)
"""Number of different character ids, padding and the two classes of unlisted characters included."""


@lru_cache(maxsize=1 << 16)
def _row(word: str) -> bytes:
    """One word as `MAX_CHARACTERS` ids of a byte each; a word without any character is one unlisted character."""
    ids = [_IDS.get(character, _OTHER_LETTER if character.isalpha() else _OTHER) for character in word[:MAX_CHARACTERS]]
    return bytes(ids or [_OTHER]).ljust(MAX_CHARACTERS, b"\0")


def characters_to_ids(words: Sequence[Sequence[str]], length: int | None = None) -> Tensor:
    """The characters of a batch of posts as ids.

    Ids: 0 padding, 1 any other letter, 2 anything else, then printable ASCII, Latin-1 and some punctuation. Case is
    kept, which an uncased text encoder throws away. Words are cut after `MAX_CHARACTERS` characters.

    Args:
        words: The words of each post.
        length: Pad or cut each post to so many words; None: to the longest post.

    Returns:
        (b, w, c) int64, c the longest word's length and at least 1; zeros where padded.

    >>> characters_to_ids([["a", "ab"], ["é"]]).shape
    torch.Size([2, 2, 2])
    """
    if length is None:
        length = max((len(post) for post in words), default=0)
    padding = bytes(MAX_CHARACTERS)
    rows: list[bytes] = []
    for post in words:
        kept = post[:length]
        rows.extend(map(_row, kept))
        rows.extend([padding] * (length - len(kept)))
    ids = np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(words), length, MAX_CHARACTERS)
    used = int(ids.any(axis=(0, 1)).sum())  # ids are 0 only behind a word's end
    return torch.from_numpy(ids[:, :, : max(used, 1)].astype(np.int64))


def padded_characters(words: Sequence[Sequence[str]], length: int) -> Tensor:
    """Ids (b, w, c) with two columns at least: torch.export takes a size of 1 for fixed."""
    ids = characters_to_ids(words, length)
    return nn.functional.pad(ids, (0, max(0, 2 - ids.shape[-1])))


def batch_characters(batch: Batch) -> Tensor:
    """The characters of a batch's words (b, w, c): those it brings (a graph reads no words), or made of its words."""
    ids = batch.get("characters")
    if ids is None:
        ids = characters_to_ids(batch["words"], batch["word_mask"].shape[1]).to(batch["word_mask"].device)
    return ids


class CharacterEncoder(nn.Module):
    """A vector for each word from its characters: embedding, convolutions of several widths, maximum, projection.

    With `kind="cnn"`::

        e_i = embedding of character i                               (30)
        f^k = max over i of ReLU(W^k [e_i; …; e_(i+k-1)] + b^k)      (32), k = 2, 3, 4
        c   = W [f^2; f^3; f^4] + b                                  (100)

    Windows start at each real character and see zeros behind the word's end, so that neither padding nor the
    other words in the batch change a word's vector.

    The paper (Chen et al. 2021, section 3.3) names character vectors and says nothing of how they are made. This is
    the character CNN of Zhang et al. (2018) with its three convolutions side by side.

    With `kind="bilstm"` (Lample et al. 2016; Lu et al. and Moon et al. 2018) c is the last state of an LSTM forward
    and of one backward over the e_i, each half of `width` wide.

    Args:
        width: Width of a word's vector.
        embedding_width: Width of a character's embedding.
        filters: Number of filters of each convolution.
        window_widths: Characters that each convolution spans.
        kind: `cnn` or `bilstm`.

    Raises:
        ValueError: If `kind` is another, or `width` odd where two directions share it.

    >>> CharacterEncoder(width=10)(characters_to_ids([["a", "ab"], ["é"]])).shape
    torch.Size([2, 2, 10])
    """

    def __init__(
        self,
        width: int = 100,
        embedding_width: int = 30,
        filters: int = 32,
        window_widths: Sequence[int] = (2, 3, 4),
        kind: Literal["cnn", "bilstm"] = "cnn",
    ) -> None:
        super().__init__()
        if kind not in ("cnn", "bilstm") or (kind == "bilstm" and width % 2):
            raise ValueError(f"Expected `kind` cnn, or bilstm with an even `width`, but got {kind!r} and {width}")
        self.kind = kind
        self.embedding = nn.Embedding(CHARACTER_COUNT, embedding_width, padding_idx=_PADDING)
        if kind == "bilstm":
            self.recurrent = BiLSTM(embedding_width, width // 2)
            return
        self.window_widths = tuple(window_widths)
        self.convolutions = nn.ModuleList(nn.Conv1d(embedding_width, filters, k) for k in window_widths)
        self.projection = nn.Linear(filters * len(window_widths), width)

    def forward(self, ids: Tensor) -> Tensor:
        """Encode.

        Args:
            ids: (b, w, c) from `characters_to_ids`.

        Returns:
            (b, w, width).
        """
        flat = ids.flatten(0, 1)  # (b·w, c)
        if self.kind == "bilstm":
            states: Tensor = self.recurrent.last(self.embedding(flat), flat != _PADDING)  # (b·w, width)
            return states.view(*ids.shape[:2], states.shape[-1])
        padded = flat[:, None] == _PADDING  # (b·w, 1, c)
        characters = self.embedding(flat).transpose(1, 2)  # (b·w, e, c)
        found = []
        for k, convolution in zip(self.window_widths, self.convolutions, strict=True):
            windows = convolution(nn.functional.pad(characters, (0, k - 1))).relu()  # (b·w, filters, c)
            # ReLU's least value is 0, so 0 in place of padding never wins, and a padded word gets zeros.
            found.append(windows.masked_fill(padded, 0.0).amax(-1))
        vectors: Tensor = self.projection(torch.cat(found, -1))  # (b·w, width)
        return vectors.view(*ids.shape[:2], vectors.shape[-1])
