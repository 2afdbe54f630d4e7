"""Logs of the service: a JSON object a line."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

log = logging.getLogger("mner.serving")


class JSONLines(logging.Formatter):
    """A log record as one line of JSON: time, level, logger, message, and what `extra={"fields": {…}}` has."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


class Gathering(logging.StreamHandler[TextIO]):
    """Writes what it was given when it is told to `flush`, and at a warning or above at once.

    A write for each request costs a sixth of what HTTP does, and lets threads that tag in between.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line, or write all."""
        try:
            self._lines.append(self.format(record) + self.terminator)
        except Exception:  # as StreamHandler does it
            self.handleError(record)
        if record.levelno >= logging.WARNING:
            self.flush()

    def flush(self) -> None:
        """Write what there is."""
        unread = contextlib.suppress(OSError, ValueError)  # which stops nothing
        with self.lock or contextlib.nullcontext(), unread:
            lines, self._lines = self._lines, []
            if lines:
                self.stream.write("".join(lines))
            super().flush()


def set_up(level: int = logging.INFO) -> Gathering:
    """All loggers of the process, and Python's warnings, as JSON lines on the standard error, to be flushed often."""
    handler = Gathering(sys.stderr)
    handler.setFormatter(JSONLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    log.setLevel(level)
    logging.captureWarnings(True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):  # their handlers would write each line again
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = name != "uvicorn.access"  # which ours stands for
    return handler
