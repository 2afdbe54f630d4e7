"""Weights in fewer bytes, for models that are shared: float16, or int8 with a scale for each row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mner.errors import CheckpointError

StoredType = Literal["float32", "float16", "int8"]
STORED_TYPES = ("float32", "float16", "int8")
_SCALE = "int8_scale:"
_SMALL = 1_024
"""Numbers of a tensor that is not worth rounding to eight bits: biases, normalisation, the CRF."""


def packed(state: Mapping[str, Tensor], dtype: StoredType) -> dict[str, Tensor]:
    """Weights as they are stored.

    `int8` rounds each row of a matrix (first dimension of any larger tensor) to 255 steps between minus and plus its
    largest absolute value, and keeps vectors and small matrices as they are.

    Raises:
        ValueError: If `dtype` is another.
        CheckpointError: If a weight is beyond what float16 can hold.
    """
    if dtype not in STORED_TYPES:
        raise ValueError(f"Expected argument `dtype` to be one of {', '.join(STORED_TYPES)}, but got {dtype!r}")
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if dtype == "float32" or not value.is_floating_point():
            found[name] = value
        elif dtype == "float16":
            found[name] = value.half()
            if value.isfinite().all() and not found[name].isfinite().all():
                raise CheckpointError(f"{name} has weights beyond 65504, which float16 cannot hold; store float32")
        elif value.dim() < 2 or value.numel() < _SMALL:
            found[name] = value
        else:
            rows = value.float().flatten(1)
            scale = rows.abs().amax(1, keepdim=True) / 127
            steps = torch.where(scale > 0, rows / scale.clamp_min(torch.finfo(torch.float32).tiny), 0.0)
            found[name] = steps.round().to(torch.int8).view(value.shape)
            found[_SCALE + name] = scale[:, 0]
    return found


def unpacked(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in float32 of what `packed` made, of any type.

    Raises:
        CheckpointError: If a scale has no weights that it belongs to.
    """
    found = {name: value for name, value in stored.items() if not name.startswith(_SCALE)}
    for name, value in found.items():
        scale = stored.get(_SCALE + name)
        if scale is not None:
            if value.dtype != torch.int8 or scale.shape != value.shape[:1]:
                raise CheckpointError(f"The scales of {name} do not belong to its weights: the file was changed")
            found[name] = (value.float().flatten(1) * scale[:, None]).view(value.shape)
        elif value.dtype == torch.float16:
            found[name] = value.float()
    lost = [name for name in stored if name.startswith(_SCALE) and name.removeprefix(_SCALE) not in found]
    if lost:
        raise CheckpointError(f"{lost[0]} is a scale without weights: the file was changed")
    return found
