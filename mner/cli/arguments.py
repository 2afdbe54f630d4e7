"""What LightningCLI does not ask of its arguments: linked ones given by hand, and a checkpoint without a model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mner.errors import MNERError
from mner.fusion.base import FusionModule
from mner.training.checkpoint import KEY, import_class, read_checkpoint

LINKED = {
    "data.text_encoder": "model.text_encoder (a tokeniser of another name is data.tokenizer)",
    "data.image_encoder": "model.image_encoder",
    "model.labels": "the data module (`types` of SnapchatDataModule names other entity types)",
    "model.region_width": "the stored features of the data module",
}
"""Arguments that jsonargparse takes from elsewhere, dropping a given value without a word, and from where."""


def prepare(args: list[str]) -> list[str]:
    """Arguments for LightningCLI: refuses linked ones, and takes the model from the checkpoint where none is named.

    Raises:
        MNERError: If an argument is given that would be dropped.
        CheckpointError: If the model has to come from the checkpoint and that is not one of ours, or of a class that
            cannot be imported.
    """
    given = {_short(key): value for key, value in _given(args[1:], args[0])}
    for key, source in LINKED.items():
        if key in given:
            raise MNERError(f"{key} was given, but it always comes from {source}; give that, and leave {key} out")
    checkpoint = given.get("ckpt_path")
    groups = {key.split(".")[0] for key in given}
    begin = given.get("model.init_from")
    if isinstance(begin, str) and not {"model", "model.class_path"} & set(given):
        content = read_checkpoint(begin)  # its class and options, of which those that are given are others
        import_class(content[KEY]["class"], FusionModule)
        stored = {key: value for key, value in stored_arguments(content).items() if key != "init_from"}
        return [args[0], f"--model={json.dumps({'class_path': content[KEY]['class'], 'init_args': stored})}", *args[1:]]
    if "model" in groups or not isinstance(checkpoint, str):
        return args
    if checkpoint in ("best", "last", "hpc", "registry"):
        return args
    content = read_checkpoint(checkpoint)
    if "data" not in groups:
        known = content[KEY].get("data", {}).get("name") or "Twitter2017DataModule"
        option = "path" if known == "DatasetsDataModule" else "root"
        raise MNERError(
            "the checkpoint says which model it is, but not where the data are; give --config, or "
            f"--data {known} --data.{option} FOLDER (and images, features or context, as in training)"
        )
    import_class(content[KEY]["class"], FusionModule)  # says more than jsonargparse where it cannot be imported
    model = {"class_path": content[KEY]["class"], "init_args": stored_arguments(content)}
    return [args[0], f"--model={json.dumps(model)}", *args[1:]]


def stored_arguments(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor arguments that a checkpoint's model was made with, but for linked ones."""
    linked = {key.partition(".")[2] for key in LINKED if key.startswith("model.")}
    stored: dict[str, Any] = checkpoint["hyper_parameters"]
    return {key: value for key, value in stored.items() if not key.startswith("_") and key not in linked}


def _given(args: list[str], command: str) -> Iterator[tuple[str, Any]]:
    """Dotted name and value of each argument, of the command line and of the config files that it names."""
    place = 0
    while place < len(args):
        word, place = args[place], place + 1
        if not word.startswith("-"):
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if not equals and place < len(args) and not args[place].startswith("--"):
            value, place = args[place], place + 1
        if name in ("c", "config"):
            content = _read(value)
            inner = content.get(command) if isinstance(content, dict) else None
            yield from _flat("", inner if isinstance(inner, dict) else content, Path(value).parent)
        else:
            yield from _flat(name, _parsed(value), Path())


def _flat(name: str, value: Any, folder: Path) -> Iterator[tuple[str, Any]]:
    """Nested values by dotted name; a file that stands for a part of a config is read."""
    if name in ("model", "data") and isinstance(value, str) and (folder / value).suffix in (".yaml", ".yml", ".json"):
        value = _read(str(folder / value))
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), inner, folder)
    elif name:
        yield name, value


def _short(name: str) -> str:
    """`data.init_args.root` is given as `data.root` too."""
    return ".".join(part for part in name.split(".") if part not in ("init_args", "dict_kwargs"))


def _read(path: str) -> Any:
    try:
        return _parsed(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # what is wrong with it, LightningCLI says


def _parsed(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
