"""What is learnt between the text encoder's layers and the vectors of words, as callbacks that a config names."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
from torch import nn
from torch.utils.hooks import RemovableHandle

from mner.encoders.word_parts import CharacterKind, WordVectors
from mner.errors import CheckpointError
from mner.training.module import TaggingModule

log = logging.getLogger(__name__)


class WordVectorPart(pl.Callback):
    """Puts a part beside the text encoder, whose checkpoints say so and build it again wherever they are loaded.

    Its weights are trained at `fusion_learning_rate`.

    Args:
        part: Its name among `TextEncoder.parts`.
        wanted: The fields of `WordVectors` that ask for it.
    """

    def __init__(self, part: str, **wanted: Any) -> None:
        WordVectors(**wanted)
        self.part, self.wanted = part, wanted
        self._hook: RemovableHandle | None = None
        self._used = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Put the part there, unless it is, as in a module from a checkpoint."""
        if not isinstance(pl_module, TaggingModule):
            raise TypeError(f"Expected a mner.fusion.FusionModule, but got {type(pl_module).__name__}")
        encoder = pl_module.text_encoder
        found = {name: getattr(encoder.word_vectors, name) for name in self.wanted}
        if self.part not in encoder.parts and stage == "fit":
            encoder.make_words(replace(encoder.word_vectors, **self.wanted))
        elif self.part in encoder.parts and found != self.wanted:
            raise CheckpointError(
                f"Expected word vectors of {self.wanted}, as the {type(self).__name__} callback says, but the model "
                f"has {found}; give the callback the same"
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Watch whether the model uses it."""
        part: nn.Module = pl_module.text_encoder.parts[self.part]  # type: ignore[union-attr,index,assignment]
        self._used, self._hook = False, part.register_forward_hook(self._watch)

    def _watch(self, *_: Any) -> None:
        self._used = True

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Any) -> None:
        """Refuse to train a model that does not use it.

        Raises:
            ValueError: If it does not.
        """
        if self._hook is None:
            return
        if not self._used:
            raise ValueError(
                f"{type(self).__name__} changes what the text encoder gives, but {type(pl_module).__name__} runs the "
                "encoder's layers in its own way, or reads no words; leave it out"
            )
        self._let_go()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Watch no longer."""
        self._let_go()

    def _let_go(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


class ScalarMix(WordVectorPart):
    """The text encoder gives a learnt mean of all its layers, in place of the last one alone.

    ::

        states = g Σ_j softmax(s)_j h_j     over the embeddings h_0 and the layers h_1 … h_n

    Peters et al. (2018), "Deep contextualized word representations", section 3.2; for BERT Tenney et al. (2019), "BERT
    rediscovers the classical NLP pipeline". s begins as zeros and g as 1: the mean of all layers. What was learnt is
    `module.text_encoder.parts["mix"].weights`.

    Raises:
        ValueError: If the encoder does not give its layers, or the strategy runs them in its own way.
    """

    def __init__(self) -> None:
        super().__init__("mix", mix=True)


class WordBiLSTM(WordVectorPart):
    """A BiLSTM reads the words between text encoder and fusion (Huang et al. 2015; Lample et al. 2016).

    ::

        u_t = W [forward_t ; backward_t] + b     as wide as the words, for any fusion and head

    See `mner.encoders.word_parts.WordReader`.

    Args:
        hidden: States of each direction.
        layers: How many, one on top of the other.

    Raises:
        ValueError: If an option is out of its range, or the strategy reads no words.
    """

    def __init__(self, hidden: int = 128, layers: int = 1) -> None:
        if hidden < 1:
            raise ValueError(f"Expected `hidden` of 1 or more, but got {hidden}")
        super().__init__("reader", hidden=hidden, reader_layers=layers)


class WordPieceMean(WordVectorPart):
    """A word is the mean of its pieces, in place of the first one. Nothing is learnt.

    Ács et al. (2021), "Subword pooling makes a difference", compare both and others, on NER too. The pieces are those
    of the word itself: context and, in a window of a long post, the words that the next one answers for are in no mean.
    A word-level encoder has one piece a word, so that nothing changes.

    Raises:
        ValueError: If a batch does not say where words end, or the strategy reads no words.
    """

    def __init__(self) -> None:
        super().__init__("pieces", mean=True)


class WordCharacters(WordVectorPart):
    """What convolutions or a BiLSTM make of a word's characters is added to its vector, before a `WordBiLSTM` if any.

    ::

        u = x + W c + b,     c = CharacterEncoder(characters of the word)

    Ma & Hovy (2016) by convolutions, Lample et al. (2016) by a BiLSTM; see `mner.encoders.word_parts.WordSpelling`.
    Uncased encoders do not see the case of letters otherwise.

    Args:
        width: Of c.
        kind: `cnn` or `bilstm`.

    Raises:
        ValueError: If an option is out of its range, or the strategy reads no words.
    """

    def __init__(self, width: int = 50, kind: CharacterKind = "cnn") -> None:
        if width < 1:
            raise ValueError(f"Expected `width` of 1 or more, but got {width}")
        super().__init__("characters", characters=width, character_kind=kind)
