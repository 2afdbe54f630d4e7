"""From the bytes of a request to posts: JSON, or a form with uploaded images. What is wrong is said with its place."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from email.message import Message
from io import BytesIO
from typing import Any

from PIL import Image
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from mner.data.formats.images import load_image
from mner.data.formats.lines import json_type
from mner.serving.limits import Limits
from mner.serving.refusals import Refusal, near
from mner.tagger.post import Post

FIELDS = ("id", "text", "tokens", "image", "context", "object_names", "relation")
FORM = ("id", "text", "context", "post", "image")
_SMALL = 100_000
"""Bytes of JSON that are parsed at once; more is for another thread, so that other requests go on."""
_DRAINED = 4
"""A body of up to so many times the limit is read to its end, so that the client hears the answer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for.

    Attributes:
        posts: The posts.
        ids: The id of each, as given; None where it has none.
        many: Whether it was a list.
    """

    posts: list[Post]
    ids: list[str | int | None]
    many: bool


@dataclass(frozen=True, slots=True)
class Parser:
    """Makes posts of requests.

    Attributes:
        limits: How much is taken.
        sources: Names of the context sources of the model.
        size: Shorter side of a picture that the model needs; None for all of it.
        threads: Where pictures are decoded.
        fetch: Gets the image at an address; None where addresses are not allowed.
    """

    limits: Limits
    sources: Sequence[str]
    size: int | None
    threads: Executor
    fetch: Callable[[str], Awaitable[bytes]] | None = None

    async def __call__(self, headers: Headers, body: bytes) -> Asked:
        """The posts of a request.

        Raises:
            Refusal: If it is none that can be taken; the message says why.
        """
        if content_type(headers) == "multipart/form-data":
            return Asked(*await self._form(headers, body), many=False)
        parse = parsed(body) if len(body) <= _SMALL else await asyncio.to_thread(parsed, body)
        if not isinstance(parse, dict):
            raise Refusal("wrong_type", f'Found {json_type(parse)}; expected a post or {{"posts": […]}}')
        if "posts" not in parse:
            post, id_ = await self._post(parse, "", ("posts",))
            return Asked([post], [id_], many=False)
        _only(parse, ("posts",), "")
        records = parse["posts"]
        if not isinstance(records, list):
            raise Refusal("wrong_type", f"Found {json_type(records)}; expected a list of posts", "posts")
        if not 0 < len(records) <= self.limits.max_posts:
            code = "too_large" if records else "bad_value"
            raise Refusal(code, f"Found {len(records)} posts; expected 1 to {self.limits.max_posts}", "posts")
        found = [await self._post(record, f"posts[{place}]") for place, record in enumerate(records)]
        return Asked([post for post, _ in found], [id_ for _, id_ in found], many=True)

    async def _form(self, headers: Headers, body: bytes) -> tuple[list[Post], list[str | int | None]]:
        kind = Message()
        kind["Content-Type"] = headers.get("content-type", "")
        boundary = (kind.get_boundary() or "").encode(errors="replace")
        if not boundary or not body.rstrip().endswith(b"--" + boundary + b"--"):
            found = "that was cut off" if boundary else "without a boundary in its content type"
            raise Refusal("bad_request", f"Found a form {found}; expected all of it")

        async def stream() -> AsyncGenerator[bytes, None]:
            yield body

        most: dict[str, Any] = {"max_files": self.limits.max_images, "max_fields": 16, "max_part_size": len(body) + 1}
        try:
            form = await MultiPartParser(headers, stream(), **most).parse()
        except (MultiPartException, KeyError, ValueError) as error:
            message = getattr(error, "message", "") or "it cannot be parsed"
            raise Refusal("bad_request", f"Found a form that is none ({message})") from None
        try:
            _only(dict(form), FORM, "")
            uploads = form.getlist("image")
            images = [await upload.read() for upload in uploads if isinstance(upload, UploadFile)]
            if len(images) < len(uploads):
                raise Refusal("wrong_type", "Found text; expected an uploaded file (image=@photo.jpg)", "image")
            values = {name: form.getlist(name) for name in FORM if name != "image" and name in form}
        finally:
            await form.close()
        for name, some in values.items():
            if any(isinstance(value, UploadFile) for value in some):
                raise Refusal("wrong_type", "Found a file; expected text", name)
            if len(some) > 1 and name != "context":
                raise Refusal("bad_value", f"Found {len(some)} fields; expected one", name)
        given: dict[str, Any] = {
            name: some if len(some) > 1 else some[0] for name, some in values.items() if name != "post"
        }
        if "post" in values:
            if given:
                raise Refusal("bad_request", f"Found `post` and {sorted(given)}; expected one or the other", "post")
            given = parsed(str(values["post"][0]).encode(errors="replace"), "post")
            if not isinstance(given, dict):
                raise Refusal("wrong_type", f"Found {json_type(given)}; expected an object", "post")
            if images and given.get("image") is not None:
                raise Refusal("bad_request", "Found images in `post` and uploaded ones; expected one or the other")
        post, id_ = await self._post(given, "", images=images)
        return [post], [id_]

    async def _post(
        self, record: Any, where: str, beside: Sequence[str] = (), images: Sequence[bytes] = ()
    ) -> tuple[Post, str | int | None]:
        if not isinstance(record, dict):
            raise Refusal("wrong_type", f"Found {json_type(record)}; expected an object, such as a text", where)
        _only(record, (*FIELDS, *beside), where)
        place = f"{where}." if where else ""
        record = {key: value for key, value in record.items() if value is not None}
        if ("text" in record) == ("tokens" in record):
            found = "`text` and `tokens`" if "text" in record else "neither `text` nor `tokens`"
            raise Refusal("missing_field", f"Found {found}; expected one of the two", where)
        id_ = record.get("id")
        if id_ is not None and (isinstance(id_, bool) or not isinstance(id_, (str, int))):
            raise Refusal("wrong_type", f"Found {json_type(id_)}; expected a string or a number", f"{place}id")
        if isinstance(id_, str):
            self._text(id_, f"{place}id")
        relation = record.get("relation")
        if relation is not None:
            if isinstance(relation, bool) or not isinstance(relation, (int, float)):
                raise Refusal("wrong_type", f"Found {json_type(relation)}; expected a number", f"{place}relation")
            if not 0 <= relation <= 1:
                raise Refusal("bad_value", f"Found {relation}; expected a number from 0 to 1", f"{place}relation")
        names = record.get("object_names")
        post = Post(
            text=self._text(record["text"], f"{place}text") if "text" in record else None,
            words=self._texts(record["tokens"], f"{place}tokens", True) if "tokens" in record else None,
            image=await self._images(record.get("image"), images, f"{place}image"),
            context=self._context(record.get("context"), f"{place}context"),
            object_names=None if names is None else self._texts(names, f"{place}object_names"),
            relation=relation,
        )
        return post, id_

    def _text(self, value: Any, where: str) -> str:
        if not isinstance(value, str):
            raise Refusal("wrong_type", f"Found {json_type(value)}; expected a string", where)
        if len(value) > self.limits.max_characters:
            message = f"Found {len(value)} characters; expected at most {self.limits.max_characters}"
            raise Refusal("too_large", message, where)
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise Refusal("bad_value", "Found half of a surrogate pair; expected Unicode text", where)
        return value

    def _texts(self, values: Any, where: str, content: bool = False) -> list[str]:
        if not isinstance(values, list):
            raise Refusal("wrong_type", f"Found {json_type(values)}; expected a list of strings", where)
        if len(values) + sum(len(value) for value in values if isinstance(value, str)) > self.limits.max_characters:
            raise Refusal("too_large", f"Found more than {self.limits.max_characters} characters", where)
        for number, value in enumerate(values):
            if not self._text(value, f"{where}[{number}]") and content:
                raise Refusal("bad_value", "Found an empty word; expected words with content", f"{where}[{number}]")
        return values

    def _context(self, value: Any, where: str) -> str | list[str] | dict[str, str] | None:
        if value is None:
            return None
        if isinstance(value, str):
            return self._text(value, where)
        if isinstance(value, dict):
            _only(value, self.sources, where, "context source")
            return {name: self._text(text, f"{where}.{name}") for name, text in value.items()}
        if not isinstance(value, list):
            expected = "a string, a list of strings or an object of strings"
            raise Refusal("wrong_type", f"Found {json_type(value)}; expected {expected}", where)
        if self.sources and len(value) > len(self.sources):
            expected = f"at most one for each of the model's sources {list(self.sources)}"
            raise Refusal("bad_value", f"Found {len(value)} texts; expected {expected}", where)
        return [self._text(text, f"{where}[{number}]") for number, text in enumerate(value)]

    async def _images(self, value: Any, uploaded: Sequence[bytes], where: str) -> list[Image.Image] | None:
        given: list[Any] = list(uploaded) or ([] if value is None else value if isinstance(value, list) else [value])
        if len(given) > self.limits.max_images:
            raise Refusal("too_large", f"Found {len(given)} images; expected at most {self.limits.max_images}", where)
        found = []
        for number, one in enumerate(given):
            place = f"{where}[{number}]" if len(given) > 1 else where
            data = one if isinstance(one, bytes) else await self._data(one, place)
            decoded = asyncio.get_running_loop().run_in_executor(
                self.threads, load_image, BytesIO(data), self.size, self.limits.max_pixels
            )
            picture, problem = await decoded
            if picture is None:
                if problem == "too large":
                    message = f"Found an image of more than {self.limits.max_pixels} pixels; send a smaller one"
                    raise Refusal("too_large", message, place)
                raise Refusal("not_an_image", f"Found what is no image that can be used ({problem})", place)
            found.append(picture)
        return found or None

    async def _data(self, value: Any, where: str) -> bytes:
        if not isinstance(value, str):
            raise Refusal("wrong_type", f"Found {json_type(value)}; expected an image in base64", where)
        if value.startswith(("http://", "https://")):
            if self.fetch is None:
                message = "Found an address; expected an image in base64, since this service fetches nothing"
                raise Refusal("addresses_not_allowed", message, where)
            try:
                return await self.fetch(value)
            except (ValueError, OSError) as error:
                raise Refusal("address_failed", f"The image could not be fetched: {error}", where) from None
        if value.startswith("data:"):
            value = value.partition(",")[2]
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise Refusal("not_an_image", "Found what is no base64; expected an image in base64", where) from None


def _only(record: Mapping[str, Any], known: Iterable[str], where: str, what: str = "field") -> None:
    known = list(known)
    for name in record:
        if name not in known:
            shown = name[:50].encode(errors="replace").decode()
            listed = ", ".join(known) or "none"
            message = f"Found the {what} {shown!r}{near(shown, known)}; there are: {listed}"
            raise Refusal("unknown_field", message, where)


def parsed(body: bytes, where: str = "body") -> Any:
    """JSON, strictly: UTF-8, no key twice, no `NaN`.

    Raises:
        Refusal: If it is none.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key that comes twice")
        return found

    def constant(name: str) -> Any:
        raise ValueError(f"{name}, which is no JSON")

    try:
        return json.loads(body.decode("utf-8-sig"), object_pairs_hook=unique, parse_constant=constant)
    except UnicodeDecodeError as error:
        message = f"Found the byte 0x{body[error.start]:02x}; expected JSON in UTF-8"
    except json.JSONDecodeError as error:
        message = f"Found no JSON: {error.msg} at line {error.lineno}, column {error.colno}"
    except RecursionError:
        message = "Found JSON that is nested too deep"
    except ValueError as error:  # a key twice, a constant, a number of too many digits
        ours = str(error).startswith(("a key", "NaN", "Infinity", "-Infinity"))
        message = f"Found {error}" if ours else "Found a number of too many digits"
    raise Refusal("bad_json", message, where)


def content_type(headers: Headers) -> str:
    """What a body is said to be.

    Raises:
        Refusal: If that is nothing that could be posts.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("application/json", "multipart/form-data"):
        return kind
    found = f"the content type {kind[:50]!r}" if kind else "no content type"
    raise Refusal("unsupported_media_type", f"Found {found}; expected application/json or multipart/form-data")


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body of a request.

    Raises:
        Refusal: If it is too large, or does not come in time.
        starlette.requests.ClientDisconnect: If the client went away.
    """
    parts: list[bytes] = []
    total, most = 0, limits.max_bytes
    length = request.headers.get("content-length", "")
    huge = length.isdecimal() and int(length[:20]) > _DRAINED * most
    try:
        async with asyncio.timeout(limits.timeout):
            async for chunk in request.stream():
                total += len(chunk)
                if total <= most:
                    parts.append(chunk)
                else:
                    parts.clear()
                if huge or total > _DRAINED * most:
                    break
    except TimeoutError:
        message = f"The request did not come within {limits.timeout:g} seconds"
        raise Refusal("body_timeout", message, headers={"Connection": "close"}) from None
    if huge or total > most:
        message = f"Found more than {most} bytes; send fewer posts or smaller images"
        raise Refusal("too_large", message, headers={"Connection": "close"})
    return b"".join(parts)
