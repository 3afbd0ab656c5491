"""Generate the OpenAPI 3.1 document of the API from the procedures, one for REST and one for tRPC.

A procedure's error responses follow from its input, unless it declares more: a body can have a wrong type or be too
large, an id can be unknown, and an API key can be missing or not allowed.
"""

import inspect
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from gateway.api.rpc.procedure import KeyAccess, Procedure, Surface
from gateway.api.rpc.trpc import RestError, TrpcError, Unauthorized
from gateway.model.api_keys import Permission
from gateway.model.errors import NotFound, Throttled, Unavailable

_REFERENCE = "#/components/schemas/"
_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_PLAIN = {"type": "object", "properties": {}}


class _Untitled(GenerateJsonSchema):
    """Leaves out titles, which only repeat names."""

    def default_schema(self, schema: Any) -> Any:
        """Leave out the default null of an optional field."""
        shown = super().default_schema(schema)
        return {name: value for name, value in shown.items() if name != "default" or value is not None}

    def field_title_should_be_set(self, _schema: Any) -> bool:
        return False


def document(procedures: Mapping[str, Procedure], surface: Surface, *, base: str, version: str) -> dict[str, Any]:
    """Return the OpenAPI document of a surface; `base` is the gateway's address."""
    described = sorted(procedures.values(), key=lambda one: one.name)
    takes, gives, schemas = _schemas(described)
    operation = _rest if surface is Surface.REST else _trpc
    paths = {
        f"/{one.name}": {
            "get" if one.kind == "query" else "post": {
                "operationId": one.name.replace(".", "-"),
                "tags": [one.router],
                **_describe(one),
                **operation(one, takes[one.name], gives.get(one.name)),
            }
        }
        for one in described
    }
    for one in described:
        _add_headers(paths[f"/{one.name}"], one)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pushdeploy", "version": version, "description": "Deploys Docker images when pushed."},
        "servers": [{"url": f"{base}/api" + ("/trpc" if surface is Surface.TRPC else "")}],
        "security": [{"apiKey": []}],
        "tags": _tags(described),
        "paths": paths,
        "components": {
            "securitySchemes": {"apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"}},
            "schemas": _referenced(paths, schemas),
        },
    }


# -- one procedure


def _describe(procedure: Procedure) -> dict[str, str]:
    words = inspect.cleandoc(procedure.run.__doc__ or "")
    first, _, rest = words.partition("\n\n")
    needs = f"Requires a key with scope {procedure.permission.scope_name}."
    return {"summary": " ".join(first.split()), "description": f"{rest}\n\n{needs}".strip()}


def _tags(procedures: Iterable[Procedure]) -> list[dict[str, str]]:
    tags: dict[str, str] = {}
    for one in procedures:
        module = inspect.getmodule(one.run)
        heading = inspect.cleandoc((module and module.__doc__) or "").partition("\n\n")[0]
        named, _, words = heading.partition(": ")
        if one.router not in tags or named == f"{one.router}.*":
            tags[one.router] = " ".join(words.split())
    return [{"name": name, "description": words} for name, words in sorted(tags.items())]


def _statuses(procedure: Procedure, takes: Mapping[str, Any]) -> list[HTTPStatus]:
    """Return the statuses of the procedure's error responses."""
    found = {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.UNAUTHORIZED,
        Throttled.status,
        Unavailable.status,
        *(one.status for one in procedure.raises),
    }
    if procedure.kind == "mutation":
        found |= {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE}
        found |= {NotFound.status} if any(name.endswith("Id") for name in takes["properties"]) else set()
    if any(name.endswith("Id") for name in takes.get("required", ())) and not procedure.name.endswith(".all"):
        found.add(NotFound.status)
    if procedure.access is not KeyAccess.ANY_KEY or procedure.permission is not Permission.READ:
        found.add(HTTPStatus.FORBIDDEN)
    return sorted(found)


# -- its operation in each surface


def _rest(procedure: Procedure, takes: dict[str, Any], gives: dict[str, Any] | None) -> dict[str, Any]:
    answers: dict[str, Any] = {"200": _answer("Done" if gives is None else "The answer", gives)}
    for status in _statuses(procedure, takes):
        named = "Unauthorized" if status is HTTPStatus.UNAUTHORIZED else "RestError"
        answers[str(int(status))] = _answer(status.phrase, {"$ref": _REFERENCE + named})
    if procedure.kind == "mutation":
        return {"requestBody": _body(takes), "responses": answers}
    required = takes.get("required", ())
    parameters = [
        {"name": name, "in": "query", "required": name in required, **_parameter(schema)}
        for name, schema in takes["properties"].items()
    ]
    return {"parameters": parameters, "responses": answers}


def _trpc(procedure: Procedure, takes: dict[str, Any], gives: dict[str, Any] | None) -> dict[str, Any]:
    values = {"type": "object", "description": "Values for which JSON has no type, in superjson's format."}
    data = {"json": {"type": "null"} if gives is None else gives, "meta": values}
    answers: dict[str, Any] = {"200": _answer("The answer", _nested("result", "data", inner=_object(data, ["json"])))}
    for status in _statuses(procedure, takes):
        answers[str(int(status))] = _answer(status.phrase, {"$ref": _REFERENCE + "TrpcError"})
    wrapped = _object({"json": takes}, ["json"])
    if procedure.kind == "mutation":
        return {"requestBody": _body(wrapped), "responses": answers}
    needed = bool(takes.get("required"))
    given = {"name": "input", "in": "query", "required": needed, "content": {"application/json": {"schema": wrapped}}}
    return {"parameters": [given] if takes["properties"] else [], "responses": answers}


def _add_headers(methods: dict[str, dict[str, Any]], procedure: Procedure) -> None:
    """Add the response headers."""
    for operation in methods.values():
        answers = operation["responses"]
        answers[str(int(Throttled.status))]["headers"] = {
            "Retry-After": {"description": "Seconds to wait before the next call.", "schema": {"type": "integer"}}
        }
        if procedure.queues:
            words = "Id of the queued deployment, for deployment.one."
            answers["200"]["headers"] = {"X-Deployment-Id": {"description": words, "schema": {"type": "string"}}}


def _answer(words: str, schema: dict[str, Any] | None) -> dict[str, Any]:
    return {"description": words} | ({} if schema is None else {"content": {"application/json": {"schema": schema}}})


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def _nested(*names: str, inner: dict[str, Any]) -> dict[str, Any]:
    for name in reversed(names):
        inner = _object({name: inner}, [name])
    return inner


def _parameter(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a field as a query parameter, which cannot be null."""
    shown = {name: value for name, value in schema.items() if name not in {"default", "description"} or value}
    choices = [one for one in shown.pop("anyOf", ()) if one != {"type": "null"}]
    if len(choices) == 1:
        shown |= choices[0]
    elif choices:
        shown["anyOf"] = choices
    words = shown.pop("description", None)
    return {"schema": shown} | ({"description": words} if words else {})


# -- schemas


def _schemas(procedures: list[Procedure]) -> tuple[dict[str, dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Return the schemas of the inputs, the answers, and the components that they refer to.

    Inputs are inlined, as clients that build forms from them expect.
    """
    asked: list[Any] = [(("takes", one.name), "validation", TypeAdapter(one.takes)) for one in procedures]
    asked += [
        (("gives", one.name), "serialization", TypeAdapter(one.gives)) for one in procedures if one.gives is not None
    ]
    asked += [((one.__name__, ""), "serialization", TypeAdapter(one)) for one in (RestError, TrpcError, Unauthorized)]
    found, defined = TypeAdapter.json_schemas(asked, ref_template=_REFERENCE + "{model}", schema_generator=_Untitled)
    parts = {name: _clean(part) for name, part in defined.get("$defs", {}).items()}
    takes, gives = {}, {}
    for ((what, name), _mode), schema in found.items():
        if what == "takes":
            part = parts[schema["$ref"].removeprefix(_REFERENCE)] if "$ref" in schema else _clean(schema)
            takes[name] = _PLAIN | {key: value for key, value in part.items() if key != "description"}
        elif what == "gives":
            gives[name] = _clean(schema)
    return takes, gives, parts


def _clean(schema: Any) -> Any:
    """Return a schema without titles, and with pydantic's names of bounds replaced by those of JSON Schema."""
    if isinstance(schema, list):
        return [_clean(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        _BOUNDS.get(key, key): _clean(value)
        for key, value in schema.items()
        # Client generators leave out a procedure whose default is an object.
        if (key != "title" or isinstance(value, dict)) and (key, value) != ("default", {})
    }


def _referenced(paths: object, schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas that are referred to, directly or indirectly, by name."""
    used: dict[str, Any] = {}
    wanted = _references(paths)
    while wanted:
        used |= {name: schemas[name] for name in wanted}
        wanted = _references([schemas[name] for name in wanted]) - used.keys()
    return dict(sorted(used.items()))


def _references(within: object) -> set[str]:
    if isinstance(within, dict):
        named = within.get("$ref")
        here = {named.removeprefix(_REFERENCE)} if isinstance(named, str) else set()
        return here.union(*(_references(one) for one in within.values()))
    return set().union(*(_references(one) for one in within)) if isinstance(within, list) else set()
