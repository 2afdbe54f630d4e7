"""A language model at an address that speaks as OpenAI's does: asked with patience, and never for ever."""

from __future__ import annotations

import base64
import io
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from PIL import Image

from mner.errors import MissingDependencyError, MNERError


class Ask(NamedTuple):
    """What a model is asked of a post: a prompt, and the image beside it."""

    prompt: str
    image: Image.Image | None


class Answer(NamedTuple):
    """What it said; or "" and why there is nothing."""

    text: str
    problem: str = ""


class ChatAddress:
    """A model behind `URL/chat/completions`.

    What may pass is tried again (connection, time limit, 408, 409, 429, 5xx, a reply that is no JSON), with growing
    waits or as long as the server says; if it does not pass, the run stops and can go on later. A post that the server
    refuses (400, 413, 422) gets an empty text with its problem.

    Args:
        url: Address, such as `http://localhost:8000/v1`.
        model: Name of the model there.
        max_new_tokens: Longest text, in word pieces.
        key_variable: Environment variable with the key; it is kept nowhere. A server of one's own needs none.
        timeout: Seconds to wait for a reply.
        retries: Most further tries.
        requests_per_minute: Most requests; None for no limit.
        parallel: Requests at a time.

    Raises:
        MissingDependencyError: Without openai.
    """

    def __init__(
        self,
        url: str,
        model: str,
        max_new_tokens: int = 200,
        key_variable: str = "OPENAI_API_KEY",
        timeout: float = 60.0,
        retries: int = 5,
        requests_per_minute: float | None = None,
        parallel: int = 4,
    ) -> None:
        if timeout <= 0 or retries < 0 or parallel < 1 or (requests_per_minute or 1.0) <= 0:
            raise ValueError(
                "Expected a time limit and a rate over 0, `retries` of at least 0 and `parallel` of at least 1, but "
                f"got {timeout}, {requests_per_minute}, {retries}, {parallel}"
            )
        try:
            import openai
        except ImportError as error:
            raise MissingDependencyError("Asking an address needs openai: pip install mner[notes]") from error
        self._errors = openai
        key = os.environ.get(key_variable) or "none"
        self._client = openai.OpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=retries)
        self.name, self.url, self.retries, self.parallel = model, url, retries, parallel
        self.max_new_tokens = max_new_tokens
        self._apart = 0.0 if requests_per_minute is None else 60 / requests_per_minute
        self._next, self._lock = 0.0, threading.Lock()

    def __call__(self, asked: Sequence[Ask]) -> list[Answer]:
        """The answers, in order; several are asked for at a time.

        Raises:
            MNERError: If the server cannot be reached, refuses the key, or fails in every try.
        """
        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(self._answer, asked))

    def _answer(self, ask: Ask) -> Answer:
        content: Any = ask.prompt
        if ask.image is not None:
            content = [
                {"type": "text", "text": ask.prompt}, {"type": "image_url", "image_url": {"url": _inline(ask.image)}}
            ]  # fmt: skip
        openai = self._errors
        for attempt in range(self.retries + 1):
            self._wait()
            try:
                reply = self._client.chat.completions.create(
                    model=self.name,
                    messages=[{"role": "user", "content": content}],
                    max_tokens=self.max_new_tokens,
                    temperature=0,
                )
                return _read(reply)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                return Answer("", f"refused ({error.status_code})")
            except openai.APIStatusError as error:
                if error.status_code == 413:
                    return Answer("", "refused (413)")
                raise MNERError(self._failed(f"{error.status_code} {error.message}")) from error
            except openai.APIConnectionError as error:  # its own retries are over; time limits are of this class
                raise MNERError(self._failed(str(error))) from error
            except (ValueError, TypeError, AttributeError, LookupError) as error:  # no JSON, or another one
                if attempt == self.retries:
                    raise MNERError(self._failed(f"a reply that is none of a chat ({error})")) from error
                time.sleep(min(8.0, 0.1 * 2**attempt))
        raise AssertionError  # the last attempt returned or raised

    def _wait(self) -> None:
        with self._lock:
            now = time.monotonic()
            wait, self._next = max(0.0, self._next - now), max(now, self._next) + self._apart
        time.sleep(wait)

    def _failed(self, what: str) -> str:
        line = what.splitlines()[0][:300].rstrip(".") if what else "nothing"
        return f"{self.url} gave no answer after {self.retries + 1} tries: {line}; run it again to go on"


def _read(reply: Any) -> Answer:
    choice = reply.choices[0]
    text = choice.message.content
    if text is not None and not isinstance(text, str):
        raise TypeError(f"{type(text).__name__} as content")
    return Answer(text, "") if text else Answer("", f"no text ({choice.finish_reason})")


def _inline(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
