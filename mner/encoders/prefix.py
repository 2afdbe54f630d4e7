"""Prefixes: keys and values put before those of a transformer's own self-attention (HVPNeT, MKGformer).

transformers has no argument for it: a cache belongs to decoders, and an encoder's mask does not count it. Here the
prefix lies on the attention module, and an attention function registered with transformers finds it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mner.errors import CheckpointError

PREFIXED = {
    "bert": "BertSelfAttention",
    "roberta": "RobertaSelfAttention",
    "xlm-roberta": "XLMRobertaSelfAttention",
    "camembert": "CamembertSelfAttention",
    "electra": "ElectraSelfAttention",
    "distilbert": "DistilBertSelfAttention",
    "modernbert": "ModernBertAttention",
    "vit": "ViTAttention",
    "clip_vision_model": "CLIPAttention",
}
"""`model_type` of the models that take prefixes, and the class of their self-attention, one module a layer."""

Layers = Tensor | Sequence[Tensor | None] | Mapping[int, Tensor]
"""One tensor (b, heads, p, d / heads) a layer: stacked, as a list with None for layers without, or by layer number."""

_SDPA, _EAGER = "mner_prefix", "mner_prefix_eager"
_SLOT = "_mner_prefix"


@dataclass(eq=False)
class _Prefix:
    keys: Tensor  # (b, heads, p, d / heads)
    values: Tensor
    mask: Tensor  # (b, p)
    taken: bool = False


@contextmanager
def prefixed(model: Any, keys: Layers, values: Layers, mask: Tensor) -> Iterator[None]:
    """Within the block, self-attention layers of a model attend to a prefix before their own states.

    With a prefix K', V' a layer computes `softmax(Q [K'; K]^T / sqrt(d / heads)) [V'; V]`. A prefix that is masked
    throughout changes nothing. Gradients reach keys and values. ModernBERT's prefixes have no position (they are not
    rotated), and are seen from outside its local windows too. Maps of attention (only if the model is set to `eager`)
    have the prefix's p columns first.

    One block at a time holds a layer of a model, so threads that share a model must take turns.

    Source: Chen X. et al. (2022), "Good Visual Guidance Makes A Better Extractor" (HVPNeT), after Li and Liang (2021).

    Args:
        model: A transformers model: a text encoder, or the vision tower of ViT or CLIP.
        keys: (layers, b, heads, p, d / heads); or a tensor (b, heads, p, d / heads) for some layers only, as a list
            with None for the others, or as a dictionary by layer number from 0.
        values: Like `keys`, for the same layers.
        mask: Which of the p are real (b, p), bool.

    Raises:
        ValueError: If this kind of model takes no prefix; if shapes do not fit; or, at the call, another batch size.
        RuntimeError: If no layer took its prefix, which would have had no effect; if a layer has one already; or with
            gradient checkpointing, which computes layers again when the prefix is gone.

    >>> from transformers import BertConfig, BertModel
    >>> config = BertConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    >>> bert, ids = BertModel(config).eval(), torch.ones(3, 5, dtype=torch.long)
    >>> prefix = torch.randn(2, 3, 2, 4, 4)  # two layers, three posts, two heads, four places, width 8 / 2
    >>> with prefixed(bert, prefix, prefix, torch.ones(3, 4, dtype=torch.bool)):
    ...     states = bert(ids).last_hidden_state
    >>> torch.allclose(states, bert(ids).last_hidden_state)
    False
    """
    modules = attentions(model)
    prefixes = _prefixes(model, keys, values, mask, len(modules))
    if model.training and any(getattr(part, "gradient_checkpointing", False) for part in model.modules()):
        raise RuntimeError(
            "Expected a model without gradient checkpointing, which computes layers again after the block, when their "
            "prefix is gone; call `gradient_checkpointing_disable()` on it"
        )
    chosen = [(modules[number], prefix) for number, prefix in prefixes.items()]
    if any(hasattr(attention, _SLOT) for attention, _ in chosen):
        raise RuntimeError(f"Expected layers without prefix, but a layer of {type(model).__name__} has one already")
    _register()
    configs = {id(part.config): part.config for part in model.modules() if hasattr(part, "config")}
    before = {key: config._attn_implementation for key, config in configs.items()}
    try:
        for key, config in configs.items():
            config._attn_implementation = _EAGER if before[key] in ("eager", _EAGER) else _SDPA
        for attention, prefix in chosen:
            setattr(attention, _SLOT, prefix)
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]
        for attention, _ in chosen:
            attention.__dict__.pop(_SLOT, None)
    if not any(prefix.taken for prefix in prefixes.values()):
        raise RuntimeError(
            f"Expected {type(model).__name__} to be called with its prefix, but no layer of it took one; call the "
            "model, or those of its layers that have a prefix, within the block"
        )


def attentions(model: Any) -> list[nn.Module]:
    """The self-attention of each layer, first to last, where a prefix would go.

    Raises:
        ValueError: If this kind of model takes no prefix; it says which do.
    """
    config: Any = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    if kind not in PREFIXED:
        hint = "; of a CLIP, its `vision_model`" if kind == "clip" else ""
        raise ValueError(
            f"Expected a transformers model whose attention takes a prefix ({', '.join(PREFIXED)}), but got "
            f"{type(model).__name__} of kind {kind!r}, where it would be ignored or not belong to one layer; choose "
            f"one of those{hint}"
        )
    if getattr(config, "is_decoder", False):
        raise ValueError(f"Expected an encoder, but {type(model).__name__} is a decoder; set is_decoder to False")
    found = [part for part in model.modules() if type(part).__name__ == PREFIXED[kind]]
    if len(found) != config.num_hidden_layers:
        raise CheckpointError(
            f"Expected {config.num_hidden_layers} modules {PREFIXED[kind]} in {type(model).__name__}, but found "
            f"{len(found)}; this version of transformers builds it in another way, so it takes no prefix"
        )
    return found


def _prefixes(model: Any, keys: Layers, values: Layers, mask: Tensor, count: int) -> dict[int, _Prefix]:
    by_layer, valued = _by_layer(keys, "keys", count), _by_layer(values, "values", count)
    if by_layer.keys() != valued.keys():
        raise ValueError(
            f"Expected keys and values of the same layers, but got {sorted(by_layer)} and {sorted(valued)}"
        )
    if mask.dtype != torch.bool or mask.dim() != 2:
        raise ValueError(f"Expected a mask (b, p) of bool, but got {tuple(mask.shape)} of {mask.dtype}")
    heads = model.config.num_attention_heads
    width = getattr(model.config, "head_dim", None) or model.config.hidden_size // heads
    wanted = (mask.shape[0], heads, mask.shape[1], width)
    for name, given in (("keys", by_layer), ("values", valued)):
        for number, tensor in given.items():
            if tuple(tensor.shape) != wanted:
                raise ValueError(
                    f"Expected {name} (b, heads, p, d / heads) = {wanted} in layer {number}, as the mask and "
                    f"{type(model).__name__} have it, but got {tuple(tensor.shape)}"
                )
    return {number: _Prefix(by_layer[number], valued[number], mask) for number in by_layer}


def _by_layer(given: Layers, name: str, count: int) -> dict[int, Tensor]:
    if not isinstance(given, Mapping):
        if len(given) != count:
            raise ValueError(f"Expected {name} of {count} layers (None for one without), but got {len(given)}")
        given = {number: tensor for number, tensor in enumerate(given) if tensor is not None}
    if not given or not all(0 <= number < count for number in given):
        raise ValueError(f"Expected {name} for one or more of the layers 0 to {count - 1}, but got {sorted(given)}")
    return dict(given)


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    for name, function in ((_SDPA, _sdpa), (_EAGER, _eager)):
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, sdpa_mask)


def _sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    attend: Callable[..., tuple[Tensor, Tensor | None]] = sdpa_attention_forward
    return attend(module, query, *_lengthened(module, query, key, value, attention_mask), **options)


def _eager(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        # The lowest number, as transformers does: a row without any real key has weights, and no NaN.
        lowest = torch.finfo(query.dtype).min
        attention_mask = query.new_zeros(attention_mask.shape).masked_fill(~attention_mask, lowest)
    key, value, mask = _lengthened(module, query, key, value, attention_mask)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)  # (b, heads, t, p + t)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
    seen = functional.dropout(weights, dropout, module.training) @ value
    return seen.transpose(1, 2).contiguous(), weights


def _lengthened(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys, values and mask with the module's prefix before them, or as they are where it has none."""
    prefix: _Prefix | None = getattr(module, _SLOT, None)
    if prefix is None:
        return key, value, mask
    size, given = prefix.keys.shape[0], key.shape[0]  # `len` would hold an exported graph to one size
    if size != given:
        raise ValueError(f"Expected a batch of the prefix's size {size}, but the model got {given}")
    prefix.taken = True
    if mask is None:
        mask = key.new_ones(1, 1, 1, key.shape[2], dtype=torch.bool)
    shape = (given, mask.shape[1], query.shape[2], -1)
    front = prefix.mask[:, None, None]  # (b, 1, 1, p)
    if mask.dtype != torch.bool:
        front = mask.new_zeros(front.shape).masked_fill(~front, -torch.inf)
    return (
        torch.cat([prefix.keys.to(key.dtype), key], 2),
        torch.cat([prefix.values.to(value.dtype), value], 2),
        torch.cat([front.expand(shape), mask.expand(shape)], -1),
    )
