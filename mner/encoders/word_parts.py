"""What is learnt between the layers of a text encoder and the vectors of words; callbacks ask for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.encoders.characters import CharacterEncoder, batch_characters
from mner.nn.masking import piece_means
from mner.nn.recurrent import BiLSTM

CharacterKind = Literal["cnn", "bilstm"]


@dataclass(frozen=True)
class WordVectors:
    """How an encoder's layers become vectors of words; plain data, so that a checkpoint can say it.

    Attributes:
        mix: Whether all layers are mixed (`LayerMix`), or the last one is taken.
        hidden: States of each direction of a BiLSTM that reads the words (`WordReader`); 0 for none.
        reader_layers: Of that BiLSTM, one on top of the other.
        mean: Whether a word is the mean of its pieces (`PieceMean`), or its first piece.
        characters: Width of what is made of a word's characters and added to it (`WordSpelling`); 0 for none.
        character_kind: What reads the characters, convolutions or a BiLSTM.
    """

    mix: bool = False
    hidden: int = 0
    reader_layers: int = 1
    mean: bool = False
    characters: int = 0
    character_kind: CharacterKind = "cnn"

    def __post_init__(self) -> None:
        if self.character_kind not in get_args(CharacterKind):
            raise ValueError(f"Expected `kind` to be one of {get_args(CharacterKind)}, but got {self.character_kind!r}")
        if self.characters < 0 or (self.character_kind == "bilstm" and self.characters % 2):
            raise ValueError(
                f"Expected a `width` of 1 or more, for a BiLSTM an even one, but got {self.characters} for "
                f"{self.character_kind}"
            )
        if self.hidden < 0 or self.reader_layers < 1:
            raise ValueError(
                f"Expected `hidden` and `layers` of 1 or more, but got {self.hidden} and {self.reader_layers}"
            )

    def plain(self) -> dict[str, Any]:
        """As a dictionary of numbers; empty where nothing is added."""
        return {} if self == WordVectors() else asdict(self)

    def __str__(self) -> str:
        """What is not as by default.

        >>> str(WordVectors(mix=True, hidden=8)), str(WordVectors())
        ('mix=True, hidden=8', 'first pieces alone')
        """
        own = {name: value for name, value in asdict(self).items() if value != getattr(WordVectors, name)}
        return ", ".join(f"{name}={value}" for name, value in own.items()) or "first pieces alone"


class LayerMix(nn.Module):
    """A learnt mean of all layers (Peters et al. 2018, ELMo, equation 1), the embeddings being layer 0.

    ::

        states = g Σ_j softmax(s)_j h_j,     s = 0 and g = 1 at first

    Tenney et al. (2019), "BERT rediscovers the classical NLP pipeline", read from it which layers a task needs.

    Args:
        count: How many layers are mixed, embeddings included.

    >>> LayerMix(2)([torch.zeros(1, 1, 2), torch.ones(1, 1, 2)])
    tensor([[[0.5000, 0.5000]]], grad_fn=<MulBackward0>)
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(count))
        self.scale = nn.Parameter(torch.ones(()))

    @property
    def weights(self) -> Tensor:
        """softmax(s), one for each layer from the embeddings up."""
        return self.scores.softmax(0)

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Mix layers (b, t, d), from the embeddings up.

        Raises:
            ValueError: If they are not as many as expected.
        """
        if len(states) != len(self.scores):
            raise ValueError(f"Expected {len(self.scores)} layers to mix, embeddings included, but got {len(states)}")
        weights = self.weights
        mixed = weights[0] * states[0]
        for place in range(1, len(states)):  # one at a time: no second copy of all layers
            mixed = mixed + weights[place] * states[place]
        return self.scale * mixed


class PieceMean(nn.Module):
    """Each word as the mean of its pieces, in place of the first one; nothing is learnt.

    Words keep the pieces that `PostTokenizer` left them. Pieces of context and of words that another window answers for
    are in no word.
    """

    def forward(self, states: Tensor, batch: Batch) -> Tensor:
        """Pieces (b, t, d) -> words (b, w, d).

        Raises:
            ValueError: If the batch does not say where words end.
        """
        if "word_ends" not in batch:
            raise ValueError(
                "The mean of a word's pieces needs `word_ends` in the batch, which has none; take the batch from "
                "mner.data, or put there the position behind each word's last piece (b, w)"
            )
        return piece_means(states, batch["word_starts"], batch["word_ends"])


class WordSpelling(nn.Module):
    """What is made of a word's characters, added to its vector (Ma & Hovy 2016; Lample et al. 2016).

    ::

        u = x + W c + b,     c = CharacterEncoder(characters)

    The papers put c beside x. Before a Linear layer, as the head is one, `A [x ; c]` and `A' (x + W c)` can say the
    same, and the sum is as wide as the words, for any fusion and head.

    Args:
        width: d of the words.
        size: Width of c.
        kind: What reads the characters; see `mner.encoders.characters.CharacterEncoder`.
    """

    def __init__(self, width: int, size: int, kind: CharacterKind = "cnn") -> None:
        super().__init__()
        self.encoder = CharacterEncoder(size, kind=kind)
        self.projection = nn.Linear(size, width)

    def forward(self, words: Tensor, batch: Batch) -> Tensor:
        """Words (b, w, d), and the batch with their spelling: (b, w, d)."""
        spelt: Tensor = self.projection(self.encoder(batch_characters(batch)))
        return words + spelt


class WordReader(nn.Module):
    """A BiLSTM over the words of a post, between the text encoder and whatever follows (Lample et al. 2016).

    `u_t = W [forward_t ; backward_t] + b`, as wide as the words, so that fusion and head stay what they are. It reads
    words alone, no pieces, context or padding, in full precision also under autocast (`mner.nn.LSTM`).

    Args:
        width: d of the words.
        hidden: States of each direction.
        layers: How many, one on top of the other.
    """

    def __init__(self, width: int, hidden: int, layers: int = 1) -> None:
        super().__init__()
        self.recurrent = BiLSTM(width, hidden, layers)
        self.projection = nn.Linear(2 * hidden, width)

    def forward(self, words: Tensor, word_mask: Tensor) -> Tensor:
        """Read words (b, w, d) under their mask (b, w): (b, w, d)."""
        read: Tensor = self.projection(self.recurrent(words, word_mask))
        return read
