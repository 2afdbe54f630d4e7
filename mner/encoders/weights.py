"""Weights from local files into models, with a check that every one arrived."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mner.errors import CheckpointError


def weights_hash(model: nn.Module) -> str:
    """First 16 hex digits of sha256 over names and values of a model's weights: the same wherever they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors`, `.pth` or (detectron2's) `.pkl` file, by name, in the file's order.

    Nothing but tensors and plain data is unpickled, so that a file from a stranger runs no code.

    Raises:
        CheckpointError: If the file is missing or holds something else.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"Expected a file with weights at {str(path)!r}, but there is none")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        elif path.suffix == ".pkl":
            content = _NumpyUnpickler(io.BytesIO(path.read_bytes())).load()
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # every format has its own errors
        raise CheckpointError(f"{path} cannot be read as a file of weights: {error}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected a state dict (names and tensors)")
    state = {
        str(name).removeprefix("module."): torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in content.items()
    }
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        raise CheckpointError(f"{path} holds no state dict: expected tensors only, but found {others[:3] or 'nothing'}")
    return state


def load_by_name(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str | Path,
    spare: Iterable[str] = (),
    optional: Iterable[str] = (),
) -> None:
    """Load weights whose names are the model's own.

    Args:
        model: Where they go.
        state: The weights.
        source: Where they come from, for the error.
        spare: Modules that the file may hold and the model not, such as a classifier.
        optional: Weights that the file may lack, since nothing uses them.

    Raises:
        CheckpointError: If a weight is missing, left over, or has another shape.
    """
    state, own = _without_counts(state), _without_counts(model.state_dict())
    prefixes = tuple(f"{name}." for name in spare)
    missing = [name for name in own if name not in state and name not in set(optional)]
    left_over = [name for name in state if name not in own and not name.startswith(prefixes)]
    shapes = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or left_over or shapes:
        faults = {"missing": missing, "left over": left_over, "of another shape": shapes}
        found = "; ".join(f"{len(names)} {fault}: {_few(names)}" for fault, names in faults.items() if names)
        raise CheckpointError(f"{source} does not hold the {len(own)} weights of this {type(model).__name__}: {found}")
    model.load_state_dict({name: value for name, value in state.items() if name in own}, strict=False)


def load_in_order(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Load weights with other names, but in the model's order, such as torchvision's MobileNetV2 into timm's.

    Each pair must agree in shape and in the last part of its names (`weight`, `bias`, `running_mean`, ...). One
    classifier (a weight and a bias) may follow.

    Raises:
        CheckpointError: If a pair differs, or the counts do.
    """
    theirs, ours = list(_without_counts(state).items()), list(_without_counts(model.state_dict()).items())
    start = f"{source} fits this {type(model).__name__} neither by name nor in order: "
    for (name, value), (place, expected) in zip(theirs, ours, strict=False):
        if value.shape != expected.shape or _leaf(name) != _leaf(place):
            raise CheckpointError(
                f"{start}expected {place} {tuple(expected.shape)}, but the file has {name} {tuple(value.shape)} there"
            )
    rest = [name for name, _ in theirs[len(ours) :]]
    if len(theirs) < len(ours) or [_leaf(name) for name in rest] not in ([], ["weight"], ["weight", "bias"]):
        raise CheckpointError(
            f"{start}expected {len(ours)} weights, then a classifier at most, but the file has {len(theirs)}"
            + (f", at the end {_few(rest)}" if rest else "")
        )
    model.load_state_dict({place: value for (place, _), (_, value) in zip(ours, theirs, strict=False)}, strict=False)


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _without_counts(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without BatchNorm's step counts, which old files lack and no forward pass reads."""
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


class _NumpyUnpickler(pickle.Unpickler):
    """Reads detectron2's model zoo files: dictionaries of numpy arrays, and nothing that could run code."""

    ALLOWED = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy._core.multiarray", "scalar"),
            ("numpy._core.numeric", "_frombuffer"),
            ("numpy.core.numeric", "_frombuffer"),
            ("collections", "OrderedDict"),
            ("_codecs", "encode"),
        }
    )

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")  # they were written by Python 2

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a file of weights")
        return super().find_class(module, name)
