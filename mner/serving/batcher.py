"""Batches across requests: threads tag what requests have brought meanwhile, and each request gets its own."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from mner.serving.refusals import Refusal
from mner.tagger.post import Post, Tagged
from mner.tagger.sharing import Job, chosen, tag_jobs
from mner.tagger.tagger import AHEAD, Tagger
from mner.tagger.twin import twin

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

    On a processor two batches on a core each are done sooner than one after the other on both: what is not a product
    of matrices runs on one core. A batch that is alone has all threads of torch; several share them.

    Args:
        model: The model; may be set to another at any time, which then tags the next batch.
        batch_size: Most posts in a batch.
        max_wait: Seconds to wait for more posts.
        max_waiting: Posts that may wait.
        on_batch: Called with the posts and seconds of each batch, by one thread at a time.
        workers: Batches that are tagged at once, each by a twin of the tagger.
    """

    def __init__(
        self,
        model: Model,
        batch_size: int = 32,
        max_wait: float = 0.002,
        max_waiting: int = 1024,
        on_batch: Callable[[int, float], object] = lambda posts, seconds: None,
        workers: int = 1,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("workers", workers)):
            if value < 1:
                raise ValueError(f"Expected `{name}` to be at least 1, but got {value}")
        self.workers = workers
        self.model = model
        self.batch_size = batch_size
        self.max_wait = max_wait
        self.max_waiting = max_waiting
        self.on_batch = on_batch
        self._changed = threading.Condition()
        self._waiting: list[Request] = []
        self._posts = 0  # of those that wait
        self._busy = 0  # threads that tag
        self._cores = 1
        self._stopping = False
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def model(self) -> Model:
        """The model that tags the next batch."""
        return self._served[0]

    @model.setter
    def model(self, model: Model) -> None:
        twins = [twin(model.tagger) for _ in range(1, self.workers)]
        self._served: tuple[Model, list[Tagger]] = model, [model.tagger, *twins]

    @property
    def waiting(self) -> int:
        """Posts that wait."""
        return self._posts

    @property
    def alive(self) -> bool:
        """Whether posts will be tagged."""
        return bool(self._threads) and all(one.is_alive() for one in self._threads) and not self._stopping

    def start(self) -> None:
        """Begin, within a running event loop."""
        self._loop = asyncio.get_running_loop()
        if self.workers > 1:
            self._cores = torch.get_num_threads()
        for number in range(self.workers):
            thread = threading.Thread(target=self._run, args=(number,), name=f"mner batches {number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    async def stop(self) -> None:
        """Tag what waits, and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

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

    # What follows runs in the threads

    def _run(self, number: int) -> None:
        while requests := self._next():
            model, taggers = self._served
            tagger, begin = taggers[number], time.perf_counter()
            tag_jobs(requests, lambda posts, size, tagger=tagger: list(tagger.stream(posts, size, AHEAD)))  # type: ignore[misc]
            seconds = time.perf_counter() - begin
            with self._changed:
                self._busy -= 1
                self.on_batch(sum(len(request.posts) for request in requests), seconds)
            for request in requests:
                request.model = model
            assert self._loop is not None
            self._loop.call_soon_threadsafe(_deliver, requests)

    def _next(self) -> list[Request]:
        """What is tagged next; empty at the end."""
        with self._changed:
            while True:
                while not self._waiting:
                    if self._stopping:
                        return []
                    self._changed.wait()
                until = self._waiting[0].added + self.max_wait
                while self._waiting and self._posts < self.batch_size and not self._stopping:
                    left = until - time.monotonic()
                    if left <= 0 or not self._changed.wait(left):
                        break
                if self._waiting:  # else all were dropped, or another thread took them
                    break
            taken = [request for request in chosen(self._waiting, self.batch_size) if isinstance(request, Request)]
            gone = set(map(id, taken))
            self._waiting = [request for request in self._waiting if id(request) not in gone]
            self._posts -= sum(len(request.posts) for request in taken)
            self._busy += 1
            if self._waiting:
                self._changed.notify()  # this thread may have been woken by them
            if self.workers > 1:
                alone = self._busy == 1 and not self._waiting
                torch.set_num_threads(self._cores if alone else max(1, self._cores // self.workers))  # of this thread
            return taken


def _deliver(requests: list[Request]) -> None:
    for request in requests:
        if not request.future.done():  # else nobody waits any more
            request.future.set_result(None)
