"""The optimiser of every strategy and the schedule of its rates: AdamW, warm-up and linear decay."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)


def adamw(module: Any, rate: float, head_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with one rate for the pretrained parts and one for the rest.

    Args:
        module: A `TaggingModule`; its `pretrained` says what has the first rate.
        rate: Of the pretrained parts.
        head_rate: Of everything else.
        weight_decay: None on biases and normalisation weights.
    """
    inside = {id(parameter) for part in module.pretrained for parameter in part.parameters()}
    rated = [(parameter, id(parameter) in inside) for parameter in module.parameters() if parameter.requires_grad]
    plain = _undecayed(module)
    groups = [
        {
            "params": [p for p, in_encoder in rated if in_encoder is encoder and (id(p) in plain) is undecayed],
            "lr": rate if encoder else head_rate,
            "weight_decay": 0.0 if undecayed else weight_decay,
        }
        for encoder in (True, False)
        for undecayed in (True, False)
    ]
    # One pass over each parameter: four times as fast on a CPU as the default.
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], fused=True)
    # Gradients are unscaled outside the optimiser; it says that it could do so itself, and Lightning then refuses to
    # clip them under mixed precision.
    optimizer._step_supports_amp_scaling = False
    return optimizer


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
