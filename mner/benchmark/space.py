"""What a search may choose: options of `mner fit` and a range for each, as plain data."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mner.benchmark.plan import BenchmarkError, read_config
from mner.errors import MissingDependencyError

if TYPE_CHECKING:
    from optuna import Trial

FORMS = "log(1e-5, 1e-3), uniform(0, 0.3), int(2, 8), or a list of values"
CONTROLLED = re.compile(
    r"seed_everything|ckpt_path|checkpoint(\..*)?|trainer\.(logger|default_root_dir|devices|num_nodes|fast_dev_run)(\..*)?"
)
"""Options that a search sets itself."""
SECONDS = "processor_seconds"
"""What Optuna keeps the time of a trial by."""


def need_optuna() -> Any:
    """The package.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise MissingDependencyError(
            "Expected optuna for searches, but it is not installed; `pip install 'mner[search]'`"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@dataclass(frozen=True)
class Range:
    """The values that one option may have.

    Attributes:
        kind: `log` and `uniform` (numbers), `int` (whole numbers), or `choice`.
        low: The least; not for a choice.
        high: The largest, included.
        values: Those of a choice, plain data.
    """

    kind: str
    low: float = 0.0
    high: float = 0.0
    values: tuple[Any, ...] = ()

    def suggest(self, trial: Trial, name: str) -> Any:
        """What a trial takes; numbers are rounded to three digits, so that they can be read and written again."""
        if self.kind == "choice":  # Optuna's choices cannot be lists or mappings
            return json.loads(trial.suggest_categorical(name, [json.dumps(value) for value in self.values]))
        if self.kind == "int":
            return trial.suggest_int(name, int(self.low), int(self.high))
        found = trial.suggest_float(name, self.low, self.high, log=self.kind == "log")
        return min(max(float(f"{found:.3g}"), self.low), self.high)

    def stored(self, value: Any) -> Any:
        """A value as Optuna keeps it, or None where it is not within the range."""
        if self.kind == "choice":
            return next((json.dumps(one) for one in self.values if one == value and type(one) is type(value)), None)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return None
        if self.kind == "int":
            return int(value) if value == int(value) else None
        return float(value)

    def examples(self) -> list[Any]:
        """Values that show whether the option takes such: both ends, or all of a choice."""
        if self.kind == "choice":
            return list(self.values)
        return [int(end) if self.kind == "int" else end for end in (self.low, self.high)]


def read_space(given: str) -> dict[str, Range]:
    """Read a space: a YAML file, or its text, with a line `option: range` for each option of `mner fit`.

    >>> read_space("{model.learning_rate: 'log(1e-5, 1e-3)', data.batch_size: [16, 32]}")["data.batch_size"].values
    (16, 32)

    Raises:
        BenchmarkError: If it is no such mapping, or an option is one that a search sets itself.
        DataNotFoundError: If it names a file that is not there.
    """
    if not given:
        raise BenchmarkError(f"Expected --space, a YAML file or text that gives options of `mner fit` a range: {FORMS}")
    inline = ":" in given and not Path(given).is_file()
    if inline:
        try:
            content = yaml.safe_load(given)
        except yaml.YAMLError as error:
            raise BenchmarkError(f"--space is no YAML: {' '.join(str(error).split())}") from None
        where = "--space"
        if not isinstance(content, dict):
            raise BenchmarkError(f"Expected `option: range` in --space, but got {given!r}")
    else:
        content, where = read_config(Path(given)), given
    return {str(name): _range(where, str(name), value) for name, value in content.items()}


def _range(where: str, name: str, given: Any) -> Range:
    if not re.fullmatch(r"\w+(\.\w+)*", name):
        raise BenchmarkError(f"{where}: found the option {name!r}; expected a name such as model.learning_rate")
    if CONTROLLED.fullmatch(name):
        raise BenchmarkError(f"{where}: {name} is set by the search itself; leave it out")
    fault = f"{where}: {name}: found {given!r}; expected {FORMS}"
    if isinstance(given, list):
        texts = [json.dumps(value, default=str) for value in given]
        if not given or len(set(texts)) < len(texts):
            raise BenchmarkError(f"{fault} that differ")
        return Range("choice", values=tuple(given))
    found = re.fullmatch(r"(log|uniform|int)\(([^,]+),([^,]+)\)", given.strip()) if isinstance(given, str) else None
    if found is None:
        raise BenchmarkError(fault)
    try:
        low, high = float(found[2]), float(found[3])
    except ValueError:
        raise BenchmarkError(fault) from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise BenchmarkError(f"{fault}, the lower end first")
    if found[1] == "log" and low <= 0:
        raise BenchmarkError(f"{fault}, of which the first is above 0 where it is `log`")
    if found[1] == "int" and not (low.is_integer() and high.is_integer()):
        raise BenchmarkError(f"{fault}, with whole numbers for `int`")
    return Range(found[1], low, high)


def with_options(config: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """A config of `mner fit` with some options replaced.

    `model.learning_rate` is that of `model.init_args`; in a list, such as `trainer.callbacks`, an
    option is one of the last class there.

    >>> config = {"model": {"class_path": "TextOnly"}, "trainer": {"callbacks": [{"class_path": "RDrop"}]}}
    >>> made = with_options(config, {"model.dropout": 0.2, "trainer.callbacks.weight": 2.0})
    >>> made["model"]["init_args"], made["trainer"]["callbacks"][0]["init_args"]
    ({'dropout': 0.2}, {'weight': 2.0})

    Raises:
        BenchmarkError: If an option lies in what is no mapping.
    """
    made: dict[str, Any] = copy.deepcopy(dict(config))
    for part in ("model", "data"):
        if isinstance(made.get(part), str):
            if made[part].endswith((".yaml", ".yml", ".json")):
                raise BenchmarkError(f"Expected {part} in the config itself, but it is the file {made[part]}")
            made[part] = {"class_path": made[part]}
    for name, value in options.items():
        *path, last = name.split(".")
        place: Any = made
        for part in path:
            place = _inner(_step(place, part, name), name)
        if isinstance(place, dict) and "class_path" in place and last not in ("class_path", "init_args"):
            place = place.setdefault("init_args", {})
        place[last] = copy.deepcopy(value)
    return made


def option_of(config: Mapping[str, Any], name: str) -> Any:
    """What a config says of an option; None where it says nothing."""
    place: Any = config
    for part in name.split("."):
        if isinstance(place, list) and place:
            place = place[-1]
        if isinstance(place, dict) and "class_path" in place and part not in ("class_path", "init_args"):
            place = place.get("init_args")
        place = place.get(part) if isinstance(place, dict) else None
    return place


def _step(place: Any, part: str, name: str) -> Any:
    """What lies below `part`; made where a mapping has nothing there."""
    if isinstance(place, dict):
        if "class_path" in place and part not in ("class_path", "init_args", "dict_kwargs"):
            place = place.setdefault("init_args", {})
        if place.get(part) is None:
            place[part] = {}
        return place[part]
    raise BenchmarkError(f"{name}: the config has no options there ({part} lies in {place!r})")


def _inner(place: Any, name: str) -> Any:
    """The last of a list, or the place itself."""
    if isinstance(place, list):
        if not place or not isinstance(place[-1], dict):
            raise BenchmarkError(f"{name}: the config's list there is {place!r}; name the class with class_path in it")
        return place[-1]
    if not isinstance(place, dict):
        raise BenchmarkError(f"{name}: the config has {place!r} there, which has no options")
    return place
