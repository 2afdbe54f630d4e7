"""Six posts of the sample data with every input, and strategies with weights that are well away from 0."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from mner.data.sample.batches import Fields, SampleBatches

F = 12
"""Width of the stored regions."""


@lru_cache
def _batches(needs: frozenset[str]) -> SampleBatches:
    return SampleBatches(region_width=F, needs=needs)


def sample(*rows: int, needs: Any = (), images: Any = "given") -> Fields:
    """The posts in these rows (all six without any) as a batch of their own; row 2 has no image."""
    return _batches(frozenset(needs))(rows or range(6), images)


def labels() -> list[str]:
    return _batches(frozenset()).labels


def wide(module: nn.Module, std: float = 0.3) -> Any:
    """Large random weights and no dropout, so that attention is far from uniform and each part has a visible effect."""
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            if not isinstance(part, nn.LayerNorm):
                nn.init.normal_(parameter, std=std)
    return module.eval()


def build(cls: Any, **options: Any) -> Any:
    """A strategy in evaluation mode. Its encoder keeps its own weights."""
    module = cls(labels(), **({"region_width": F} if cls.uses_image else {}), **options).eval()
    encoder = copy.deepcopy(module.text_encoder.state_dict())
    wide(module)
    module.text_encoder.load_state_dict(encoder)
    return module


def close(one: torch.Tensor, other: torch.Tensor, mask: torch.Tensor, atol: float = 1e-5) -> bool:
    """Whether real words have the same emissions."""
    return torch.allclose(one[mask], other[mask], atol=atol, rtol=1e-5)


def without_gradient(module: nn.Module) -> list[str]:
    """Parameters that learn, but got no gradient, or none but 0."""
    return [
        name
        for name, value in module.named_parameters()
        if value.requires_grad and (value.grad is None or not value.grad.any())
    ]
