"""The parser of Lightning's commands: model and data first in its help, and configs of version 0 understood."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import yaml
from jsonargparse import _paths, get_loader, set_loader
from pytorch_lightning.cli import LightningArgumentParser

from mner.cli.suggestions import Suggesting
from mner.data.datamodules.base import MNERDataModule
from mner.data.datamodules.joint import JointDataModule
from mner.data.formats.lines import Source
from mner.training.old_names import renamed

_MODE = "yaml_of_any_version"
_GROUPS = {
    "model": "the model (--model.help TextOnly lists the options of a strategy)",
    "data": "the data (--data.help Twitter2017DataModule lists the options of a data module)",
    "checkpoint": "which checkpoints are kept",
    "optimizer": "another optimiser than the model's own",
    "lr_scheduler": "another schedule than the model's own",
    "trainer": "Lightning's Trainer",
}
"""Part of a config -> title of its options in the help."""
BUNDLED = {"quickstart": Path(__file__).with_name("quickstart.yaml")}
"""Configs that come with mner: what `--config` calls them."""
_LATE = ("checkpoint", "optimizer", "lr_scheduler", "trainer")


def _open(path: str, mode: str = "r") -> IO[Any]:
    if mode != "r":
        return open(path, mode, encoding=None if "b" in mode else "utf-8")
    return io.StringIO(Source(path).text)


# jsonargparse would read configs in the locale's encoding.
_paths.open = _open  # type: ignore[attr-defined]


def load(text: str) -> Any:
    """YAML of a config, or of a part, with old names replaced."""
    return get_loader("yaml")(renamed(text))


class TrainingParser(Suggesting, LightningArgumentParser):
    """Parser of `mner fit|validate|test|predict`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        set_loader(_MODE, load, exceptions=(yaml.YAMLError,))
        kwargs.setdefault("parser_mode", _MODE)
        super().__init__(*args, **kwargs)

    def add_lightning_class_args(
        self, lightning_class: Any, nested_key: str, subclass_mode: bool = False, required: bool = True
    ) -> Any:
        """Lightning's, but where it takes one data set, several will do."""
        if lightning_class is MNERDataModule:
            kinds = (MNERDataModule, JointDataModule)
            return self.add_subclass_arguments(kinds, nested_key, fail_untyped=False, required=required)
        return super().add_lightning_class_args(lightning_class, nested_key, subclass_mode, required)

    def format_help(self, formatter: Any = None) -> str:
        """The help: the command's own options, model, data, and what is seldom needed last."""
        program = self.prog.replace(" [options]", "")
        self.usage = f"{program} (--config FILE | --model CLASS --data CLASS) [options]"
        groups: list[Any] = self._action_groups  # type: ignore[assignment]  # argparse says it is a sequence
        for group in groups:
            own = str(group.title).rstrip(".") == str(self.description).rstrip(".")
            group.title = _GROUPS.get(_part(group), f"of {program} alone" if own else group.title)
        groups.sort(key=lambda group: _LATE.index(part) + 1 if (part := _part(group)) in _LATE else 0)
        return super().format_help() if formatter is None else super().format_help(formatter)


def _part(group: Any) -> str:
    """The part of the config that a group's options belong to, or an empty text."""
    places = [action.dest.partition(".")[0] for action in group._group_actions]
    linked = group.title == "Linked arguments"
    return places[0] if places and places[0] in _GROUPS and not linked else ""


def given_configs(args: Sequence[str]) -> list[str]:
    """`args` in which each config is a file or its content.

    One that can be read once only, as from `--config <(...)`, is given by its content; a name in `BUNDLED`, where the
    user has no such file, by the file that comes with mner.
    """
    given = list(args)
    for place, word in enumerate(given):
        name, equals, value = word.partition("=")
        if name not in ("-c", "--config") or (not equals and place + 1 == len(given)):
            continue
        path = Path(value if equals else given[place + 1])
        found = None
        if path.exists() and not path.is_file() and not path.is_dir():
            found = Source(path).text
        elif not path.exists() and str(path) in BUNDLED:
            found = str(BUNDLED[str(path)])
        if found is not None:
            given[place + (not equals)] = ("--config=" if equals else "") + found
    return given
