"""The service's description in OpenAPI 3.1, and as a page that loads nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import mner
from mner.html import PAGE, escaped
from mner.serving.limits import Limits
from mner.serving.refusals import CODES

_POST = {"text": "Anna visits Old Town"}
_TEXT: dict[str, Any] = {"type": "string"}
_NUMBER: dict[str, Any] = {"type": "integer", "minimum": 0}
_ENTITY = {
    "type": "object",
    "required": ["text", "type", "start", "end", "score", "word_start", "word_end"],
    "properties": {
        "text": _TEXT,
        "type": {**_TEXT, "description": "Such as PER"},
        "start": {**_NUMBER, "description": "Its first character in the post's text"},
        "end": {**_NUMBER, "description": "Behind its last character"},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "word_start": _NUMBER,
        "word_end": _NUMBER,
    },
}
_MODEL = {
    "type": "object",
    "description": "The model that answered",
    "required": ["name", "fingerprint", "strategy", "mner"],
    "properties": {name: _TEXT for name in ("name", "fingerprint", "strategy", "mner")},
}
_TAGGED = {
    "text": _TEXT,
    "words": {"type": "array", "items": _TEXT},
    "tags": {"type": "array", "items": _TEXT, "description": "A BIO tag for each word"},
    "entities": {"type": "array", "items": {"$ref": "#/components/schemas/Entity"}},
    "has_image": {"type": "boolean", "description": "Whether the model saw an image"},
}
_RESULT = {
    "type": "object",
    "required": list(_TAGGED),
    "properties": {
        "id": {"type": ["string", "integer"]},
        **_TAGGED,
        "image_problem": {**_TEXT, "description": "Why it did not see the image"},
        "context": {"type": "array", "items": _TEXT, "description": "The texts that it read beside the post"},
    },
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["status", "code", "message"],
            "properties": {
                "status": {"type": "integer"},
                "code": {"enum": sorted(CODES)},
                "message": _TEXT,
                "where": {**_TEXT, "description": "The field, such as posts[2].text"},
            },
        }
    },
}


def description(limits: Limits, sources: Sequence[str], token: bool, addresses: bool) -> dict[str, Any]:
    """The description of a service.

    Args:
        limits: How much it takes.
        sources: Names of the context sources of its model.
        token: Whether it wants one.
        addresses: Whether it fetches images.
    """
    tagging = {
        "post": {
            "summary": "The entities of a post, or of several",
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"anyOf": [_ref("Post"), _ref("Posts")]}, "example": _POST},
                    "multipart/form-data": {"schema": _ref("Form")},
                },
            },
            "responses": _responses({"anyOf": [_ref("TaggedPost"), _ref("TaggedPosts")]}, _of("tag", token)),
        }
    }
    model = {"type": "object", "properties": {"status": _TEXT, "model": _ref("Model")}}
    paths: dict[str, Any] = {
        "/tag": tagging,
        "/health": _get("Does the service run?", model, ["fault"]),
        "/ready": _get("Is it ready for requests?", model, ["fault", "stopping", "overloaded"]),
        "/metrics": _get("Counts in Prometheus's format", None, _of("", token)),
    }
    reload_codes = ["no_token", "reload_failed", *_of("", token)]
    paths["/reload"] = {"post": {"summary": "Load the model again", "responses": _responses(model, reload_codes)}}
    found: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "mner", "version": mner.__version__, "description": "Entities of posts"},
        "paths": paths,
        "components": {"schemas": _schemas(limits, sources, addresses)},
    }
    if token:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
        for path in ("/health", "/ready"):
            found["paths"][path]["get"]["security"] = []
    return found


def _schemas(limits: Limits, sources: Sequence[str], addresses: bool) -> dict[str, Any]:
    text = {**_TEXT, "maxLength": limits.max_characters}
    one = "An image file in base64, alone or as a data: URI" + ("; or its address" if addresses else "")
    image = {**_TEXT, "contentEncoding": "base64", "description": f"{one}; of at most {limits.max_pixels} pixels"}
    by_name = {"type": "object", "properties": dict.fromkeys(sources, text), "additionalProperties": False}
    context = {
        "anyOf": [text, {"type": "array", "items": text}, by_name],
        "description": f"Text beside the post; the model was trained with {', '.join(sources) or 'none'}",
    }
    fields: dict[str, Any] = {
        "id": {"type": ["string", "integer"], "description": "Comes back with the post"},
        "text": text,
        "tokens": {"type": "array", "items": text, "description": "Its words, in place of the text"},
        "image": {"anyOf": [image, {"type": "array", "items": image, "maxItems": limits.max_images}]},
        "context": context,
        "object_names": {"type": "array", "items": text, "description": "Objects in the image"},
        "relation": {"type": "number", "minimum": 0, "maximum": 1, "description": "How far the image adds to the text"},
    }
    post = {"type": "object", "properties": fields, "additionalProperties": False}
    post["oneOf"] = [{"required": ["text"]}, {"required": ["tokens"]}]
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "maxItems": limits.max_images}
    form = {"id": _TEXT, "text": text, "context": {"type": "array", "items": text}, "image": files}
    form["post"] = {**_TEXT, "description": "A post as JSON, in place of id, text and context"}
    posts = {"type": "array", "items": _ref("Post"), "minItems": 1, "maxItems": limits.max_posts}
    tagged: dict[str, Any] = {"type": "object", "required": ["model"], "properties": {"model": _ref("Model")}}
    many = {"posts": {"type": "array", "items": _ref("Result")}, "model": _ref("Model")}
    several = {"type": "object", "properties": {"posts": posts}, "required": ["posts"]}
    return {
        "Post": post,
        "Posts": {**several, "additionalProperties": False},
        "Form": {"type": "object", "properties": form, "additionalProperties": False},
        "Entity": _ENTITY,
        "Model": _MODEL,
        "Result": _RESULT,
        "TaggedPost": {"allOf": [_ref("Result"), tagged]},
        "TaggedPosts": {"type": "object", "properties": many, "required": list(many)},
        "Error": _ERROR,
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _of(kind: str, token: bool) -> list[str]:
    others = {"unauthorized", "no_token", "reload_failed", "not_found", "method_not_allowed"}
    return [code for code in CODES if kind and code not in others] + (["unauthorized"] if token else [])


def _responses(schema: Any, codes: Sequence[str]) -> dict[str, Any]:
    """The answers of a path: the right one, and one for each status of the refusals."""
    content = {"text/plain": {"schema": _TEXT}} if schema is None else {"application/json": {"schema": schema}}
    found: dict[str, Any] = {"200": {"description": "As asked", "content": content}}
    for status in sorted({CODES[code] for code in codes}):
        named = ", ".join(code for code in codes if CODES[code] == status)
        found[str(status)] = {"description": named, "content": {"application/json": {"schema": _ref("Error")}}}
    return found


def _get(summary: str, schema: Any, codes: Sequence[str]) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": _responses(schema, codes)}}


def page(found: Mapping[str, Any], model: Mapping[str, str]) -> str:
    """A description for people.

    Args:
        found: The description.
        model: Name, fingerprint and the rest of the model.
    """
    said = ", ".join(f"{name} {value}" for name, value in model.items())
    parts = [f"<h1>mner</h1><p>{escaped(said)}. <a href='openapi.json'>openapi.json</a></p>"]
    parts.append(_code(f"curl SERVICE/tag -H 'Content-Type: application/json' -d '{json.dumps(_POST)}'"))
    parts.append(_code("curl SERVICE/tag -F text='Anna visits Old Town' -F image=@photo.jpg"))
    if "security" in found:
        parts.append("<p>Requests have to bring the token: <code>-H 'Authorization: Bearer TOKEN'</code>.</p>")
    for path, methods in found["paths"].items():
        for method, what in methods.items():
            head = f"<code>{method.upper()} {escaped(path)}</code>"
            parts.append(f"<h2>{head}</h2><p>{escaped(what['summary'])}</p><ul>")
            for status, answer in what["responses"].items():
                parts.append(f"<li>{status}: {escaped(answer['description'])}</li>")
            parts.append("</ul>")
    for name, schema in found["components"]["schemas"].items():
        parts.append(f"<h2 id='{name}'>{name}</h2>{_code(json.dumps(schema, indent=1))}")
    return PAGE.format(title="mner", body="\n".join(parts))


def _code(text: str) -> str:
    return f"<pre style='overflow-x: auto'>{escaped(text)}</pre>"
