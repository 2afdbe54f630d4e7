"""LoRA (Hu et al. 2022): small trained matrices beside the frozen weights of a text encoder, put there by `peft`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from mner.errors import MissingDependencyError

_LEFT_OUT = "visual_projection"
"""A layer of VisualBERT that only regions reach: an adapter there would get no gradient from text."""


@dataclass(frozen=True)
class Adapters:
    """What the adapters of an encoder are like; plain data, so that a checkpoint can say it.

    Attributes:
        rank: Of the matrices: each layer's weight W (out, in) becomes `W + alpha / rank * B A` with B (out, rank) and A
            (rank, in).
        alpha: Scale of the change.
        dropout: On what A sees.
        layers: Names of the linear layers that get adapters, such as `query`; empty for all of them.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"Expected `rank` of at least 1, `alpha` above 0 and `dropout` from 0 to below 1, but got {self.rank}, "
                f"{self.alpha} and {self.dropout}"
            )

    def plain(self) -> dict[str, Any]:
        """As a dictionary of numbers and lists."""
        return {**asdict(self), "layers": list(self.layers)}


def add_adapters(model: nn.Module, adapters: Adapters) -> None:
    """Put adapters into a transformers model and freeze everything else in it. The model computes the same at first.

    Raises:
        MissingDependencyError: If `peft` is not installed.
        ValueError: If no layer has one of the names in `layers`.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise MissingDependencyError(
            "Expected the package `peft` for LoRA, but it is not installed; `pip install 'mner[lora]'`"
        ) from None
    chosen = _chosen(model, adapters.layers)
    config = LoraConfig(
        r=adapters.rank, lora_alpha=adapters.alpha, lora_dropout=adapters.dropout, target_modules=chosen
    )  # type: ignore[arg-type,unused-ignore]
    inject_adapter_in_model(config, model)


def _chosen(model: nn.Module, layers: Sequence[str]) -> list[str]:
    linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    short = {name: name.rpartition(".")[2] for name in linear}
    short = {name: end for name, end in short.items() if end != _LEFT_OUT}
    unknown = sorted(set(layers) - set(short.values()))
    if unknown or not short:
        known = ", ".join(sorted(set(short.values()))) or "none"
        raise ValueError(f"Expected `layers` among those of {type(model).__name__} ({known}), but got {unknown}")
    return [name for name, end in short.items() if not layers or end in layers]


def merge_adapters(model: nn.Module) -> None:
    """Add the adapters to the weights beside them and take them out: a plain model that computes the same."""
    from peft.tuners.lora import LoraLayer

    for name, part in list(model.named_modules()):
        if isinstance(part, LoraLayer):
            part.merge(safe_merge=True)  # a NaN is an error, not a model
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, part.get_base_layer())
