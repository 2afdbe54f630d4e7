"""Batches across requests: one thread tags what requests have brought meanwhile, and each gets its own."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mner.serving.refusals import Refusal
from mner.tagger.post import Post, Tagged
from mner.tagger.sharing import Job, chosen, tag_jobs
from mner.tagger.tagger import AHEAD, Tagger

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Model:
    """A tagger, and what replies say of it.

    Attributes:
        tagger: The tagger.
        facts: Its name, fingerprint and strategy, and the version of mner.
    """

    tagger: Tagger
    facts: dict[str, str]


@dataclass(eq=False, slots=True)
class Request(Job):
    """The posts of one request.

    Attributes:
        future: Where its event loop waits for the model that tagged it.
        added: When it came.
        model: The model that tagged it.
    """

    future: asyncio.Future[None] = field(default_factory=asyncio.Future)
    added: float = field(default_factory=time.monotonic)
    model: Model | None = None


class Batcher:
    """Tags the posts of requests in batches.

    While a batch is tagged the next one gathers, so that batches grow with the load. Only where fewer posts wait than a
    batch holds does it wait for more, and no longer than `max_wait` after the first.

    Args:
        model: The model; may be set to another at any time, which then tags the next batch.
        batch_size: Most posts in a batch.
        max_wait: Seconds to wait for more posts.
        max_waiting: Posts that may wait.
        on_batch: Called with the posts and seconds of each batch.
    """

    def __init__(
        self,
        model: Model,
        batch_size: int = 32,
        max_wait: float = 0.002,
        max_waiting: int = 1024,
        on_batch: Callable[[int, float], object] = lambda posts, seconds: None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"Expected `batch_size` to be at least 1, but got {batch_size}")
        self.model = model
        self.batch_size = batch_size
        self.max_wait = max_wait
        self.max_waiting = max_waiting
        self.on_batch = on_batch
        self._changed = threading.Condition()
        self._waiting: list[Request] = []
        self._posts = 0  # of those that wait
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def waiting(self) -> int:
        """Posts that wait."""
        return self._posts

    @property
    def alive(self) -> bool:
        """Whether posts will be tagged."""
        return self._thread is not None and self._thread.is_alive() and not self._stopping

    def start(self) -> None:
        """Begin, within a running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="mner batches", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Tag what waits, and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    async def __call__(self, posts: list[Post]) -> tuple[list[Tagged], Model]:
        """Posts tagged, and the model that did it: one for all posts of a request.

        Where the caller is cancelled while they wait, they are not tagged.

        Raises:
            Refusal: If too many posts wait.
            Exception: What tagging these posts raised.
        """
        request = Request(posts, self.batch_size)
        with self._changed:
            if self._posts + len(posts) > self.max_waiting and self._waiting:
                message = f"{self._posts} posts wait for the model, of at most {self.max_waiting}; try again later"
                raise Refusal("overloaded", message, headers={"Retry-After": "1"})
            self._waiting.append(request)
            self._posts += len(posts)
            self._changed.notify()
        try:
            await request.future
        finally:
            if not request.done:
                self._drop(request)  # nobody waits for it: the time is over, or the client has gone
        assert request.model is not None
        return request.result(), request.model

    def _drop(self, request: Request) -> None:
        with self._changed:
            if request in self._waiting:
                self._waiting.remove(request)
                self._posts -= len(request.posts)

    # What follows runs in the thread

    def _run(self) -> None:
        while requests := self._next():
            model, begin = self.model, time.perf_counter()
            tag_jobs(requests, lambda posts, size, tagger=model.tagger: list(tagger.stream(posts, size, AHEAD)))  # type: ignore[misc]
            self.on_batch(sum(len(request.posts) for request in requests), time.perf_counter() - begin)
            for request in requests:
                request.model = model
            assert self._loop is not None
            self._loop.call_soon_threadsafe(_deliver, requests)

    def _next(self) -> list[Request]:
        """What is tagged next; empty at the end."""
        with self._changed:
            while not self._waiting:
                if self._stopping:
                    return []
                self._changed.wait()
            until = self._waiting[0].added + self.max_wait
            while self._waiting and self._posts < self.batch_size and not self._stopping:
                left = until - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            if not self._waiting:  # all dropped
                return self._next()
            taken = [request for request in chosen(self._waiting, self.batch_size) if isinstance(request, Request)]
            gone = set(map(id, taken))
            self._waiting = [request for request in self._waiting if id(request) not in gone]
            self._posts -= sum(len(request.posts) for request in taken)
            return taken


def _deliver(requests: list[Request]) -> None:
    for request in requests:
        if not request.future.done():  # else nobody waits any more
            request.future.set_result(None)
