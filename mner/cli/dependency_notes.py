"""What a user of the command line need not read: notes of the dependencies about themselves."""

from __future__ import annotations

import logging
import re
import warnings

_NOTES = (
    r"litlogger",
    r"^TPU available",
    r"^HPU available",
    r"to estimate number of stepping batches",
    r"^Restoring states from the checkpoint path",
    r"`weights_only` was not set",
)
"""Of Lightning's log."""

_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\)",  # a deprecation inside Lightning
    r".*does not have many workers",  # text is prepared faster than it is trained on
    r".*smaller than the logging interval",
    r".*in eval mode at the start of training",  # a frozen encoder, as asked for
    r".*`tensorboardX` has been removed",  # scores go into a CSV file then
    r".*LightningCLI's args parameter is intended",  # `main` hands on the arguments of the process
    r".*Checkpoint directory .* exists and is not empty",  # of a run that goes on
)
_EVALUATION = (
    r".*The dirpath has changed",  # of a checkpoint callback that keeps nothing here
)


class _Filter(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._pattern = re.compile("|".join(_NOTES))

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show it."""
        return not self._pattern.search(record.getMessage())


def hush(evaluation: bool = False) -> None:
    """Drop those notes and warnings, and no others.

    Args:
        evaluation: Nothing is trained: also those about keeping checkpoints.
    """
    for pattern in (*_WARNINGS, *(_EVALUATION if evaluation else ())):
        warnings.filterwarnings("ignore", pattern)
    for package in ("pytorch_lightning", "lightning_fabric"):
        logger = logging.getLogger(f"{package}.utilities.rank_zero")
        if not any(isinstance(there, _Filter) for there in logger.filters):
            logger.addFilter(_Filter())
