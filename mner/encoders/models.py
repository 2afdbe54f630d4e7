"""Models of transformers that read text, by Hub name, folder or stored configuration."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from mner.encoders.own_model import CLASS, is_import_path, own_model
from mner.encoders.visual_bert import MODEL_TYPE, load_visual_bert
from mner.encoders.word_level import MODEL_TYPE as WORD_LEVEL
from mner.encoders.word_level import load_word_level
from mner.errors import CheckpointError
from mner.files import TINY, locate


def build_model(name: str | dict[str, Any]) -> Any:
    """A whole model: with its weights, or from a stored configuration without."""
    if isinstance(name, dict):
        return _from_config(name)
    return own_model(name) if is_import_path(name) else _from_name(name)


def _from_config(config: dict[str, Any]) -> nn.Module:
    options = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
    if CLASS in options:
        return own_model(options.pop(CLASS), options)
    for key, usual in PreTrainedConfig().to_dict().items():  # transformers reads these in the first pass only
        if isinstance(usual, (bool, int)) and not isinstance(options.get(key, usual), (bool, int)):
            raise TypeError(
                f"expected `{key}` of the encoder to be a number or true or false, but got {options[key]!r}"
            )
    model: nn.Module = AutoModel.from_config(
        AutoConfig.for_model(**options), dtype=torch.float32, trust_remote_code=False
    )
    return model


def _from_name(name: str) -> nn.Module:
    folder = locate(name)
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:  # not there, no network, or an unknown kind of model
        raise CheckpointError(
            f"Expected a transformers model at {name!r} (a folder, a name on the Hugging Face Hub, or 'tiny'), but "
            f"transformers could not load its config: {str(error).splitlines()[0]}"
        ) from error
    if config.model_type == MODEL_TYPE:
        visual: nn.Module = load_visual_bert(name)
        return visual
    if config.model_type == WORD_LEVEL:
        words: nn.Module = load_word_level(folder)
        return words
    if name == TINY:
        model: nn.Module = AutoModel.from_config(config, dtype=torch.float32)
        return model
    try:
        # float32: the default would be the checkpoint's own type, and half-precision weights do not train well.
        model, loaded = AutoModel.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    except ValueError as error:
        raise CheckpointError(
            f"Expected a text encoder at {name!r}, but transformers builds no plain model of the kind "
            f"{config.model_type!r}: {str(error).splitlines()[0]}"
        ) from error
    spare = () if encoder_of(model) is model else ("decoder.",)
    missing = sorted(key for key in loaded["missing_keys"] if "pooler" not in key and not key.startswith(spare))
    mismatched = sorted(str(entry[0]) for entry in loaded.get("mismatched_keys", ()))
    if missing or mismatched:
        raise CheckpointError(
            f"The weights in {folder!r} leave {len(missing)} tensors of {type(model).__name__} random and "
            f"{len(mismatched)} of another shape, for example {(missing + mismatched)[:3]}; expected all of them. "
            "Check that the weights belong to this architecture (model_type in config.json)."
        )
    return model


def encoder_of(model: Any) -> Any:
    """The encoder of an encoder-decoder, any other model as it is."""
    return model.get_encoder() if isinstance(getattr(model, "decoder", None), nn.Module) else model


def check_reads_text(model: Any, kind: str) -> None:
    """Refuse a model that takes no text, or not text alone."""
    accepted = list(inspect.signature(model.forward).parameters)
    if "input_ids" not in accepted or not hasattr(getattr(model, "config", None), "hidden_size"):
        raise CheckpointError(
            f"Expected a text encoder, but {type(model).__name__} of the kind {kind!r} does not read text, or not text "
            f"alone, or has no configuration of its own (it takes {', '.join(accepted[:3])}); choose a text encoder, "
            "such as a BERT, a RoBERTa or a T5"
        )
