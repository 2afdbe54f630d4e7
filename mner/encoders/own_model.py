"""Text encoders of a user's own: a transformers model by the import path of its class, `my_encoder.Table`."""

from __future__ import annotations

import importlib
import importlib.util
import re
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mner.errors import CheckpointError

CLASS = "mner_class"
"""Key of the stored configuration under which checkpoints name the class."""

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def is_import_path(name: str) -> bool:
    """Whether a text encoder's name is the import path of a class, and no name on the Hub, of which few have a dot.

    >>> is_import_path("os.path"), is_import_path("bert-base-uncased"), is_import_path("no_such_module_here.Model")
    (True, False, False)
    """
    if not _PATH.fullmatch(name):
        return False
    try:
        return importlib.util.find_spec(name.split(".")[0]) is not None
    except (ImportError, ValueError):  # what is there is no module of a file
        return False


def own_model(path: str, config: dict[str, Any] | None = None) -> nn.Module:
    """A model with random weights, built by its class.

    Args:
        path: Import path of a subclass of `transformers.PreTrainedModel` that has its `config_class`.
        config: Arguments of its configuration, as a checkpoint keeps them; None for the defaults.

    Raises:
        CheckpointError: If there is no such class, or it is none of a transformers model.
    """
    module, _, name = path.rpartition(".")
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"The text encoder {path!r} cannot be imported ({error}). Run where its module can be found (its folder on "
            "PYTHONPATH), or install it"
        ) from error
    is_model = isinstance(found, type) and issubclass(found, PreTrainedModel)
    if not is_model or getattr(found, "config_class", None) is None:
        raise CheckpointError(
            f"Expected a subclass of transformers.PreTrainedModel with a `config_class` at {path!r}, but got {found!r}"
        )
    made = found.config_class(**(config or {}))
    setattr(made, CLASS, path)
    model: nn.Module = found(made).to(torch.float32)
    return model
