"""Text encoders: any transformers AutoModel, by Hub name, folder, stored configuration, or the built-in tiny one.

Of encoder-decoders (T5, BART and their kin) the encoder is used, and the decoder left out.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from mner.batch import Batch
from mner.encoders import prefix, steps
from mner.encoders.characters import batch_characters
from mner.encoders.lora import Adapters, add_adapters, merge_adapters
from mner.encoders.own_model import CLASS, is_import_path, own_model
from mner.encoders.visual_bert import MODEL_TYPE, load_visual_bert, visual_parameters
from mner.encoders.word_level import MODEL_TYPE as WORD_LEVEL
from mner.encoders.word_level import load_word_level
from mner.errors import CheckpointError
from mner.files import TINY, locate
from mner.nn.masking import first_pieces

ADAPTERS = "mner_adapters"
"""Key of the configuration under which checkpoints say that the encoder has adapters."""


class TextEncoder(nn.Module):
    """Contextual vectors of word pieces.

    Args:
        name: A Hub name or folder of a transformers model; `"tiny"` for the built-in one (random weights); or the
            configuration itself as a dictionary, as checkpoints store it (random weights, to be loaded afterwards).

    Attributes:
        width: d, the width of its vectors.
        reads_characters: Whether it is a word-level encoder that `words` gives characters to.
        adapters: What its LoRA adapters are like, or None without.

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
        whole = _build(name)
        self._config: Any = whole.config  # from which the whole model can be built again
        self.model: Any = _encoder_of(whole)
        _check_reads_text(self.model, whole.config.model_type)
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
        self.reads_characters = config.model_type == WORD_LEVEL and config.characters is not None
        if config.model_type == WORD_LEVEL:
            self.model.embedding.weight.requires_grad_(not config.freeze_words)
        self.adapters: Adapters | None = None
        if isinstance(name, dict) and name.get(ADAPTERS):
            self.adapt(Adapters(**{**name[ADAPTERS], "layers": tuple(name[ADAPTERS]["layers"])}))

    @property
    def config(self) -> dict[str, Any]:
        """The model's configuration as plain data, enough to build it again without its weights."""
        config: dict[str, Any] = self._config.to_dict()
        return config if self.adapters is None else {**config, ADAPTERS: self.adapters.plain()}

    def adapt(self, adapters: Adapters) -> None:
        """Freeze the model and put LoRA adapters into it, which learn instead. It computes the same at first.

        Raises:
            MissingDependencyError: If `peft` is not installed.
            ValueError: If it has adapters already, or no layer of a name that is asked for, or is a word-level encoder.
        """
        if self.model.config.model_type == WORD_LEVEL:
            raise ValueError("A word-level encoder is trained whole and takes no LoRA adapters; leave LoRA out")
        if self.adapters is not None:
            raise ValueError("Expected a text encoder without adapters, but it has some; `merge` them first")
        add_adapters(self.model, adapters)
        self.adapters = adapters

    def merge(self) -> None:
        """Add the adapters to the weights: a plain model that computes the same. Nothing happens without adapters."""
        if self.adapters is not None:
            merge_adapters(self.model)
            self.adapters = None

    def forward(self, token_ids: Tensor, token_mask: Tensor, segment_ids: Tensor, **more: Tensor) -> Tensor:
        """Encode word pieces; `more` is for the model, as it is."""
        if self.has_segments:
            more["token_type_ids"] = segment_ids
        states: Tensor = self.model(input_ids=token_ids, attention_mask=token_mask.long(), **more).last_hidden_state
        return states  # (b, t, d)

    @property
    def piece_limit(self) -> int | None:
        """Most word pieces t that it takes; see `piece_limit`."""
        return piece_limit(self.model)

    def words(self, batch: Batch) -> Tensor:
        """The words of a batch (b, w, d): the first piece of each. A word-level encoder reads their characters too."""
        more: dict[str, Tensor] = {}
        if self.reads_characters:
            more = {"characters": batch_characters(batch), "word_starts": batch["word_starts"]}
        states = self(batch["token_ids"], batch["token_mask"], batch["segment_ids"], **more)
        return first_pieces(states, batch["word_starts"])

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

    def prefixed(self, keys: prefix.Layers, values: prefix.Layers, mask: Tensor) -> AbstractContextManager[None]:
        """A block within which each layer attends to a prefix (layers, b, heads, p, d / heads), masked by (b, p).

        `mner.encoders.prefix.prefixed` says more, and which encoders take one.
        """
        return prefix.prefixed(self.model, keys, values, mask)


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


_PLACES = ("position_embeddings", "embed_positions")
"""What models call their table of positions."""


def _encoder_of(model: Any) -> Any:
    """The encoder of an encoder-decoder, any other model as it is."""
    return model.get_encoder() if isinstance(getattr(model, "decoder", None), nn.Module) else model


def _check_reads_text(model: Any, kind: str) -> None:
    accepted = list(inspect.signature(model.forward).parameters)
    if "input_ids" not in accepted or not hasattr(getattr(model, "config", None), "hidden_size"):
        raise CheckpointError(
            f"Expected a text encoder, but {type(model).__name__} of the kind {kind!r} does not read text, or not text "
            f"alone, or has no configuration of its own (it takes {', '.join(accepted[:3])}); choose a text encoder, "
            "such as a BERT, a RoBERTa or a T5"
        )


def _build(name: str | dict[str, Any]) -> Any:
    if isinstance(name, dict):
        return _from_config(name)
    return own_model(name) if is_import_path(name) else _from_name(name)


def _from_config(config: dict[str, Any]) -> nn.Module:
    options = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype", ADAPTERS)}
    if CLASS in options:
        return own_model(options.pop(CLASS), options)
    model: nn.Module = AutoModel.from_config(
        AutoConfig.for_model(**options), dtype=torch.float32, trust_remote_code=False
    )
    return model


def _from_name(name: str) -> nn.Module:
    folder = locate(name)
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:  # not there, no network, or an unknown kind of model
        raise CheckpointError(
            f"Expected a transformers model at {name!r} (a folder, a name on the Hugging Face Hub, or 'tiny'), but "
            f"transformers could not load its config: {str(error).splitlines()[0]}"
        ) from error
    if config.model_type == MODEL_TYPE:
        visual: nn.Module = load_visual_bert(name)
        return visual
    if config.model_type == WORD_LEVEL:
        words: nn.Module = load_word_level(folder)
        return words
    if name == TINY:
        model: nn.Module = AutoModel.from_config(config, dtype=torch.float32)
        return model
    try:
        # float32: the default would be the checkpoint's own type, and half-precision weights do not train well.
        model, loaded = AutoModel.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    except ValueError as error:
        raise CheckpointError(
            f"Expected a text encoder at {name!r}, but transformers builds no plain model of the kind "
            f"{config.model_type!r}: {str(error).splitlines()[0]}"
        ) from error
    spare = () if _encoder_of(model) is model else ("decoder.",)
    missing = sorted(key for key in loaded["missing_keys"] if "pooler" not in key and not key.startswith(spare))
    mismatched = sorted(str(entry[0]) for entry in loaded.get("mismatched_keys", ()))
    if missing or mismatched:
        raise CheckpointError(
            f"The weights in {folder!r} leave {len(missing)} tensors of {type(model).__name__} random and "
            f"{len(mismatched)} of another shape, for example {(missing + mismatched)[:3]}; expected all of them. "
            "Check that the weights belong to this architecture (model_type in config.json)."
        )
    return model
