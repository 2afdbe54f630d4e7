"""A text encoder of before BERT: a table of word vectors, characters of words, BiLSTM; as a model of transformers.

`mner vocabulary` makes the folder that `text_encoder` names: configuration, tokeniser (one piece a word), vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import cached_file

from mner.encoders.characters import MAX_CHARACTERS, CharacterEncoder
from mner.encoders.weights import load_by_name, read_weights
from mner.errors import CheckpointError
from mner.nn.recurrent import BiLSTM

MODEL_TYPE = "mner-word-level"
UNKNOWN = 1
"""Id of the unknown word; 0 is padding."""

WEIGHTS = "model.safetensors"
TABLES = ("embedding.weight", "character_table")
"""What a folder that `mner vocabulary` made holds; everything else begins at random."""


class WordLevelConfig(PretrainedConfig):  # type: ignore[misc]  # transformers has no types
    """Sizes of a `WordLevelModel`, and which of its words were rare in training.

    Args:
        vocab_size: Number of words, the special ones included.
        embedding_width: Width of a word's vector in the table.
        freeze_words: Keep the table as it is: `TextEncoder` does, whoever trains the model by other code has to.
        characters: How a vector is made of a word's characters: `cnn`, `bilstm`, or None for not at all.
        character_width: Width of that vector.
        character_embedding_width: Width of the vector of one character.
        dropout: On what the BiLSTM reads.
        lstm_width: Width of each of the BiLSTM's directions.
        lstm_layers: Its layers; 0 for none, so that no word sees another.
        singletons: (first, end) of the ids of words that training has once.
        singleton_dropout: Probability with which such a word is read as unknown in training, which is how the vector of
            unknown words is learnt.
        kwargs: As for transformers.

    Raises:
        ValueError: If a value is out of its range.

    >>> WordLevelConfig(vocab_size=10, embedding_width=50, characters="cnn", lstm_layers=0).hidden_size
    100
    """

    model_type = MODEL_TYPE

    def __init__(
        self,
        vocab_size: int = 4,
        embedding_width: int = 100,
        freeze_words: bool = False,
        characters: Literal["cnn", "bilstm"] | None = "cnn",
        character_width: int = 50,
        character_embedding_width: int = 30,
        dropout: float = 0.5,
        lstm_width: int = 100,
        lstm_layers: int = 1,
        singletons: Sequence[int] = (0, 0),
        singleton_dropout: float = 0.5,
        **kwargs: Any,
    ) -> None:
        if characters not in ("cnn", "bilstm", None):
            raise ValueError(f"Expected `characters` to be cnn, bilstm or none, but got {characters!r}")
        if min(embedding_width, character_width, character_embedding_width, lstm_width) < 1 or lstm_layers < 0:
            raise ValueError("Expected widths of at least 1 and `lstm_layers` of at least 0")
        if characters == "bilstm" and character_width % 2:
            raise ValueError(f"Expected an even `character_width` for two directions, but got {character_width}")
        if not (0 <= dropout < 1 and 0 <= singleton_dropout <= 1):
            raise ValueError(f"Expected `dropout` from 0 to below 1, but got {dropout} and {singleton_dropout}")
        super().__init__(**{"pad_token_id": 0, **kwargs})
        self.vocab_size = vocab_size
        self.embedding_width = embedding_width
        self.freeze_words = freeze_words
        self.characters = characters
        self.character_width = character_width
        self.character_embedding_width = character_embedding_width
        self.dropout = dropout
        self.lstm_width = lstm_width
        self.lstm_layers = lstm_layers
        self.singletons = list(singletons)
        self.singleton_dropout = singleton_dropout

    @property
    def input_width(self) -> int:
        """Width of what the BiLSTM reads: word and characters."""
        return self.embedding_width + (self.character_width if self.characters else 0)

    @property
    def hidden_size(self) -> int:
        """Width d of the model's vectors."""
        return 2 * self.lstm_width if self.lstm_layers else self.input_width


class WordLevelModel(PreTrainedModel):  # type: ignore[misc]
    """Words in context without BERT.

    ::

        x_t = [E[word t] ; c_t]                    c_t of the word's characters, by `CharacterEncoder`
        h_t = BiLSTM(dropout(x))_t                 (d)

    The encoder of Moon et al., Lu et al. and Zhang et al. (all 2018); tables of pretrained vectors and characters as
    Lample et al. (2016) and Ma and Hovy (2016) have them, words seen once read as unknown at random after Lample et al.

    Characters of vocabulary words lie in `character_table`, so that the model can be used by ids alone and knows the
    words of a caption too. The words of the post itself are given (`characters`), so that a word outside the vocabulary
    has characters as well; both are plain tensors, which ONNX can follow.

    Args:
        config: Its sizes.

    >>> model = WordLevelModel(WordLevelConfig(vocab_size=10, embedding_width=6, lstm_width=4))
    >>> model(torch.tensor([[2, 5, 6, 3]])).last_hidden_state.shape
    torch.Size([1, 4, 8])
    """

    config_class = WordLevelConfig
    base_model_prefix = "word_level"

    def __init__(self, config: WordLevelConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_width, padding_idx=0)
        self.register_buffer("character_table", torch.zeros(config.vocab_size, MAX_CHARACTERS, dtype=torch.uint8))
        self.characters: CharacterEncoder | None = None
        if config.characters is not None:
            self.characters = CharacterEncoder(
                config.character_width, config.character_embedding_width, kind=config.characters
            )
        self.dropout = nn.Dropout(config.dropout)
        self.recurrent: BiLSTM | None = None
        if config.lstm_layers:
            self.recurrent = BiLSTM(config.input_width, config.lstm_width, config.lstm_layers)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        characters: Tensor | None = None,
        word_starts: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Encode.

        Args:
            input_ids: (b, t).
            attention_mask: (b, t), not 0 = real; real ones come first. None: all are.
            characters: (b, w, c) of `characters_to_ids`, in place of the table's.
            word_starts: (b, w), where in `input_ids` those words are; 0 where padded.
            kwargs: Of other models of transformers; not used.

        Returns:
            `last_hidden_state` (b, t, d), zeros where padded.
        """
        mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        states = self.embedding(self._read_as(input_ids))  # (b, t, e)
        if self.characters is not None:
            spelt = self.characters(self._spelling(input_ids, characters, word_starts))
            states = torch.cat([states, spelt.to(states.dtype)], -1)
        states = self.dropout(states)
        states = states.masked_fill(~mask[..., None], 0.0) if self.recurrent is None else self.recurrent(states, mask)
        return BaseModelOutput(last_hidden_state=states)

    def get_input_embeddings(self) -> nn.Module:
        """The table of word vectors."""
        return self.embedding

    def _read_as(self, ids: Tensor) -> Tensor:
        """The ids, in training with some of the rare ones unknown."""
        first, end = self.config.singletons
        if not self.training or first >= end:
            return ids
        chosen = torch.rand(ids.shape, device=ids.device) < self.config.singleton_dropout
        return ids.masked_fill((ids >= first) & (ids < end) & chosen, UNKNOWN)

    def _spelling(self, ids: Tensor, given: Tensor | None, starts: Tensor | None) -> Tensor:
        """Characters (b, t, MAX_CHARACTERS) of each id: those given, or else of the table."""
        known: Tensor = self.character_table[ids].long()
        if given is None or starts is None:
            return known
        wide = nn.functional.pad(given, (0, MAX_CHARACTERS - given.shape[-1]))  # (b, w, MAX_CHARACTERS)
        # Padded words all go to place 0: no characters, as the special piece there has none.
        return known.scatter(1, starts[..., None].expand_as(wide), wide)

    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's own start; transformers would give all weights a standard deviation of 0.02."""
        if isinstance(module, (nn.Embedding, nn.LSTM, nn.Linear, nn.Conv1d)):
            module.reset_parameters()


def load_word_level(source: str) -> WordLevelModel:
    """The model of a folder or Hub name, with every weight from there.

    A folder that `mner vocabulary` made holds the tables alone; everything else then begins at random, by the run's
    seed, as it would not if the folder brought it.

    Raises:
        CheckpointError: If there are no weights, or one is missing, left over or of another shape.
    """
    model = WordLevelModel(AutoConfig.from_pretrained(source))
    try:
        state = read_weights(cached_file(source, WEIGHTS))
    except OSError as error:
        raise CheckpointError(f"Expected {WEIGHTS} at {source!r}: {str(error).splitlines()[0]}") from error
    fresh = [name for name in model.state_dict() if name not in TABLES] if set(state) <= set(TABLES) else []
    load_by_name(model, state, source, optional=fresh)
    return model


AutoConfig.register(MODEL_TYPE, WordLevelConfig)
AutoModel.register(WordLevelConfig, WordLevelModel)
