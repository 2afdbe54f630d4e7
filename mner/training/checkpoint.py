"""Checkpoints that need nothing but themselves: what is added to Lightning's, and how they are read back."""

from __future__ import annotations

import importlib
import itertools
import sys
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

import mner
from mner.encoders.text import ADAPTERS, WORD_VECTORS
from mner.encoders.word_parts import WordVectors
from mner.errors import CheckpointError, MNERError
from mner.labels import entity_types
from mner.runtime import run_seed
from mner.training.old_names import renamed
from mner.training.stored_facts import CALIBRATION, check_facts

KEY = "mner"
COMPILED = "_orig_mod."
"""What `torch.compile(part)` puts into the names of the part's weights."""


class Kept(Protocol):
    """What a checkpoint needs of a model: a `TaggingModule`."""

    labels: list[str]
    label_sets: dict[str, list[str]]
    text_encoder: Any
    restored: dict[str, Any] | None

    @property
    def hparams(self) -> Any:
        """Its constructor's arguments."""


Module = TypeVar("Module", bound=Any)


def class_path(module: Kept) -> str:
    """The import path of the module's class; for a strategy of the library its public one, `mner.fusion.TextOnly`."""
    return _path_of(type(module))


def _path_of(cls: type) -> str:
    public = sys.modules.get("mner.fusion")
    if cls.__module__.startswith("mner.fusion.") and getattr(public, cls.__qualname__, None) is cls:
        return f"mner.fusion.{cls.__qualname__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def write_extras(module: Kept, checkpoint: dict[str, Any]) -> None:
    """Put under `checkpoint["mner"]` what the weights do not say; plain data only, so that it loads weights-only."""
    checkpoint[KEY] = {
        "class": class_path(module),
        "version": mner.__version__,
        "seed": run_seed(),
        "text_config": _plain(module.text_encoder.config),
        "data": _data_extras(module),
        **_calibration(module),
    }
    # LightningCLI reads this key when it is given a checkpoint without a config.
    checkpoint["hyper_parameters"] = {**_plain(dict(module.hparams)), "_class_path": class_path(module)}


TRAINING_STATE = (
    *("optimizer_states", "lr_schedulers"),
    *("current_model_state", "averaging_state"),  # of Lightning's WeightAveraging
)
"""What a checkpoint has for a run to go on from, and nothing else needs."""


def without_training_state(checkpoint: dict[str, Any]) -> None:
    """Take out what only a run that goes on needs: two thirds of a checkpoint that was trained with AdamW."""
    for name in TRAINING_STATE:
        checkpoint.pop(name, None)


def check_goes_on(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Refuse to go on with a run from a checkpoint that holds weights alone.

    Raises:
        CheckpointError: If it has no state of the optimiser.
    """
    if "optimizer_states" not in checkpoint:
        last = Path(path).with_name("last.ckpt")
        raise CheckpointError(
            f"{path} holds the weights and no state of the optimiser, so that no run goes on from it; give "
            f"{last if last.is_file() else 'the last.ckpt of the run'} to go on, or --model.init_from {path} to begin "
            "a new training from its encoders and fusion"
        )


def plain_names(state: dict[str, Any]) -> dict[str, Any]:
    """`state`, in which weights of compiled parts now have the names that they have without `torch.compile`."""
    if any(COMPILED in name for name in state):
        for name in list(state):  # each, so that the order stays
            state[name.replace(COMPILED, "")] = state.pop(name)
    return state


def own_names(module: nn.Module, state: dict[str, Any], prefix: str = "") -> None:
    """Give the weights in `state` the names of `module`, whichever of its parts are compiled here or were there."""
    tensors = itertools.chain(
        module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    )
    own = {prefix + name.replace(COMPILED, ""): prefix + name for name, _ in tensors}
    for name in list(state):
        place = own.get(name.replace(COMPILED, ""), name)
        if place != name:
            state[place] = state.pop(name)


def read_checkpoint(path: str | Path, map_location: Any = None) -> dict[str, Any]:
    """A checkpoint's content, read without running any code from it.

    Raises:
        CheckpointError: If it is not there, is no checkpoint of `mner`, or holds more than tensors and plain data.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"No checkpoint at {str(path)!r}; `mner fit` says where it keeps them") from None
    except Exception as error:  # of bytes that nobody wrote so: what torch's readers raise then shares no class
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read safely (tensors and plain data only): "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
    _check_ours(checkpoint, path)
    return checkpoint


def copy_with(path: str | Path, out: str | Path, facts: dict[str, Any]) -> None:
    """Write a checkpoint again, with other facts on it beside the weights; all else in it stays as it is.

    Raises:
        CheckpointError: If it is no checkpoint of ours.
    """
    checkpoint = read_checkpoint(path)
    torch.save({**checkpoint, KEY: {**checkpoint[KEY], **_plain(facts)}}, out)


def _check_ours(checkpoint: Any, path: str | Path = "the given path") -> None:
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(KEY), dict) or "state_dict" not in checkpoint:
        raise CheckpointError(
            f"Expected a checkpoint of a mner.fusion.FusionModule at {path}, but it has no part named {KEY!r}: it was "
            "written by other code"
        )
    check_facts(checkpoint, KEY, path)


def accept(module: Kept, checkpoint: dict[str, Any]) -> None:
    """Keep what a checkpoint says beside its weights, before they are loaded into `module`.

    Raises:
        CheckpointError: If another class wrote it, or one for other labels.
    """
    _check_ours(checkpoint)
    written_by = checkpoint[KEY]["class"]
    if not _is_called(type(module), written_by):
        raise CheckpointError(
            f"The checkpoint was written by {written_by}, but the model is a {class_path(module)}; "
            "choose that class, or leave the model out so that the checkpoint says it"
        )
    labels = checkpoint.get("hyper_parameters", {}).get("labels")
    own = module.label_sets or module.labels
    if labels is not None and labels != own:
        raise CheckpointError(
            f"The checkpoint was trained with entity types {_types(labels)}, but the data have "
            f"{_types(own)}; choose the data set that it was trained for"
        )
    _check_added(module, checkpoint[KEY].get("text_config") or {})
    module.restored = checkpoint[KEY]


def _types(labels: Any) -> Any:
    """The entity types of a list of labels, or of each label set."""
    if isinstance(labels, dict):
        return {name: entity_types(some) for name, some in labels.items()}
    return entity_types(labels)


def _check_added(module: Kept, config: dict[str, Any]) -> None:
    """Lightning would name each weight of what was added, and not say what to do."""
    own = module.text_encoder.adapters
    stored, given = config.get(ADAPTERS), None if own is None else own.plain()
    if stored != given:
        raise CheckpointError(
            f"The checkpoint was written with {_named(stored)}, but the model has {_named(given)}; train on with the "
            "callbacks that it was trained with (mner.training.callbacks.LoRA)"
        )
    vectors, made = WordVectors(**(config.get(WORD_VECTORS) or {})), module.text_encoder.word_vectors
    if vectors != made:
        raise CheckpointError(
            f"The checkpoint was written with word vectors of {vectors.plain() or 'first pieces alone'}, but the model "
            f"has {made.plain() or 'first pieces alone'}; train on with the callbacks that it was trained with "
            "(mner.training.word_vectors)"
        )


def _named(adapters: dict[str, Any] | None) -> str:
    return "no LoRA adapters" if adapters is None else f"LoRA adapters of {adapters}"


def _is_called(cls: type, path: str) -> bool:
    """Whether a checkpoint means this class: a script's own class is `__main__.X` there, and `script.X` elsewhere."""
    return path == _path_of(cls) or path in (f"__main__.{cls.__qualname__}", f"{cls.__module__}.{cls.__qualname__}")


def load_module(path: str | Path, expected: type[Module], map_location: Any = None, **kwargs: Any) -> Module:
    """Build the module that wrote the checkpoint and give it its weights.

    Raises:
        CheckpointError: If the class cannot be imported or is no subclass of `expected`.
    """
    return build_module(read_checkpoint(path, map_location), expected, path, **kwargs)


def build_module(
    checkpoint: dict[str, Any], expected: type[Module], path: str | Path = "the given path", **kwargs: Any
) -> Module:
    """As `load_module`, from the content of a checkpoint; `path` is for messages.

    Raises:
        CheckpointError: If what it says makes no model.
    """
    _check_ours(checkpoint, path)
    cls: type[Module] = import_class(checkpoint[KEY]["class"], expected)
    try:
        return _built(cls, checkpoint, kwargs)
    except MNERError:
        raise
    except Exception as error:  # what the file says goes to the constructors of several libraries
        if not cls.__module__.startswith("mner."):
            raise  # a fault in the user's own class keeps its traceback
        raise CheckpointError(
            f"The configuration and the weights in {path} do not make a model: {type(error).__name__}: {error}. If "
            "nobody changed them since mner wrote them, please report it"
        ) from error


def _built(cls: type[Module], checkpoint: dict[str, Any], kwargs: dict[str, Any]) -> Module:
    arguments = {key: value for key, value in checkpoint["hyper_parameters"].items() if not key.startswith("_")}
    arguments["text_encoder"] = checkpoint[KEY]["text_config"]
    arguments["image_weights"] = None
    arguments.update(kwargs)
    module: Module = cls(**arguments)
    # Stored as given, not as rebuilt: a later checkpoint of this module names the encoder again.
    kept = {"text_encoder", "image_weights"} - kwargs.keys()
    module.hparams.update({key: checkpoint["hyper_parameters"][key] for key in kept})
    module.load_state_dict(checkpoint["state_dict"])
    module.restored = checkpoint[KEY]
    module.eval()
    return module


def import_class(path: str, expected: type[Module]) -> type[Module]:
    """The class at an import path.

    Raises:
        CheckpointError: If it cannot be imported or is no subclass of `expected`.
    """
    path = renamed(path)
    if _is_called(expected, path):
        return expected
    module_name, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # TypeError: a name that begins with a dot
        raise CheckpointError(
            f"The checkpoint was written by class {path}, which cannot be imported ({error}). "
            "Run where that module can be found (its folder on PYTHONPATH), install it, or call "
            "`load_from_checkpoint` of that class."
        ) from error
    if not (isinstance(found, type) and issubclass(found, expected)):
        raise CheckpointError(f"Expected a checkpoint of a {expected.__name__}, but it was written by {path}")
    return found


def _data_extras(module: Kept) -> dict[str, Any]:
    """What the data module says of itself, or what an earlier checkpoint said of it."""
    trainer = getattr(module, "_trainer", None)
    datamodule = getattr(trainer, "datamodule", None)
    if datamodule is not None and hasattr(datamodule, "describe"):
        described: dict[str, Any] = _plain(datamodule.describe())
        return described
    restored: dict[str, Any] = (module.restored or {}).get("data", {})
    return restored


def _calibration(module: Kept) -> dict[str, Any]:
    """The temperature of a calibrated model; weights that are being trained have none."""
    trainer = getattr(module, "_trainer", None)
    found = (module.restored or {}).get(CALIBRATION)
    trained = trainer is not None and trainer.state.fn == "fit"
    return {} if trained or not found else {CALIBRATION: _plain(found)}


def _plain(value: Any) -> Any:
    """`value` with every container, path and type made one that a weights-only load accepts."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)
