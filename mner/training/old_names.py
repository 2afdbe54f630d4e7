"""Names of version 0, before the modules were moved into rooms: checkpoints and configs that hold them still load."""

from __future__ import annotations

import functools
import logging
import re

log = logging.getLogger(__name__)

MOVED = {
    "mner.data.datamodule": "mner.data",
    "mner.data.huggingface": "mner.data",
    "mner.data.sample_module": "mner.data",
    "mner.data.snapchat": "mner.data",
    "mner.data.twitter": "mner.data",
    "mner.learning_rate": "mner.training.callbacks",
    "mner.lightning_cli": "mner.training.callbacks",
    "mner.lora": "mner.training.callbacks",
    "mner.running": "mner.training.trainer",
}
"""Old module -> where its classes are now; only modules whose classes a config or a checkpoint names."""

_CLASS = re.compile(
    r"(?<![\w./\\-])(" + "|".join(re.escape(module) for module in MOVED) + r")\.([A-Z]\w*)(?![\w./\\-])"
)


def renamed(text: str) -> str:
    """`text`, a class path or a whole config, with today's names; each old one is told once.

    >>> renamed("mner.data.twitter.Twitter2017DataModule")
    'mner.data.Twitter2017DataModule'
    >>> renamed("class_path: mner.fusion.TextOnly")
    'class_path: mner.fusion.TextOnly'
    """
    return _CLASS.sub(lambda found: _new(found[1], found[2]), text)


@functools.cache
def _new(module: str, name: str) -> str:
    new = f"{MOVED[module]}.{name}"
    log.warning("%s.%s is now called %s; configs with the old name still work", module, name, new)
    return new
