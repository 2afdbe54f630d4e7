"""The configuration and the small files of a saved model's folder, read with care: it may be a stranger's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mner.data.tokenizer import read_kept
from mner.errors import CheckpointError
from mner.training.stored_facts import CALIBRATION, check_calibration, check_data

CONFIG = "config.json"
FORMAT = 1
"""Version of the folder's layout, the value of `mner_model` in its configuration."""
PLAIN = "plain_tokenizer"
"""Where an exported model says whether its tokeniser is `tokenizer.json` alone, which needs no torch."""


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a saved model.

    Raises:
        CheckpointError: If it is none of ours.
    """
    try:
        config = json.loads(read_file(folder, CONFIG))
        good = config["mner_model"] == FORMAT and isinstance(config["hyper_parameters"], dict)
        good = good and all(isinstance(config[key], str) for key in ("class", "version"))
        good = good and isinstance(config["text_config"], dict) and isinstance(config["tokenizer_files"], list)
        good = good and isinstance(config.get("scores") or {}, dict)
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good:
        raise CheckpointError(
            f"Expected a model that mner saved in {folder} (its {CONFIG} with mner_model {FORMAT}), but it is another. "
            "A checkpoint of `mner fit` is loaded with from_checkpoint"
        )
    check_data(config.get("data"), folder)
    check_calibration(config.get(CALIBRATION), folder)
    return dict(config)


def read_file(folder: Path, name: object) -> str:
    """A file of the folder itself, as `read_kept` gives it.

    Raises:
        CheckpointError: If it has no plain name, or cannot be read.
    """
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise CheckpointError(f"Expected plain names of files in {folder}, but got {name!r}")
    try:
        return read_kept(folder / name)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"Expected a file {name} in {folder}, but it cannot be read ({error})") from error
