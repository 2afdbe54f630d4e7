"""The optimiser of every strategy and the schedule of its rates: AdamW, warm-up and linear decay."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)


def adamw(
    module: Any, rate: float, head_rate: float, weight_decay: float, fusion_rate: float | None = None
) -> torch.optim.AdamW:
    """AdamW with a rate for the pretrained parts, one for what scores the labels, and one for all between.

    Args:
        module: A `TaggingModule`; its `pretrained` says what has the first rate, its `output_layers` what the second.
        rate: Of the pretrained parts.
        head_rate: Of the output layers.
        weight_decay: None on biases and normalisation weights.
        fusion_rate: Of everything else; None for the same as the output layers.
    """
    rates = {"pretrained": rate, "head": head_rate, "fusion": head_rate if fusion_rate is None else fusion_rate}
    part_of = {id(parameter): "pretrained" for part in module.pretrained for parameter in part.parameters()}
    if rates["fusion"] == rates["head"]:  # one group, as in checkpoints from when there was one rate
        others = "head"
    else:
        others = "fusion"
        for part in module.output_layers:
            part_of |= {id(parameter): "head" for parameter in part.parameters()}
    rated = [(parameter, part_of.get(id(parameter), others)) for parameter in module.parameters()]
    plain = _undecayed(module)
    groups = [
        {
            "params": [p for p, own in rated if own == name and p.requires_grad and (id(p) in plain) is undecayed],
            "lr": rate,
            "weight_decay": 0.0 if undecayed else weight_decay,
        }
        for name, rate in rates.items()
        for undecayed in (True, False)
    ]
    # One pass over each parameter: four times as fast on a CPU as the default.
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], fused=True)
    # Gradients are unscaled outside the optimiser; it says that it could do so itself, and Lightning then refuses to
    # clip them under mixed precision.
    optimizer._step_supports_amp_scaling = False
    return optimizer


def rate_between(rate: float, head_rate: float) -> float:
    """The rate of a fusion for which none is given: the geometric mean of the encoders' and the head's.

    >>> round(rate_between(5e-5, 5e-3), 6)
    0.0005
    """
    return math.sqrt(rate * head_rate) if rate != head_rate else rate


def warmup_and_decay(optimizer: torch.optim.Optimizer, warmup_ratio: float, total: float) -> Any:
    """Rates that rise over a part of the steps and then fall linearly to 0; constant where nobody knows the end.

    Args:
        optimizer: The optimiser.
        warmup_ratio: Part of the steps during which they rise.
        total: Steps of the run; infinite with `max_epochs` -1 and no `max_steps`.
    """
    from transformers import get_constant_schedule, get_linear_schedule_with_warmup

    if math.isinf(total):
        log.warning("The learning rate stays as it is: with max_epochs -1 and no max_steps nobody knows the end")
        return get_constant_schedule(optimizer)
    return get_linear_schedule_with_warmup(optimizer, int(warmup_ratio * total), int(total))


def follow_new_groups(scheduler: Any) -> None:
    """Let a schedule follow groups of parameters that a callback added during the run (Lightning's finetuning)."""
    if isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        for group in scheduler.optimizer.param_groups[len(scheduler.base_lrs) :]:
            scheduler.base_lrs.append(group.setdefault("initial_lr", group["lr"]))
            scheduler.lr_lambdas.append(scheduler.lr_lambdas[0])


def _undecayed(module: nn.Module) -> set[int]:
    """Ids of parameters without weight decay: biases and everything of normalisation layers."""
    norms = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
    found: set[int] = set()
    for part in module.modules():
        named: Iterable[tuple[str, nn.Parameter]] = part.named_parameters(recurse=False)
        found |= {
            id(parameter)
            for name, parameter in named
            if isinstance(part, norms) or "bias" in name or "norm" in name.lower()
        }
    return found
