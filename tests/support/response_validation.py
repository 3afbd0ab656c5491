"""Compare every response that a test receives with the description of its procedure, results and errors alike."""

from functools import cache
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic import TypeAdapter, ValidationError

from gateway.api.procedures.catalog import PROCEDURES
from gateway.api.rpc.openapi import document
from gateway.api.rpc.procedure import Surface
from gateway.api.rpc.trpc import UNDEFINED, RestError, TrpcError, Unauthorized, result

_NAMES = {name.lower(): name for name in PROCEDURES}


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def violation(name: str, value: Any) -> str | None:
    """Return how a result differs from the type that its procedure declares, or None; UNDEFINED means no result."""
    gives = PROCEDURES[name].gives
    if gives is None or value is UNDEFINED:
        return None if gives is None and value is UNDEFINED else f"{name} gives {gives}, and answered {value!r}"
    try:
        _adapter(gives).validate_json(orjson.dumps(value), strict=True, extra="forbid")
    except ValidationError as error:
        return f"{name}: {error}"
    return None


class ResponseValidator:
    """Collects the violations in the responses of an application."""

    def __init__(self) -> None:
        self.violations: list[str] = []

    @property
    def middleware(self) -> Middleware:
        """Add it as the outermost middleware, so that it sees what is sent."""

        @web.middleware
        async def listen(request: web.Request, handler: Handler) -> web.StreamResponse:
            answer = await handler(request)
            if request.path.startswith("/api/") and isinstance(answer, web.Response):
                assert isinstance(answer.body, bytes | None)
                self.violations += filter(None, _violations(request, answer.status, answer.body or b""))
                self.violations += _undeclared_deployments(request) if "X-Deployment-Id" in answer.headers else []
            return answer

        return listen


def _undeclared_deployments(request: web.Request) -> list[str]:
    """Report a deployment that was queued although no procedure of the request declares that it queues one."""
    names = request.path.rpartition("/")[2].split(",")
    known = [_NAMES.get(name.lower()) for name in names]
    silent = all(name is not None and not PROCEDURES[name].queues for name in known)
    return [f"{names} queued a deployment, which their descriptions do not tell of"] if silent else []


def _violations(request: web.Request, status: int, body: bytes) -> list[str | None]:
    """Return the violations of each call in the request."""
    surface, _, names = request.path.removeprefix("/api/").lstrip("/").rpartition("/")
    named = [_NAMES.get(name.lower()) for name in names.split(",")]
    if surface != "trpc":
        if named[0] is None or request.method != _method(named[0]):
            return []
        return [_rest_violation(named[0], status, body)]
    envelopes: Any = orjson.loads(body) if body else []
    if request.headers.get("trpc-accept") == "application/jsonl":
        envelopes = _streamed(envelopes)
    given = envelopes if isinstance(envelopes, list) else [envelopes]
    if len(given) != len(named):  # told of all of them together
        return []
    return [
        _trpc_violation(name, one)
        for name, one in zip(named, given, strict=True)
        if name is not None and request.method == _method(name)
    ]


def _streamed(line: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the envelopes that a line stands for."""
    nothing = line.get("meta", {}).get("values", {})
    return [
        {"error": {"json": part["error"]}}
        if "error" in part
        else result(UNDEFINED if f"{number}.0.0.result.data" in nothing else part["result"]["data"])
        for number, ((part,),) in line["json"].items()
    ]


def _method(name: str) -> str:
    return "GET" if PROCEDURES[name].kind == "query" else "POST"


def _rest_violation(name: str, status: int, body: bytes) -> str | None:
    if status == HTTPStatus.OK:
        return violation(name, orjson.loads(body) if body else UNDEFINED)
    return _error_violation(name, status, body, Unauthorized if status == HTTPStatus.UNAUTHORIZED else RestError)


def _trpc_violation(name: str, envelope: dict[str, Any]) -> str | None:
    if "result" in envelope:
        return violation(name, UNDEFINED if envelope == result(UNDEFINED) else envelope["result"]["data"]["json"])
    return _error_violation(name, envelope["error"]["json"]["data"]["httpStatus"], orjson.dumps(envelope), TrpcError)


def _error_violation(name: str, status: int, body: bytes, envelope: type) -> str | None:
    ((_, described),) = _document()["paths"][f"/{name}"].items()
    if str(status) not in described["responses"]:
        return f"{name} answered {status}, which its description does not tell of: {body!r}"
    try:
        _adapter(envelope).validate_json(body, strict=True, extra="forbid")
    except ValidationError as error:
        return f"{name}, answering {status}: {error}"
    return None


@cache
def _document() -> dict[str, Any]:
    return document(PROCEDURES, Surface.REST, base="", version="")
