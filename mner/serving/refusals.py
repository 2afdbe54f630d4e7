"""Why the service refuses a request: a status, a code for programs, a line for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

CODES = {
    "bad_json": 400,
    "bad_request": 400,
    "unauthorized": 401,
    "no_token": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "body_timeout": 408,
    "too_large": 413,
    "unsupported_media_type": 415,
    "missing_field": 422,
    "unknown_field": 422,
    "wrong_type": 422,
    "bad_value": 422,
    "not_an_image": 422,
    "addresses_not_allowed": 422,
    "address_failed": 422,
    "fault": 500,
    "reload_failed": 500,
    "overloaded": 503,
    "stopping": 503,
    "timeout": 504,
}
"""Each code and the HTTP status that it comes with."""


class Refusal(Exception):
    """A request that gets no entities.

    Args:
        code: One of `CODES`.
        message: What was found, what was expected, what to do.
        where: The field, such as `posts[2].text`.
        headers: Of the answer.
    """

    def __init__(self, code: str, message: str, where: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = CODES[code]
        self.message = message
        self.where = where
        self.headers = dict(headers or {})

    def record(self) -> dict[str, Any]:
        """As the answer's JSON."""
        error = {"status": self.status, "code": self.code, "message": self.message}
        return {"error": error | ({"where": self.where} if self.where else {})}


def near(name: str, known: Iterable[str]) -> str:
    """A question after what was perhaps meant; "" where nothing is near.

    >>> near("txt", ["text", "image"])
    "; did you mean 'text'?"
    """
    found = get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
