"""Calls from many threads share batches: whoever has the model's turn tags what the others have brought meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mner.tagger.post import Post, Tagged


class Turns:
    """A lock for `with`: threads take turns. What holds it can be copied and pickled; a copy has a lock of its own."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[Turns], tuple[()]]:
        return Turns, ()


Tag = Callable[[list[Post], int], list[Tagged]]
"""Tags posts in batches of a size."""


@dataclass(eq=False, slots=True)
class Job:
    """Posts of one caller, and what came of them.

    Attributes:
        posts: The posts.
        size: Posts in a batch. Only jobs of one size share.
        tagged: What was found in each; None as long as it is not known.
        error: Why nothing could be found.
    """

    posts: list[Post]
    size: int
    tagged: list[Tagged] | None = None
    error: Exception | None = None
    ready: threading.Event = field(default_factory=threading.Event)

    @property
    def done(self) -> bool:
        """Whether there is a result or an error."""
        return self.tagged is not None or self.error is not None

    @property
    def length(self) -> int:
        """Characters of its longest post, about."""
        return max(len(post.text) if post.text is not None else 6 * len(post.words or ()) for post in self.posts)

    def result(self) -> list[Tagged]:
        """What was found.

        Raises:
            Exception: What tagging these posts raised.
        """
        if self.error is not None:
            raise self.error
        assert self.tagged is not None
        return self.tagged


def chosen(waiting: Sequence[Job], most: int) -> list[Job]:
    """The jobs that are tagged next: the oldest, and of those of its batch size the ones most alike in length.

    No more posts, nor pictures, than `most`, but for the oldest alone, which may have more.

    >>> jobs = [Job([Post("a" * length)], 2) for length in (9, 80, 10)]
    >>> [job.length for job in chosen(jobs, 2)]
    [9, 10]
    """
    first = waiting[0]
    others = [job for job in waiting[1:] if job.size == first.size]
    if sum(len(job.posts) for job in waiting) > most:
        others.sort(key=lambda job: abs(job.length - first.length))
    taken, posts, pictures = [first], len(first.posts), _pictures(first)
    for job in others:
        if posts + len(job.posts) <= most and pictures + _pictures(job) <= most:
            taken.append(job)
            posts, pictures = posts + len(job.posts), pictures + _pictures(job)
    return taken


def _pictures(job: Job) -> int:
    return sum(len(post.images) for post in job.posts)


def tag_jobs(jobs: Sequence[Job], tag: Tag) -> None:
    """Tag the posts of several jobs together. What goes wrong with one job touches no other.

    Jobs that fail together are tried again in halves, so that a few bad ones among many cost few further batches; and
    so that what does not fit into the memory together has another try.
    """
    try:
        tagged = tag([post for job in jobs for post in job.posts], jobs[0].size)
    except Exception as error:  # whatever it is, it belongs to one of the jobs
        if len(jobs) == 1:
            jobs[0].error = error
        else:
            tag_jobs(jobs[: len(jobs) // 2], tag)
            tag_jobs(jobs[len(jobs) // 2 :], tag)
        return
    start = 0
    for job in jobs:
        job.tagged = tagged[start : start + len(job.posts)]
        start += len(job.posts)


class Sharing:
    """What threads that call one tagger share. It can be copied and pickled; a copy is shared with nobody."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Job] = []
        self._leader: int | None = None  # the thread that tags for all
        self._heir: Job | None = None  # whose thread has been woken to lead next

    def __call__(self, posts: list[Post], size: int, tag: Tag) -> list[Tagged]:
        """The entities of posts, tagged together with those of other threads where there are some.

        Args:
            posts: The posts.
            size: Posts in a batch.
            tag: Tags them; called by one thread at a time.
        """
        job = Job(posts, size)
        if self._leader == threading.get_ident():  # a splitter or a captioner that calls the same tagger
            return tag(posts, size)
        try:
            with self._lock:
                self._waiting.append(job)
                leads = self._leader is None and self._heir is None
                if leads:
                    self._leader = threading.get_ident()
            if not leads:
                job.ready.wait()
            if not job.done:
                self._lead(job, tag)
        except BaseException:  # Ctrl-C while it waited
            self._leave(job)
            raise
        return job.result()

    def _lead(self, job: Job, tag: Tag) -> None:
        """Tag what waits until the own job is done, then let the next thread lead."""
        taken: list[Job] = []
        try:
            while not job.done:
                with self._lock:
                    self._leader, self._heir = threading.get_ident(), None
                    taken = chosen(self._waiting, self._waiting[0].size)
                    self._waiting = _without(self._waiting, taken)
                tag_jobs(taken, tag)
                for other in taken:
                    other.ready.set()
        finally:
            with self._lock:  # after Ctrl-C, the jobs of other threads are not lost
                left = [other for other in taken if not other.done]
                self._waiting = _without(left + self._waiting, [job])
                for other in taken:
                    if other.done:
                        other.ready.set()
                self._hand_on()

    def _leave(self, job: Job) -> None:
        with self._lock:
            self._waiting = _without(self._waiting, [job])
            if self._heir is job or self._leader == threading.get_ident():
                self._hand_on()

    def _hand_on(self) -> None:
        """Wake the thread of the oldest job; with the lock held."""
        self._leader, self._heir = None, self._waiting[0] if self._waiting else None
        if self._heir is not None:
            self._heir.ready.set()

    def __reduce__(self) -> tuple[type[Sharing], tuple[()]]:
        return Sharing, ()


def _without(jobs: list[Job], gone: list[Job]) -> list[Job]:
    known = set(map(id, gone))
    return [job for job in jobs if id(job) not in known]
