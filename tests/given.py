"""Every answer that a test sees is held to what its procedure gives."""

from functools import cache
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic import TypeAdapter, ValidationError

from gateway.trpc import UNDEFINED, result
from gateway.web.procedures import PROCEDURES


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(PROCEDURES[name].gives)


def lie(name: str, value: Any) -> str | None:
    """Return what an answer of this procedure has that its type has not; UNDEFINED is nothing."""
    gives = PROCEDURES[name].gives
    if gives is None or value is UNDEFINED:
        return None if gives is None and value is UNDEFINED else f"{name} gives {gives}, and answered {value!r}"
    try:
        _adapter(name).validate_json(orjson.dumps(value), strict=True, extra="forbid")
    except ValidationError as error:
        return f"{name}: {error}"
    return None


class Held:
    """Listens to what is answered."""

    def __init__(self) -> None:
        self.lies: list[str] = []

    @property
    def middleware(self) -> Middleware:
        """The outermost, so that it hears what is really sent."""

        @web.middleware
        async def listen(request: web.Request, handler: Handler) -> web.StreamResponse:
            answer = await handler(request)
            if isinstance(answer, web.Response) and isinstance(answer.body, bytes | None):
                for name, value in _answered(request, answer):
                    if (found := lie(name, value)) is not None:
                        self.lies.append(found)
            return answer

        return listen


def _answered(request: web.Request, answer: web.Response) -> list[tuple[str, Any]]:
    """Return what procedures have answered, errors left out."""
    surface, _, names = request.path.removeprefix("/api/").lstrip("/").rpartition("/")
    known = {name.lower(): name for name in PROCEDURES}
    named = [known.get(name.lower()) for name in names.split(",")]
    if not request.path.startswith("/api/") or None in named or answer.status not in {200, 207}:
        return []
    body = answer.body
    assert isinstance(body, bytes | None)
    if surface != "trpc":
        return [(str(named[0]), orjson.loads(body) if body else UNDEFINED)]
    envelopes = orjson.loads(body or b"")
    given = envelopes if isinstance(envelopes, list) else [envelopes]
    return [
        (str(name), UNDEFINED if one == result(UNDEFINED) else one["result"]["data"]["json"])
        for name, one in zip(named, given, strict=True)
        if "result" in one
    ]
