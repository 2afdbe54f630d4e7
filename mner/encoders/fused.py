"""BERT's layers as PyTorch's own encoder layers, which compute a short post in one call each and no padding."""

from __future__ import annotations

import logging
import warnings
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from mner.encoders import steps

log = logging.getLogger(__name__)

LONGEST = 64
"""Pieces up to which it is faster: these layers keep all attention weights, which longer rows pay for."""

_NAMES = {
    "self_attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}
_NAMES_OF_DISTILBERT = {
    "self_attn.out_proj": "attention.out_lin",
    "norm1": "sa_layer_norm",
    "linear1": "ffn.lin1",
    "linear2": "ffn.lin2",
    "norm2": "output_layer_norm",
}
_TAKEN = tuple(f"attention.self.{name}" for name in ("query", "key", "value"))
_TAKEN_OF_DISTILBERT = tuple(f"attention.{name}_lin" for name in "qkv")


class FusedLayers:
    """What a text encoder of BERT's kind computes in inference, by `torch.nn.TransformerEncoder`.

    Its layers are BERT's, with one product for query, key and value, and no Python between the parts of a layer; and of
    a batch it reads the pieces alone (nested tensors). It has the weights of the model, those of query, key and value
    copied into one. States are those of the model but for rounding, and 0 at padding or anything.

    Under autocast to bfloat16 a copy of the layers in bfloat16 computes, so that weights are not converted at each
    call; layer norms are in bfloat16 then too.

    Args:
        model: The transformers model, in evaluation mode.

    Raises:
        ValueError: If it is of another kind, or computes something else.
    """

    def __init__(self, model: Any) -> None:
        kind = steps.check(model)
        if kind == "visual_bert" or model.config.num_attention_heads % 2:
            raise ValueError("VisualBERT's layers give more than states, and an odd number of heads is slower so")
        distil = kind == "distilbert"
        layers = steps.layers(model)
        taken = [
            [layer.get_submodule(name) for name in (_TAKEN_OF_DISTILBERT if distil else _TAKEN)] for layer in layers
        ]
        self.copied: list[dict[str, Any]] = [one._parameters for some in taken for one in some]
        self.marks = self._marks()
        self.lower: nn.TransformerEncoder | None = None
        self.heard = [model, *(part for layer in layers for part in layer.modules())]
        with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
            names = _NAMES_OF_DISTILBERT if distil else _NAMES
            made = [self._layer(model.config, *both, names) for both in zip(layers, taken, strict=True)]
            self.encoder = nn.TransformerEncoder(made[0], 1).eval()
            self.encoder.layers, self.encoder.num_layers = nn.ModuleList(made), len(made)
            self._try(model)

    def serves(self, token_ids: Tensor) -> bool:
        """Whether it is the faster way for these pieces (b, t), and nobody looks at what is between."""
        return (
            torch.is_inference_mode_enabled()
            and token_ids.device.type == "cpu"
            and token_ids.shape[1] <= LONGEST
            and (not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") == torch.bfloat16)
            and not any(part._forward_hooks or part._forward_pre_hooks for part in self.heard)
        )

    @property
    def is_current(self) -> bool:
        """Whether the model's weights are those that it was made of."""
        return self.marks == self._marks()

    def __call__(self, model: Any, token_ids: Tensor, token_mask: Tensor, segment_ids: Tensor | None) -> Tensor:
        """The model's last states (b, t, d)."""
        segments = {} if segment_ids is None else {"token_type_ids": segment_ids}
        states: Tensor = model.embeddings(input_ids=token_ids, **segments)
        project = getattr(model, "embeddings_project", None)  # ELECTRA's
        if project is not None:
            states = project(states)
        if not torch.is_autocast_enabled("cpu"):
            return _run(self.encoder, states, token_mask)
        if self.lower is None:
            with torch.inference_mode(False), torch.no_grad():
                self.lower = deepcopy(self.encoder).bfloat16()
            self.copied = [part._parameters for part in self.heard[1:] if part._parameters]
            self.marks = self._marks()
        with torch.autocast("cpu", enabled=False):  # under which torch has no fused layers
            return _run(self.lower, states.bfloat16(), token_mask).float()

    def _marks(self) -> list[tuple[int, int]]:
        """What a change of the weights changes; asked at each call, and modules' attributes take ten times as long."""
        return [(part["weight"].data_ptr(), part["weight"]._version) for part in self.copied]

    @staticmethod
    def _layer(config: Any, layer: nn.Module, taken: list[Any], names: dict[str, str]) -> nn.TransformerEncoderLayer:
        norm: Any = layer.get_submodule(names["norm1"])
        inner: Any = layer.get_submodule(names["linear1"])
        activation = getattr(config, "hidden_act", None) or getattr(config, "activation", None)
        made = nn.TransformerEncoderLayer(
            norm.weight.shape[0],
            config.num_attention_heads,
            inner.weight.shape[0],
            dropout=0.0,
            activation=str(activation),
            layer_norm_eps=norm.eps,
            batch_first=True,
            device="meta",
        )
        made.self_attn.in_proj_weight = nn.Parameter(torch.cat([one.weight for one in taken]), requires_grad=False)
        made.self_attn.in_proj_bias = nn.Parameter(torch.cat([one.bias for one in taken]), requires_grad=False)
        for own, other in names.items():
            part, source = made.get_submodule(own), layer.get_submodule(other)
            part.weight, part.bias = source.weight, source.bias
        return made.eval()

    def _try(self, model: Any) -> None:
        """Compare it with the model on two rows, padded and not; what it does not share with BERT would show."""
        ids = torch.arange(1, 9).expand(2, -1).clone() % model.config.vocab_size
        segments = torch.zeros_like(ids) if getattr(model.config, "type_vocab_size", 0) > 1 else None
        for length in (8, 5):
            mask = torch.ones_like(ids, dtype=torch.bool)
            mask[1, length:] = False
            given = {} if segments is None else {"token_type_ids": segments}
            wanted = model(input_ids=ids, attention_mask=mask.long(), **given).last_hidden_state
            with torch.inference_mode(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # nested tensors are a prototype; said once in a process
                found = self(model, ids, mask, segments)
            if not torch.allclose(found[mask], wanted[mask], atol=1e-4, rtol=1e-3):
                raise ValueError("its layers compute something else than BERT's")


def _run(encoder: nn.TransformerEncoder, states: Tensor, mask: Tensor) -> Tensor:
    """The layers on states (b, t, d) with their mask (b, t)."""
    if not mask.all():
        found: Tensor = encoder(states, src_key_padding_mask=~mask)  # the pieces alone, as if each post came alone
        return found
    for layer in encoder.layers:
        states = layer(states)
    return states


def fused_layers(model: Any) -> FusedLayers | None:
    """`FusedLayers` of a text encoder, or None where it is of another kind."""
    try:
        return FusedLayers(model)
    except (ValueError, RuntimeError, AttributeError) as error:  # another activation, or other names of its parts
        log.debug("%s is computed as it is: %s", type(model).__name__, error)
        return None
