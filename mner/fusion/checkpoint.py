"""Checkpoints that need nothing but themselves: what is added to Lightning's, and how they are read back."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import mner
from mner.errors import CheckpointError

if TYPE_CHECKING:
    from mner.fusion.base import FusionModule

KEY = "mner"


def class_path(module: FusionModule) -> str:
    """The import path of the module's class."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def write_extras(module: FusionModule, checkpoint: dict[str, Any]) -> None:
    """Put under `checkpoint["mner"]` what the weights do not say; plain data only, so that it loads weights-only."""
    checkpoint[KEY] = {
        "class": class_path(module),
        "version": mner.__version__,
        "text_config": _plain(module.text_encoder.config),
        "data": _data_extras(module),
    }
    # LightningCLI reads this key when it is given a checkpoint without a config.
    checkpoint["hyper_parameters"] = {**_plain(dict(module.hparams)), "_class_path": class_path(module)}


def read_checkpoint(path: str | Path, map_location: Any = None) -> dict[str, Any]:
    """A checkpoint's content, read without running any code from it.

    Raises:
        CheckpointError: If it is no checkpoint of `mner`, or holds more than tensors and plain data.
        FileNotFoundError: If it is not there.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read safely (tensors and plain data only): "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
    if not isinstance(checkpoint, dict) or KEY not in checkpoint or "state_dict" not in checkpoint:
        raise CheckpointError(f"Expected a checkpoint written by `mner` at {path}, but it has no part named {KEY!r}")
    return checkpoint


def load_module(
    path: str | Path, expected: type[FusionModule], map_location: Any = None, **kwargs: Any
) -> FusionModule:
    """Build the module that wrote the checkpoint and give it its weights.

    Raises:
        CheckpointError: If the class cannot be imported or is no subclass of `expected`.
    """
    checkpoint = read_checkpoint(path, map_location)
    return build_module(checkpoint, expected, **kwargs)


def build_module(checkpoint: dict[str, Any], expected: type[FusionModule], **kwargs: Any) -> FusionModule:
    """As `load_module`, from the content of a checkpoint."""
    cls = import_class(checkpoint[KEY]["class"], expected)
    arguments = {key: value for key, value in checkpoint["hyper_parameters"].items() if not key.startswith("_")}
    arguments["text_encoder"] = checkpoint[KEY]["text_config"]
    arguments["image_weights"] = None
    arguments.update(kwargs)
    module = cls(**arguments)
    # Stored as given, not as rebuilt: a later checkpoint of this module names the encoder again.
    module.hparams.update({key: checkpoint["hyper_parameters"][key] for key in ("text_encoder", "image_weights")})
    module.load_state_dict(checkpoint["state_dict"])
    module.restored = checkpoint[KEY]
    module.eval()
    return module


def import_class(path: str, expected: type[FusionModule]) -> type[FusionModule]:
    """The class at an import path.

    Raises:
        CheckpointError: If it cannot be imported or is no subclass of `expected`.
    """
    module_name, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"The checkpoint was written by class {path}, which cannot be imported ({error}). "
            "Run where that module can be found (its folder on PYTHONPATH), or install it."
        ) from error
    if not (isinstance(found, type) and issubclass(found, expected)):
        raise CheckpointError(f"Expected a checkpoint of a {expected.__name__}, but it was written by {path}")
    return found


def _data_extras(module: FusionModule) -> dict[str, Any]:
    """What the data module says of itself, or what an earlier checkpoint said of it."""
    trainer = getattr(module, "_trainer", None)
    datamodule = getattr(trainer, "datamodule", None)
    if datamodule is not None and hasattr(datamodule, "describe"):
        described: dict[str, Any] = _plain(datamodule.describe())
        return described
    restored: dict[str, Any] = (module.restored or {}).get("data", {})
    return restored


def _plain(value: Any) -> Any:
    """`value` with every container, path and type made one that a weights-only load accepts."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
