"""The OpenAPI 3.1 document, made from the routes and their types; nothing in it is written by hand twice."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from controller.api.problem import MEDIA_TYPE, Problem
from controller.api.route import PREFIX, Route

VERSION = "1"
_REF = "#/components/schemas/{name}"
_PLACE = re.compile(r"\{(\w+)\}")

Schema = dict[str, Any]


def describe(routes: Sequence[Route]) -> Schema:
    """The document as plain data."""
    kinds = [kind for route in routes for kind in (route.answer, route.body) if kind is not None]
    _, components = msgspec.json.schema_components([*kinds, Problem], ref_template=_REF)
    paths: dict[str, Schema] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ferrule controller",
            "version": VERSION,
            "description": "Everything that `ferrule` does. Times are RFC 3339 in UTC; durations and times in"
            " requests are text as people write them. Refusals are problem documents with a stable code.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": PREFIX}],
        "security": [{"login": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"login": {"type": "http", "scheme": "bearer"}},
        },
    }


def document(routes: Sequence[Route]) -> bytes:
    """The document as JSON, the same bytes for the same routes."""
    return msgspec.json.format(msgspec.json.encode(describe(routes)), indent=1) + b"\n"


def _schema(kind: Any) -> Schema:
    (found,), _ = msgspec.json.schema_components([kind], ref_template=_REF)
    return dict(found)


def _operation(route: Route) -> Schema:
    operation: Schema = {"operationId": route.name, "summary": route.summary}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PLACE.findall(route.path)
    ]
    parameters += _query(route)
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        content = {"application/json": {"schema": _schema(route.body)}}
        operation["requestBody"] = {"required": True, "content": content}
    if route.open:
        operation["security"] = []
    operation["responses"] = {**_success(route), "default": _PROBLEM}
    return operation


_PROBLEM: Schema = {
    "description": "Refused or failed; `code` is stable, `detail` is one sentence for people",
    "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(name="Problem")}}},
}


def _success(route: Route) -> Schema:
    if route.answer is None:
        return {"204": {"description": "Done"}}
    if route.lines:
        text = "JSON lines; empty ones only show that the connection lives"
        media = "application/x-ndjson"
    else:
        text, media = "Done", "application/json"
    return {"200": {"description": text, "content": {media: {"schema": _schema(route.answer)}}}}


def _query(route: Route) -> list[Schema]:
    _, components = msgspec.json.schema_components([route.query], ref_template=_REF)
    schema = components[route.query.__name__]
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": kind}
        for name, kind in schema["properties"].items()
    ]
