"""Text encoders: any transformers AutoModel, by Hub name, folder, stored configuration, or the built-in tiny one.

Of encoder-decoders (T5, BART and their kin) the encoder is used, and the decoder left out.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from mner.batch import Batch
from mner.encoders import prefix, steps
from mner.encoders.characters import batch_characters
from mner.encoders.frozen import FrozenLayers
from mner.encoders.fused import FusedLayers, fused_layers
from mner.encoders.lora import Adapters, add_adapters, merge_adapters
from mner.encoders.models import build_model, check_reads_text, encoder_of
from mner.encoders.visual_bert import MODEL_TYPE, visual_parameters
from mner.encoders.word_level import MODEL_TYPE as WORD_LEVEL
from mner.encoders.word_parts import LayerMix, PieceMean, WordReader, WordSpelling, WordVectors
from mner.files import TINY
from mner.nn.masking import first_pieces

ADAPTERS = "mner_adapters"
"""Key of the configuration under which checkpoints say that the encoder has adapters."""
WORD_VECTORS = "mner_word_vectors"
"""Key under which they say that its layers become vectors of words otherwise than by default."""


class TextEncoder(nn.Module):
    """Contextual vectors of word pieces.

    Args:
        name: A Hub name or folder of a transformers model; `"tiny"` for the built-in one (random weights); or the
            configuration itself as a dictionary, as checkpoints store it (random weights, to be loaded afterwards).

    Attributes:
        width: d, the width of its vectors.
        reads_characters: Whether it is a word-level encoder that `words` gives characters to.
        adapters: What its LoRA adapters are like, or None without.
        word_vectors: How its layers become vectors of words.
        parts: What is learnt for that, beside the model; empty by default.
        frozen: Its lower layers, where they do not learn.
        fused: What computes short posts in inference mode, where `fuse` was called.

    Shapes:
        - `token_ids`, `token_mask`, `segment_ids`: (b, t)
        - returns: (b, t, d) with d = `width`

    Raises:
        CheckpointError: If the weights do not fill the model, where it names those that are missing; or if the model
            reads no text.

    >>> encoder = TextEncoder("tiny")
    >>> ids = torch.ones(2, 5, dtype=torch.long)
    >>> encoder(ids, ids.bool(), torch.zeros_like(ids)).shape[-1] == encoder.width
    True
    """

    def __init__(self, name: str | dict[str, Any] = TINY) -> None:
        super().__init__()
        whole = build_model(_without_ours(name))
        self._config: Any = whole.config  # from which the whole model can be built again
        self.model: Any = encoder_of(whole)
        check_reads_text(self.model, whole.config.model_type)
        # The pooler is never used here; a parameter without gradient would stop distributed training.
        if getattr(self.model, "pooler", None) is not None:
            self.model.pooler = None
        # from_pretrained leaves evaluation mode on, and Lightning keeps what it finds: dropout would never be active.
        self.model.train()
        config = self.model.config
        if config.model_type == MODEL_TYPE:
            # Words alone never touch these; TransformerAttention, which does use them, makes them learn again.
            for parameter in visual_parameters(self.model):
                parameter.requires_grad_(False)
        accepted = inspect.signature(self.model.forward).parameters
        self.width: int = config.hidden_size
        self.has_segments = "token_type_ids" in accepted and getattr(config, "type_vocab_size", 0) > 1
        self._mask_is_optional = "attention_mask" in accepted and accepted["attention_mask"].default is None
        self.reads_characters = config.model_type == WORD_LEVEL and config.characters is not None
        if config.model_type == WORD_LEVEL:
            self.model.embedding.weight.requires_grad_(not config.freeze_words)
        self.adapters: Adapters | None = None
        self.frozen: FrozenLayers | None = None
        self.fused: FusedLayers | None = None
        self._is_prefixed = False
        if isinstance(name, dict) and name.get(ADAPTERS):
            self.adapt(Adapters(**{**name[ADAPTERS], "layers": tuple(name[ADAPTERS]["layers"])}))
        self.word_vectors, self.parts = WordVectors(), nn.ModuleDict()
        if isinstance(name, dict) and name.get(WORD_VECTORS):
            self.make_words(WordVectors(**name[WORD_VECTORS]))

    @property
    def config(self) -> dict[str, Any]:
        """The model's configuration as plain data, enough to build it again without its weights."""
        config: dict[str, Any] = self._config.to_dict()
        added = {} if self.adapters is None else {ADAPTERS: self.adapters.plain()}
        vectors = self.word_vectors.plain()
        return {**config, **added, **({WORD_VECTORS: vectors} if vectors else {})}

    def adapt(self, adapters: Adapters) -> None:
        """Freeze the model and put LoRA adapters into it, which learn instead. It computes the same at first.

        Raises:
            MissingDependencyError: If `peft` is not installed.
            ValueError: If it has adapters already, or no layer of a name that is asked for, or is a word-level encoder.
        """
        if self.model.config.model_type == WORD_LEVEL:
            raise ValueError("A word-level encoder is trained whole and takes no LoRA adapters; leave LoRA out")
        if self.frozen is not None:
            raise ValueError("LoRA freezes the whole text encoder but for its adapters; leave `freeze_layers` out")
        if self.adapters is not None:
            raise ValueError("Expected a text encoder without adapters, but it has some; `merge` them first")
        add_adapters(self.model, adapters)
        self.adapters = adapters

    def merge(self) -> None:
        """Add the adapters to the weights: a plain model that computes the same. Nothing happens without adapters."""
        if self.adapters is not None:
            merge_adapters(self.model)
            self.adapters = None

    def freeze(self, layers: int, limit: int = 0) -> None:
        """Keep embeddings and first layers as they are, without dropout; up to `limit` bytes of their states are kept.

        Kept states are for training, where a strategy runs the model as a whole and nobody looks at what is below. In
        all other cases the layers are run; that they do not learn saves their backward pass either way.

        Raises:
            ValueError: If the encoder has fewer layers or cannot be taken apart.
        """
        self.frozen = FrozenLayers(self.model, layers, limit)
        self.train(self.training)

    def fuse(self) -> None:
        """Compute short posts faster, and padding not at all, in inference mode on a processor: see `FusedLayers`.

        States are the same but for rounding. An encoder of another kind than BERT's, or with adapters, stays as it is.
        """
        self.fused = None if self.adapters is not None else fused_layers(self.model)

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; layers that are frozen have no dropout."""
        super().train(mode)
        if self.frozen is not None:
            self.frozen.without_dropout(self.model)
        return self

    def make_words(self, vectors: WordVectors) -> None:
        """Make vectors of words as `vectors` says from now on. Parts that are there already stay, with their weights.

        Raises:
            ValueError: If layers are to be mixed and the encoder does not give them.
        """
        if vectors.mix and "mix" not in self.parts:
            accepted = inspect.signature(self.model.forward).parameters
            gives = "output_hidden_states" in accepted or any(one.kind is one.VAR_KEYWORD for one in accepted.values())
            count = getattr(self.model.config, "num_hidden_layers", None)
            if not gives or not isinstance(count, int) or self.model.config.model_type == WORD_LEVEL:
                raise ValueError(
                    f"Expected a text encoder that gives the states of all its layers, but {type(self.model).__name__} "
                    "does not; leave the mix of layers out"
                )
            self.parts["mix"] = LayerMix(count + 1)
        if vectors.mean and "pieces" not in self.parts:
            self.parts["pieces"] = PieceMean()
        if vectors.characters and "characters" not in self.parts:
            self.parts["characters"] = WordSpelling(self.width, vectors.characters, vectors.character_kind)
        if vectors.hidden and "reader" not in self.parts:
            self.parts["reader"] = WordReader(self.width, vectors.hidden, vectors.reader_layers)
        self.parts.to(next(self.model.parameters()).device)
        self.word_vectors = vectors

    def forward(self, token_ids: Tensor, token_mask: Tensor, segment_ids: Tensor, **more: Any) -> Tensor:
        """Encode word pieces; `more` is for the model, as it is."""
        plain = not (more or self.word_vectors.mix or self._is_prefixed)
        segments = segment_ids if self.has_segments else None
        if self.training and plain and self.frozen is not None and self.frozen.used(self.model):
            return self.frozen(self.model, token_ids, token_mask, segments)
        if not self.training and plain and self.fused is not None and self.fused.serves(token_ids):
            if not self.fused.is_current:
                self.fuse()
            if self.fused is not None:
                return self.fused(self.model, token_ids, token_mask, segments)
        if self.has_segments:
            more["token_type_ids"] = segment_ids
        if self.word_vectors.mix:
            more["output_hidden_states"] = True
        output = self.model(input_ids=token_ids, attention_mask=self._needed(token_mask), **more)
        states: Tensor = self.parts["mix"](output.hidden_states) if self.word_vectors.mix else output.last_hidden_state
        return states  # (b, t, d)

    def _needed(self, token_mask: Tensor) -> Tensor | None:
        """The mask as the model takes it; none where it says nothing, which spares a post alone 3 % of its time.

        In evaluation mode only, where posts come alone; on a processor, since a look at the mask would be a wait on
        others; and not in a traced graph, which has to take other batches too.
        """
        looks = token_mask.device.type == "cpu" and not (
            self.training or self._is_prefixed or torch.compiler.is_compiling()
        )
        if looks and self._mask_is_optional and token_mask.all():
            return None
        return token_mask.long()

    @property
    def piece_limit(self) -> int | None:
        """Most word pieces t that it takes; see `piece_limit`."""
        return piece_limit(self.model)

    def words(self, batch: Batch) -> Tensor:
        """The words of a batch (b, w, d): the first piece of each, unless `word_vectors` says otherwise.

        A word-level encoder reads their characters too.
        """
        more: dict[str, Tensor] = {}
        if self.reads_characters:
            more = {"characters": batch_characters(batch), "word_starts": batch["word_starts"]}
        return self.pool(self(batch["token_ids"], batch["token_mask"], batch["segment_ids"], **more), batch)

    def pool(self, states: Tensor, batch: Batch) -> Tensor:
        """The words (b, w, d) of pieces (b, t, d), for strategies that run the layers themselves."""
        return self.read(self.gather(states, batch), batch)

    def gather(self, states: Tensor, batch: Batch) -> Tensor:
        """The first piece of each word, or the mean of its pieces: (b, t, d) -> (b, w, d). `read` is what follows."""
        if self.word_vectors.mean:
            means: Tensor = self.parts["pieces"](states, batch)
            return means
        return first_pieces(states, batch["word_starts"])

    def read(self, words: Tensor, batch: Batch) -> Tensor:
        """What `word_vectors` puts behind the layers, on words (b, w, d); by default they stay as they are."""
        if self.word_vectors.characters:
            words = self.parts["characters"](words, batch)
        if self.word_vectors.hidden:
            words = self.parts["reader"](words, batch["word_mask"])
        return words

    @property
    def layers(self) -> list[nn.Module]:
        """Its layers, first to last, to be run one by one; see `mner.encoders.steps`.

        Raises:
            ValueError: If this kind of encoder cannot be taken apart; it says which can.
        """
        return steps.layers(self.model)

    def embed(
        self, batch: Batch | Tensor, token_mask: Tensor | None = None, segment_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """States (b, t, d) before the first layer, and the mask for `states = layer(states, mask)`.

        Args:
            batch: A batch, or its `token_ids` (b, t).
            token_mask: (b, t) beside ids; None: all are real.
            segment_ids: (b, t) beside ids; None: one segment.

        Raises:
            ValueError: If this kind of encoder cannot be taken apart; it says which can.
        """
        if isinstance(batch, Tensor):
            token_ids = batch
            token_mask = torch.ones_like(batch, dtype=torch.bool) if token_mask is None else token_mask
        else:
            token_ids, token_mask, segment_ids = batch["token_ids"], batch["token_mask"], batch["segment_ids"]
        return steps.embed(self.model, token_ids, token_mask, segment_ids if self.has_segments else None)

    def layer_mask(self, states: Tensor, mask: Tensor) -> Tensor | None:
        """The mask of layers for states (b, t + r, d) to which something was added, with its own mask (b, t + r)."""
        return steps.layer_mask(self.model, states, mask)

    @contextmanager
    def prefixed(self, keys: prefix.Layers, values: prefix.Layers, mask: Tensor) -> Iterator[None]:
        """A block within which each layer attends to a prefix (layers, b, heads, p, d / heads), masked by (b, p).

        `mner.encoders.prefix.prefixed` says more, and which encoders take one.
        """
        with prefix.prefixed(self.model, keys, values, mask):
            self._is_prefixed = True
            try:
                yield
            finally:
                self._is_prefixed = False


def piece_limit(model: Any) -> int | None:
    """Most word pieces, special ones counted, that a transformers model has positions for; with one more it fails.

    RoBERTa and its kin begin to count behind the padding index, so they take fewer than their table has rows: 512 of
    `max_position_embeddings` 514, and BERTweet's kind 128 of 130.

    Args:
        model: The transformers model, `TextEncoder.model`.

    Returns:
        The limit; None for a model without one, whose positions are relative (T5, DeBERTa) or rotary (ModernBERT). Such
        a model may still do badly on posts longer than those that it was trained on.

    >>> piece_limit(TextEncoder("tiny").model)
    512
    """
    places = [getattr(part, name, None) for part in (getattr(model, "embeddings", None), model) for name in _PLACES]
    table = next((place for place in places if isinstance(place, nn.Embedding)), None)
    if table is None:
        return None
    offset = 0 if table.padding_idx is None else table.padding_idx + 1
    limit = table.num_embeddings - offset
    # BART's table has two rows more than it takes.
    return min(limit, getattr(model.config, "max_position_embeddings", limit))


_OURS = (ADAPTERS, WORD_VECTORS)
"""What is not for transformers in a stored configuration."""

_PLACES = ("position_embeddings", "embed_positions")
"""What models call their table of positions."""


def _without_ours(name: str | dict[str, Any]) -> str | dict[str, Any]:
    return {key: value for key, value in name.items() if key not in _OURS} if isinstance(name, dict) else name
