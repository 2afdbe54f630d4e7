"""The service: routes, tokens, what is logged and counted, loading the model again, and the end."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive

from mner.errors import MNERError
from mner.serving.addresses import fetch
from mner.serving.batcher import Batcher, Model
from mner.serving.front import Front, answer, fault, refuse
from mner.serving.limits import Limits
from mner.serving.logs import log
from mner.serving.metrics import Metrics
from mner.serving.openapi import description, page
from mner.serving.parsing import Parser, content_type, read_body
from mner.serving.refusals import Refusal
from mner.tagger.post import Tagged
from mner.tagger.twin import workers_for

OPEN = ("/health", "/ready", "/", "/docs", "/openapi.json")
"""Paths that need no token."""


class Service:
    """A model as an ASGI application; `Service(…).app` runs in any ASGI server, of which one process holds it.

    Args:
        load: Loads the model; called again to reload it.
        limits: How much is taken.
        batch_size: Most posts in a batch, of all requests together.
        max_wait: Seconds that a batch waits for more posts.
        token: What requests have to bring as `Authorization: Bearer …`; None for no such thing.
        allow_urls: Fetch images at public addresses.
        log_texts: Write the texts of posts into the log.
        workers: Batches that are tagged at once; None for as many as torch has threads, four at most, where that helps:
            on a CPU, for models that need no captioner and no encoder of features.

    Attributes:
        app: The application.
        stopping: Set to refuse what is new; what was taken is finished.
    """

    def __init__(
        self,
        load: Callable[[], Model],
        limits: Limits | None = None,
        batch_size: int = 32,
        max_wait: float = 0.002,
        token: str | None = None,
        allow_urls: bool = False,
        log_texts: bool = False,
        workers: int | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.load = load
        self.token = token
        self.allow_urls = allow_urls
        self.log_texts = log_texts
        self.stopping = False
        self._open = 0
        self._loading: asyncio.Lock | None = None
        self._images = ThreadPoolExecutor(4, "mner images")
        self._fetches = ThreadPoolExecutor(8, "mner addresses")
        model = load()
        if workers is None:
            workers = workers_for(model.tagger)
        self.batcher = Batcher(model, batch_size, max_wait, self.limits.max_waiting, self._count_batch, workers)
        self.metrics = Metrics(lambda: self.batcher.waiting)
        self._tell_model()
        routes = [
            Route("/tag", self._tag, methods=["POST"]),
            Route("/health", self._health),
            Route("/ready", self._ready),
            Route("/metrics", self._metrics),
            Route("/reload", self._reload, methods=["POST"]),
            Route("/openapi.json", self._openapi),
            Route("/docs", self._docs),
            Route("/", self._docs),
        ]
        handlers: dict[Any, Any] = dict.fromkeys((HTTPException, Refusal, ClientDisconnect), refuse)
        handlers[Exception] = fault
        inner = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)
        self.app: ASGIApp = Front(inner, [route.path for route in routes], self.allowed, self.metrics)

    @property
    def model(self) -> Model:
        """The model that tags the next batch."""
        return self.batcher.model

    async def reload(self) -> Model:
        """Load the model again. Until it is there the old one answers, and where it cannot be loaded, ever after.

        Raises:
            Refusal: If it cannot be loaded.
        """
        self._loading = self._loading or asyncio.Lock()
        async with self._loading:
            begin = time.monotonic()
            try:
                model = await asyncio.to_thread(self.load)
                self.batcher.model = model
            except Exception as error:  # whatever it is, the old model goes on
                self.metrics.reloads.labels("failed").inc()
                said = str(error) if isinstance(error, (MNERError, OSError)) else type(error).__name__
                log.exception("the model could not be loaded; the old one goes on")
                message = f"The model could not be loaded; the old one goes on: {said}"
                raise Refusal("reload_failed", message) from None
            self.metrics.reloads.labels("done").inc()
            self._tell_model()
            seconds = round(time.monotonic() - begin, 3)
            log.info("the model was loaded again", extra={"fields": {"model": model.facts, "seconds": seconds}})
            return model

    # Routes

    async def _tag(self, request: Request) -> Response:
        begin = time.monotonic()
        if self.stopping:
            raise Refusal("stopping", "The service is about to stop", headers={"Connection": "close"})
        content_type(request.headers)
        body = await read_body(request, self.limits)
        state = request.scope["state"]
        state["bytes"] = len(body)
        late = Refusal("timeout", f"Not answered within {self.limits.timeout:g} seconds; send less, or allow more time")
        try:
            async with asyncio.timeout(self.limits.timeout - (time.monotonic() - begin)):
                before = self.model
                asked = await self._parser()(request.headers, body)
                state["posts"] = len(asked.posts)
                if self.log_texts:
                    state["texts"] = [post.text if post.text is not None else post.words for post in asked.posts]
                tagged, model = await _unless_gone(request.receive, self.batcher(asked.posts))
        except TimeoutError:
            raise late from None
        except ValueError as error:
            if self.model is before:
                raise
            raise Refusal("bad_value", str(error)) from None  # the new model has other sources of context
        self.metrics.posts.inc(len(tagged))
        for found in tagged:
            for entity in found:
                self.metrics.entities.labels(entity.type).inc()
        records = [record(found, id_) for found, id_ in zip(tagged, asked.ids, strict=True)]
        return answer({**({"posts": records} if asked.many else records[0]), "model": model.facts})

    def _parser(self) -> Parser:
        prepare = self.model.tagger.prepare
        get = self._fetch if self.allow_urls else None
        return Parser(self.limits, prepare.sources, prepare.sight.size, self._images, get)

    async def _fetch(self, address: str) -> bytes:
        loop = asyncio.get_running_loop()
        timeout = self.limits.timeout / 2
        return await loop.run_in_executor(self._fetches, fetch, address, self.limits.max_bytes, timeout)

    async def _health(self, request: Request) -> Response:
        if not self.batcher.alive and not self.stopping:
            raise Refusal("fault", "The thread that tags has ended")
        return answer({"status": "ok", "model": self.model.facts})

    async def _ready(self, request: Request) -> Response:
        if self.stopping:
            raise Refusal("stopping", "The service is about to stop")
        if self.batcher.waiting >= self.limits.max_waiting:
            raise Refusal("overloaded", f"{self.batcher.waiting} posts wait for the model")
        return await self._health(request)

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _reload(self, request: Request) -> Response:
        if self.token is None:
            message = "Expected a service with a token; start it with one, or send the process SIGHUP"
            raise Refusal("no_token", message)
        return answer({"status": "loaded", "model": (await self.reload()).facts})

    async def _openapi(self, request: Request) -> Response:
        return answer(self._description())

    async def _docs(self, request: Request) -> Response:
        return HTMLResponse(page(self._description(), self.model.facts))

    def _description(self) -> dict[str, Any]:
        sources = self.model.tagger.prepare.sources
        return description(self.limits, sources, self.token is not None, self.allow_urls)

    # The process

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncGenerator[None, None]:
        self.batcher.start()
        yield
        self.stopping = True
        await self.batcher.stop()
        self._images.shutdown(wait=False, cancel_futures=True)
        self._fetches.shutdown(wait=False, cancel_futures=True)

    def allowed(self, path: str, header: str) -> bool:
        """Whether a request to a path brings the token, or needs none."""
        if self.token is None or path in OPEN:
            return True
        scheme, _, given = header.partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.token.encode())

    def _tell_model(self) -> None:
        self.metrics.model.info(self.model.facts)

    def _count_batch(self, posts: int, seconds: float) -> None:
        self.metrics.batch_posts.observe(posts)
        self.metrics.batch_seconds.observe(seconds)


def record(found: Tagged, id_: str | int | None) -> dict[str, Any]:
    """A post with its entities, as `mner tag` writes it."""
    told: dict[str, Any] = {} if id_ is None else {"id": id_}
    told |= {
        "text": found.text,
        "words": [word.text for word in found.words],
        "tags": found.tags,
        "entities": [entity.record() for entity in found],
        "has_image": found.has_image,
    }
    if found.image_problem:
        told["image_problem"] = found.image_problem
    if any(found.context):
        told["context"] = found.context
    return told


async def _unless_gone(receive: Receive, work: Awaitable[Any]) -> Any:
    """What work gives; it is given up where the client goes away."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(receive())  # after the body, all that comes is the end of the connection
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect()
        return task.result()
    finally:
        for each in (task, gone):
            if not each.done():
                each.cancel()
                with suppress(asyncio.CancelledError):
                    await each
