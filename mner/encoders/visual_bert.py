"""VisualBERT (Li et al. 2019) through transformers: loading that checks every weight, and the authors' own files.

Text only it is a text encoder like any other (`TextEncoder("<folder>")`, Exp 1.2 and 4.2 of Chen et al. 2021); with
regions it is read by `mner.fusion.TransformerAttention` (Exp 3.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from mner.encoders.weights import read_weights
from mner.errors import CheckpointError
from mner.files import locate, output_folder

if TYPE_CHECKING:
    from transformers import VisualBertModel

MODEL_TYPE = "visual_bert"

# The names under which VisualBERT weights go round, as patterns, and what transformers' VisualBertModel calls them.
# Without these, transformers leaves every weight of a `bert.`-prefixed file random and goes on.
KEY_MAPPING = {
    r"^(visual_bert\.|bert\.bert\.|bert\.)(?=embeddings\.|encoder\.|pooler\.)": "",
    r"^embeddings\.token_type_embeddings_visual\.": "embeddings.visual_token_type_embeddings.",
    r"^embeddings\.position_embeddings_visual\.": "embeddings.visual_position_embeddings.",
    r"^embeddings\.projection\.": "embeddings.visual_projection.",
}
# Heads of pre-training and of other tasks, a detector that some files carry along, and positions, which are no weights.
_SPARE = re.compile(r"^(bert\.)?(cls|classifier|attention|detector)\.|(^|\.)position_ids$")
_VISUAL = ("visual_projection", "visual_token_type_embeddings", "visual_position_embeddings")
_SHOWN = 10


def load_visual_bert(name: str) -> VisualBertModel:
    """The VisualBertModel of a Hub name or folder, with every weight from there.

    Reads transformers' own names, those of its task models (`visual_bert.…`), and those of the authors (`bert.…`,
    `bert.bert.…`). Heads are left behind; a pooler that the weights lack is left out.

    Args:
        name: Hub name (`"uclanlp/visualbert-nlvr2-coco-pre"`) or folder with `config.json` and weights.

    Raises:
        CheckpointError: If the folder is of another model, or if a weight is missing, left over, or of another shape.
    """
    from transformers import AutoConfig, VisualBertModel

    source = locate(name)
    config = AutoConfig.from_pretrained(source)
    if config.model_type != MODEL_TYPE:
        raise CheckpointError(
            f"Expected a VisualBERT at {source!r} (model_type {MODEL_TYPE!r} in config.json), but it is a "
            f"{config.model_type!r}. TransformerAttention takes that as it is and embeds the regions itself."
        )
    model, loaded = VisualBertModel.from_pretrained(
        source,
        config=config,
        key_mapping=KEY_MAPPING,
        ignore_mismatched_sizes=True,  # reported below with everything else that does not fit
        output_loading_info=True,
        dtype=torch.float32,
    )
    missing = set(loaded["missing_keys"])
    pooler = {key for key in missing if key.startswith("pooler.")}
    if pooler:
        model.pooler = None
    shapes = [f"{key} {tuple(found)} for {tuple(wanted)}" for key, found, wanted in loaded["mismatched_keys"]]
    _check(source, missing - pooler, loaded["unexpected_keys"], shapes)
    return model


def convert_visual_bert(source: str, folder: str, tokenizer: str, heads: int | None = None) -> None:
    """Write a folder that text encoder and tokeniser load from, out of weights that lack one or the other.

    The authors' files (`nlvr2_coco_pre_trained.th`) hold weights only; their uploads to the Hub have no tokeniser, and
    transformers then makes one for which every word is unknown.

    Args:
        source: A file of weights, a Hub name, or a folder.
        folder: Where the complete folder is written.
        tokenizer: Hub name or folder of the tokeniser; `bert-base-uncased` for the published VisualBERTs.
        heads: Attention heads of a file of weights, which alone its shapes do not tell; None: 64 features each.

    Raises:
        CheckpointError: If a weight is missing or left over, or if the tokeniser has another number of pieces.

    For example::

        convert_visual_bert("nlvr2_coco_pre_trained.th", "visualbert-nlvr2", tokenizer="bert-base-uncased")
    """
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    is_file = Path(source).expanduser().is_file()
    model = _from_file(source, heads) if is_file else load_visual_bert(source)
    pieces = AutoTokenizer.from_pretrained(locate(tokenizer))
    if len(pieces) != model.config.vocab_size:
        raise CheckpointError(
            f"The tokeniser {tokenizer!r} has {len(pieces)} pieces, but the weights in {source!r} have "
            f"{model.config.vocab_size}; expected the tokeniser that they were trained with (bert-base-uncased?)"
        )
    with output_folder(Path(folder).expanduser()) as target:
        model.config.save_pretrained(target)
        pieces.save_pretrained(target)
        state = {key: value.contiguous() for key, value in model.state_dict().items()}
        save_file(state, target / "model.safetensors", metadata={"format": "pt"})


def visual_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that only regions reach: without regions they get no gradient, which stops distributed training.

    Empty for any model but VisualBERT.
    """
    if getattr(getattr(model, "config", None), "model_type", None) != MODEL_TYPE:
        return []
    return [
        parameter
        for name, parameter in model.named_parameters()
        if any(part in name for part in _VISUAL) or name.startswith("additional_layer.")
    ]


def _from_file(path: str, heads: int | None) -> VisualBertModel:
    from transformers import VisualBertConfig, VisualBertModel

    state = {_renamed(key): value for key, value in read_weights(path).items() if not _SPARE.search(key)}
    try:
        hidden = state["embeddings.word_embeddings.weight"].shape[1]
        config = VisualBertConfig(
            vocab_size=state["embeddings.word_embeddings.weight"].shape[0],
            hidden_size=hidden,
            num_hidden_layers=len({key.split(".")[2] for key in state if key.startswith("encoder.layer.")}),
            num_attention_heads=heads or max(1, hidden // 64),
            intermediate_size=state["encoder.layer.0.intermediate.dense.weight"].shape[0],
            max_position_embeddings=state["embeddings.position_embeddings.weight"].shape[0],
            type_vocab_size=state["embeddings.token_type_embeddings.weight"].shape[0],
            visual_embedding_dim=state["embeddings.visual_projection.weight"].shape[1],
            pad_token_id=0,  # BERT's [PAD]; the class's default is RoBERTa's
        )
    except KeyError as error:
        raise CheckpointError(
            f"Expected the weights of a VisualBERT in {path!r}, but {error} is not among its names "
            f"(there are {len(state)}, for example {sorted(state)[:3]})"
        ) from error
    model = VisualBertModel(config)
    wanted = model.state_dict()
    shapes = [
        f"{key} {tuple(value.shape)} for {tuple(wanted[key].shape)}"
        for key, value in state.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    _check(path, wanted.keys() - state.keys(), state.keys() - wanted.keys(), shapes)
    model.load_state_dict(state)
    return model


def _renamed(key: str) -> str:
    for pattern, name in KEY_MAPPING.items():
        key = re.sub(pattern, name, key)
    return key


def _check(source: str, missing: Iterable[str], unexpected: Iterable[str], shapes: list[str]) -> None:
    found = {
        "missing": sorted(missing),
        "left over": [key for key in sorted(unexpected) if not _SPARE.search(key)],
        "of another shape": sorted(shapes),
    }
    if any(found.values()):
        listed = "; ".join(f"{len(keys)} {what}: {_few(keys)}" for what, keys in found.items() if keys)
        raise CheckpointError(
            f"The weights in {source!r} are not those of this VisualBERT ({listed}). Expected the names of "
            "transformers' VisualBertModel, with or without a `visual_bert.`, `bert.` or `bert.bert.` in front, and "
            "the sizes of config.json."
        )


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else "")
