"""All that reads, and how many broken inputs each gets."""

from __future__ import annotations

import logging
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import checkpoints
import formats
import outputs
import readers
import stores
import texts
from outcomes import Target

TARGETS: dict[str, Target] = {
    **readers.TARGETS,
    **formats.TARGETS,
    **stores.TARGETS,
    **texts.TARGETS,
    **checkpoints.TARGETS,
    **outputs.TARGETS,
}
SHARES = {
    **dict.fromkeys(readers.TARGETS, 40),
    **dict.fromkeys(formats.TARGETS, 6),
    **dict.fromkeys(stores.TARGETS, 8),
    **{"split_words": 250, "as_written": 50, "windows": 150, "encode_windows": 30, "Tagger": 20},
    **{"read_checkpoint, bytes": 20, "read_checkpoint, pickle": 20, "Tagger.from_checkpoint, pickle": 1},
    **{"Tagger.from_checkpoint, values": 1, "Tagger.from_pretrained": 1},
    **dict.fromkeys(outputs.TARGETS, 8),
}
"""How many inputs each target has, in proportion; building a model takes as long as reading fifty files."""


class Result(NamedTuple):
    """What became of the inputs of one target."""

    outcomes: Counter[str]
    seconds: float
    slowest: float
    wrong: list[str]


def fuzz(name: str, inputs: int, seed: int = 0, part: int = 0) -> Result:
    """Break `inputs` inputs of one target; each part has others."""
    silenced = logging.root.manager.disable
    logging.disable(logging.WARNING)  # what readers say of a file that they take
    try:
        return _fuzz(name, inputs, seed, part)
    finally:
        logging.disable(silenced)


def _fuzz(name: str, inputs: int, seed: int, part: int) -> Result:
    pick = random.Random(f"{seed} {name} {part}")
    found = Result(Counter(), 0.0, 0.0, [])
    with tempfile.TemporaryDirectory() as folder:
        once = TARGETS[name](pick, Path(folder))
        seconds = slowest = 0.0
        for _ in range(inputs):
            begin = time.perf_counter()
            result, details = once()
            took = time.perf_counter() - begin
            seconds, slowest = seconds + took, max(slowest, took)
            found.outcomes[result] += 1
            if details or result not in ("read", "refused"):
                found.wrong.append(f"{name}: {result}: {details}")
    return found._replace(seconds=seconds, slowest=slowest)
