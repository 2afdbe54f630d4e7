"""What every request to the service passes: its token is looked at, faults are caught, it is logged and counted."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterable
from typing import Any
from uuid import uuid4

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mner.serving.logs import log
from mner.serving.metrics import Metrics
from mner.serving.refusals import Refusal

WATCHED = ("/health", "/ready", "/metrics")
"""Paths that are asked for all the time, by machines; they are logged only if something is wrong."""
GONE = 499
"""As nginx logs it: the client went away, and nothing was sent."""
_ID = re.compile(r"[\w.:-]{1,100}", re.ASCII)
_HTTP = {404: "not_found", 405: "method_not_allowed"}


class Front:
    """What every request passes: token, faults, log, counts.

    Args:
        inner: The routes.
        paths: Those that there are; all others are counted as one.
        allowed: Whether a request to a path, with this `Authorization`, may pass.
        metrics: What is counted.
    """

    def __init__(
        self, inner: ASGIApp, paths: Iterable[str], allowed: Callable[[str, str], bool], metrics: Metrics
    ) -> None:
        self.inner = inner
        self.paths = frozenset(paths)
        self.allowed = allowed
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        begin = time.perf_counter()
        request = Request(scope, receive)
        path = scope["path"] if scope["path"] in self.paths else "other"
        given = request.headers.get("x-request-id", "")
        id_ = given if _ID.fullmatch(given) else uuid4().hex
        state = scope["state"] = {**scope.get("state", {}), "id": id_}
        status = 0  # nothing was sent

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", id_.encode())]
            await send(message)

        try:
            if not self.allowed(scope["path"], request.headers.get("authorization", "")):
                message = "Expected the header `Authorization: Bearer TOKEN` with this service's token"
                refusal = Refusal("unauthorized", message, headers={"WWW-Authenticate": "Bearer"})
                await refused(request, refusal)(scope, receive, sending)
            else:
                await self.inner(scope, receive, sending)
        except Exception:
            log.exception("a fault of the service", extra={"fields": {"id": id_}})
            if not status:
                await fault(request)(scope, receive, sending)
        finally:
            self._tell(request, path, status or GONE, time.perf_counter() - begin, state)

    def _tell(self, request: Request, path: str, status: int, seconds: float, state: dict[str, Any]) -> None:
        self.metrics.requests.labels(path, str(status)).inc()
        self.metrics.seconds.labels(path).observe(seconds)
        if "code" in state:
            self.metrics.refusals.labels(state["code"]).inc()
        known = {key: state[key] for key in ("posts", "bytes", "code", "where", "texts") if state.get(key)}
        client = request.client.host if request.client else None
        shown = request.scope["path"][:200]
        fields = {"id": state["id"], "client": client, "method": request.method, "path": shown, "status": status}
        level = logging.DEBUG if path in WATCHED and status < 400 else logging.INFO
        log.log(level, "request", extra={"fields": fields | {"seconds": round(seconds, 4)} | known})


def answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer in JSON."""
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    return Response(body, status, headers, "application/json")


def refused(request: Request, refusal: Any) -> Response:
    """The answer to a refused request, which the log will know too."""
    request.scope["state"] |= {"code": refusal.code, "where": refusal.where}
    return answer(refusal.record(), refusal.status, refusal.headers)


def fault(request: Request, error: Any = None) -> Response:
    """The answer where something is wrong with the service itself, of which the log says more."""
    id_ = request.scope["state"]["id"]
    return refused(request, Refusal("fault", f"A fault of the service; its log says more under the id {id_}"))


async def refuse(request: Request, error: Any) -> Response | None:
    """The answer to what was raised on the way: nothing for a client that has gone, Starlette's 404 and 405 as ours."""
    if isinstance(error, ClientDisconnect):
        return None
    if isinstance(error, Refusal):
        return refused(request, error)
    headers = dict(error.headers or {})
    allowed = headers.get("Allow", headers.get("allow", ""))
    what = f"Found {request.method} {request.url.path[:100]}; expected "
    what += allowed.replace("HEAD, ", "") if allowed else "POST /tag, or GET /docs, which names the others"
    return refused(request, Refusal(_HTTP.get(error.status_code, "bad_request"), what, headers=headers))
