"""Which runs there are: each config with each seed and each share of the training posts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mner.data.formats.lines import Source
from mner.errors import DataFormatError, DataNotFoundError, MNERError


class BenchmarkError(MNERError, ValueError):
    """A benchmark that cannot be run as asked; the message says what to change."""


@dataclass(frozen=True)
class Job:
    """One training run and its evaluation.

    Attributes:
        dataset: Name of the data set, after its data module.
        system: Name of the config file without suffix.
        config: The config file.
        seed: Of weights, order, dropout and the draw of training posts.
        fraction: Share of the training posts.
        overrides: Options that replace what the config says, as `key=value`.
        digest: Hash of everything that decides the result but the code and the machine.
    """

    dataset: str
    system: str
    config: Path
    seed: int
    fraction: float
    overrides: tuple[str, ...]
    digest: str

    @property
    def name(self) -> str:
        """What the run is called, also as a folder."""
        return f"{self.dataset}/{self.system}/{self.fraction:g}/seed{self.seed}"


def plan(
    configs: Sequence[Path],
    seeds: Sequence[int],
    fractions: Sequence[float] = (1.0,),
    overrides: Sequence[str] = (),
    split: str = "valid",
) -> list[Job]:
    """All runs, in the order in which they are done: every config once before any gets a second seed.

    Raises:
        DataNotFoundError: If a config is not there.
        BenchmarkError: If there is nothing to do, something is given twice, or a config names no data module.
    """
    for name, given in (("configs", configs), ("seeds", seeds), ("fractions", fractions)):
        if not given or len(set(given)) < len(given):
            raise BenchmarkError(f"Expected {name} that are given and differ, but got {[str(each) for each in given]}")
    for option in overrides:
        if "=" not in option or option.startswith("-"):
            raise BenchmarkError(f"Expected overrides such as trainer.max_epochs=4, but got {option!r}")
    read = [(path, read_config(path)) for path in configs]
    named = [(_dataset_name(path, content), path.stem, path, content) for path, content in read]
    names = [(dataset, system) for dataset, system, _, _ in named]
    if len(set(names)) < len(names):
        twice = sorted({"/".join(name) for name in names if names.count(name) > 1})
        raise BenchmarkError(
            f"Expected configs of one data set to have different file names, but {twice} are there twice"
        )
    jobs = []
    for fraction in fractions:
        for seed in seeds:
            for dataset, system, path, content in named:
                key = json.dumps([content, list(overrides), seed, fraction, split], sort_keys=True, default=str)
                digest = hashlib.sha256(key.encode()).hexdigest()[:16]
                jobs.append(Job(dataset, system, path, seed, float(fraction), tuple(overrides), digest))
    return jobs


def read_config(path: Path) -> dict[str, Any]:
    """The content of a YAML file that holds options.

    Raises:
        DataNotFoundError: If it is not there.
        DataFormatError: If it is no YAML.
        BenchmarkError: If it holds no options.
    """
    import yaml

    if not path.is_file():
        raise DataNotFoundError(f"No config file {path}; examples/configs has some")
    try:
        content = yaml.safe_load(Source(path).text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = None if mark is None else mark.line + 1
        raise DataFormatError(path, line, error.problem or "something else", "YAML") from None
    except yaml.YAMLError as error:  # a character that YAML does not know
        raise DataFormatError(path, None, " ".join(str(error).split()), "YAML") from None
    if not isinstance(content, dict):
        raise BenchmarkError(f"Expected a config of `mner fit` in {path}, but it holds no options")
    return content


def _dataset_name(path: Path, content: dict[str, Any]) -> str:
    data = content.get("data")
    kind = data.get("class_path") if isinstance(data, dict) else data
    if not isinstance(kind, str):
        raise BenchmarkError(f"Expected data.class_path in {path}, the data module that the config is for")
    return kind.rpartition(".")[2].removesuffix("DataModule") or kind
