"""Models to share: a folder, or a repository of the Hugging Face Hub, that holds everything to tag with."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

import mner
from mner.data.tokenizer import PostTokenizer, write_kept
from mner.encoders.own_model import CLASS
from mner.encoders.text import ADAPTERS
from mner.errors import CheckpointError
from mner.files import output_folder, refuse_inputs
from mner.fusion.base import FusionModule
from mner.tagger.folder import CONFIG, FORMAT, read_config, read_file
from mner.tagger.packing import StoredType, packed, unpacked
from mner.training.checkpoint import KEY, TRAINING_STATE, build_module, plain_names, read_checkpoint, write_extras
from mner.training.stored_facts import CALIBRATION

WEIGHTS, CARD = "model.safetensors", "README.md"
Scores = Mapping[str, float]


class Shared(NamedTuple):
    """A model from a folder, and what its card says of it."""

    model: FusionModule
    scores: dict[str, float]
    licence: str | None


def save_model(
    model: FusionModule,
    folder: str | os.PathLike[str],
    scores: Scores | None = None,
    licence: str | None = None,
    tokenizer: PostTokenizer | None = None,
    dtype: StoredType = "float32",
) -> Path:
    """Write a model as a folder: `config.json`, `model.safetensors`, its tokeniser's files and a card, `README.md`.

    Paths of this machine are left out: of a text encoder in a folder only the folder's name is told.

    Args:
        model: The model, from a checkpoint or a training.
        folder: The folder; made if it is not there. Files in it that mner did not write are not replaced.
        scores: Scores to show, such as `{"test/f1": 0.74}`.
        licence: Identifier of the licence you give it, such as `mit`; it is your choice, and mner makes none.
        tokenizer: Its tokeniser, for a model whose checkpoint has none since it was saved without a data module.
        dtype: What weights are stored as; float16 is half of float32's size, int8 about a quarter. They are float32
            again once loaded, rounded.

    Raises:
        CheckpointError: If there is no tokeniser, without which the model is of no use.
        DataFormatError: If a file of somebody else has the name of one of the model's.
    """
    from safetensors.torch import save_file

    from mner.tagger.model_card import model_card

    with output_folder(folder) as place:
        config = save_parts(model, place, scores, licence, tokenizer)
        state = packed({name: value.detach().cpu() for name, value in merged_state(model).items()}, dtype)
        # Each tensor on its own: safetensors refuses those that share memory.
        apart = {name: value.contiguous().clone() for name, value in state.items()}
        save_file(apart, place / WEIGHTS, metadata={"format": "pt"})
        (place / CARD).write_text(model_card(config), encoding="utf-8")
    return Path(folder)


def merged_state(model: FusionModule) -> dict[str, torch.Tensor]:
    """The weights, with LoRA adapters added to those of the text encoder; the model stays as it is."""
    state = dict(model.state_dict())
    if model.text_encoder.adapters is None:
        return state
    encoder = deepcopy(model.text_encoder)
    encoder.merge()
    others = {name: value for name, value in state.items() if not name.startswith("text_encoder.")}
    return others | {f"text_encoder.{name}": value for name, value in plain_names(encoder.state_dict()).items()}


def save_parts(
    model: FusionModule,
    place: Path,
    scores: Scores | None,
    licence: str | None,
    tokenizer: PostTokenizer | None,
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write everything but the weights and the card: `config.json` (with `more` in it) and the tokeniser's files."""
    checkpoint: dict[str, Any] = {}
    write_extras(model, checkpoint)
    facts = checkpoint[KEY]
    facts["text_config"].pop(ADAPTERS, None)  # they are merged
    data = dict(facts.get("data") or {})
    files: dict[str, str] = data.pop("tokenizer", None) or {}
    if not files and tokenizer is not None:
        files = tokenizer.files()
        data |= {"max_length": tokenizer.max_length, "replace_urls": tokenizer.replace_urls}
    if not files:
        raise CheckpointError(
            "The model has no tokeniser, since it was trained without a data module; give `tokenizer`"
        )
    taken = sorted({CONFIG, WEIGHTS, CARD} & set(files))
    if taken or any(Path(name).name != name for name in files):
        raise CheckpointError(f"Expected plain names of tokeniser files, other than {CONFIG}, but got {sorted(files)}")
    config = {
        "mner_model": FORMAT,
        **(more or {}),
        **facts,
        "data": data,
        "text_config": _public(facts["text_config"]),
        "hyper_parameters": _public(checkpoint["hyper_parameters"]),
        "tokenizer_files": sorted(files),
        "scores": {name: round(float(value), 6) for name, value in (scores or {}).items()},
        "licence": licence,
    }
    for name, content in files.items():
        write_kept(place / name, content)
    (place / CONFIG).write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return config


def load_model(name: str | os.PathLike[str], revision: str | None = None, token: str | None = None) -> Shared:
    """A model from a folder that `save_model` wrote, or from the Hub.

    Nothing from there is run. Its class has to be one of mner's, or yours, imported before.

    Args:
        name: The folder, or the repository's name (`owner/model`).
        revision: Branch, tag or commit of the repository.
        token: For repositories that are not public.

    Raises:
        CheckpointError: If there is no such model, or it cannot be used.
    """
    folder = Path(name) if Path(name).is_dir() else _download(str(name), revision, token)
    config = read_config(folder)
    _check_class(str(config["class"]))
    _check_own_encoder(config["text_config"])
    data = dict(config.get("data") or {})
    data["tokenizer"] = {file: read_file(folder, file) for file in config["tokenizer_files"]}
    kept = ("class", "version", "seed", "text_config", CALIBRATION)
    facts = {key: config.get(key) for key in kept} | {"data": data}
    checkpoint = {KEY: facts, "hyper_parameters": config["hyper_parameters"], "state_dict": _weights(folder)}
    model = build_module(checkpoint, FusionModule, folder)
    return Shared(model, dict(config.get("scores") or {}), config.get("licence"))


def push_model(
    model: FusionModule,
    repository: str,
    scores: Scores | None = None,
    licence: str | None = None,
    tokenizer: PostTokenizer | None = None,
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Upload a model to the Hub; the repository is made if it is not there.

    Args:
        model: The model.
        repository: Its name, `owner/model`.
        scores: As for `save_model`.
        licence: As for `save_model`.
        tokenizer: As for `save_model`.
        private: Whether a new repository is to be private; None for the owner's usual setting.
        token: Access token; None for the one that you logged in with.

    Returns:
        The address of the commit.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    made = api.create_repo(repository, private=private, exist_ok=True)
    with TemporaryDirectory() as folder:
        save_model(model, folder, scores, licence, tokenizer)
        message = f"Model by mner {mner.__version__}"
        options: dict[str, Any] = {"commit_message": message, "ignore_patterns": [".mner*"]}
        commit = api.upload_folder(repo_id=made.repo_id, folder_path=folder, **options)
    return str(commit.commit_url)


def scores_of(path: str | os.PathLike[str]) -> dict[str, float]:
    """Scores of a file that `mner predict` wrote: `test/precision`, `test/recall`, `test/f1`, `test/PER/f1`, ...

    Raises:
        CheckpointError: If posts have no gold tags.
    """
    from collections import Counter

    from mner.data.formats.predictions import read_predictions
    from mner.labels import spans

    found = read_predictions(path)
    gold: Counter[str] = Counter()
    pred: Counter[str] = Counter()
    both: Counter[str] = Counter()
    for post in found.posts:
        if post.gold is None:
            raise CheckpointError(f"{path} has no gold tags for post {post.id!r}, so that nothing can be scored")
        of_gold, of_pred = set(spans(post.gold)), set(spans(post.pred))
        for counts, some in ((gold, of_gold), (pred, of_pred), (both, of_gold & of_pred)):
            counts.update(span.type for span in some)
    split = found.header.get("split") or "test"
    total, named, right = gold.total(), pred.total(), both.total()
    scores = {
        f"{split}/precision": right / named if named else 0.0,
        f"{split}/recall": right / total if total else 0.0,
        f"{split}/f1": 2 * right / (total + named) if total + named else 0.0,
    }
    types = sorted(gold.keys() | pred.keys())
    return scores | {f"{split}/{type_}/f1": 2 * both[type_] / (gold[type_] + pred[type_]) for type_ in types}


def _public(value: Any) -> Any:
    """Paths of this machine without their folders, in plain data."""
    if isinstance(value, dict):
        return {name: _public(entry) for name, entry in value.items()}
    if isinstance(value, str) and (value.startswith(("/", "~", ".")) or value.count("/") > 1 or os.path.exists(value)):
        return Path(value).name
    return value


def _download(name: str, revision: str | None, token: str | None) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [CONFIG, WEIGHTS, CARD, "*.json", "*.txt", "*.model", "*.spm", "*.bpe", "*.jinja"]
    try:
        return Path(snapshot_download(name, revision=revision, token=token, allow_patterns=patterns))
    except Exception as error:  # no network, no such repository, no access, no valid name: the hub has many errors
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"No model at {name!r}: it is no folder here, and the Hub gives none ({first})"
        ) from error


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return unpacked(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"Expected the weights {WEIGHTS} in {folder}, but they cannot be read ({error})"
        ) from error


def _check_class(path: str) -> None:
    """Importing a module runs it, and the name comes from a stranger: only mner's own, or what is imported already."""
    queue: list[type] = [FusionModule]
    while queue:
        cls = queue.pop()
        if f"{cls.__module__}.{cls.__qualname__}" == path:
            return
        queue += cls.__subclasses__()
    if not path.startswith("mner.fusion."):
        raise CheckpointError(
            f"The model is a {path}, which is not part of mner {mner.__version__}; if it is yours, import its module "
            "before loading the model"
        )


def merge_checkpoint(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Write a checkpoint without adapters, which computes the same and needs no `peft`. It cannot be trained on from.

    Args:
        path: A checkpoint that was trained with `LoRA`.
        out: The file to write.

    Raises:
        CheckpointError: If it is no checkpoint of `mner`, or has no adapters.
    """
    checkpoint: dict[str, Any] = read_checkpoint(os.fspath(path))
    if not checkpoint[KEY]["text_config"].pop(ADAPTERS, None):
        raise CheckpointError(f"Expected a checkpoint with LoRA adapters at {os.fspath(path)}, but it has none")
    model = FusionModule.load_from_checkpoint(path)
    kept = {name: value for name, value in checkpoint.items() if name not in _OF_TRAINING}
    target = Path(out)
    refuse_inputs(target, [path])
    with output_folder(target.parent) as place:
        torch.save({**kept, "state_dict": merged_state(model)}, place / target.name)
    return target


_OF_TRAINING = (*TRAINING_STATE, "callbacks", "loops")
"""What a merged checkpoint leaves out: it belongs to the adapters' training."""


def _check_own_encoder(config: dict[str, Any]) -> None:
    path = config.get(CLASS)
    if path is not None and str(path).rpartition(".")[0] not in sys.modules:
        raise CheckpointError(
            f"The model's text encoder is a {path}, which is not part of mner or transformers; if it is yours, import "
            "its module before loading the model"
        )
