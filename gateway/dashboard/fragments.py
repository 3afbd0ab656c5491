"""Make the live part of a page once for all tabs that show the same: a change makes each of them fetch it.

It is the same for all people who may do the same, unless it has a form: a form has a token of the session.
"""

import gzip
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web

from gateway.dashboard.live import CHANGES
from gateway.dashboard.rendering import HEADERS, language_of
from gateway.dashboard.sessions import SESSION
from gateway.single_flight import SingleFlight

_LIFETIME = 1.0  # seconds; what changes without an event is shown after that
_PERSONAL = 10.0  # seconds for which a fragment with a form is expected to have one
_MOST = 64
_LARGEST = 512 * 1024  # characters that are kept
_FORM = 'name="form"'  # in other texts the quotes are escaped

_Key = tuple[object, ...]
_Value = TypeVar("_Value")
_Make = Callable[[web.Request], Coroutine[object, object, web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class _Fragment:
    body: bytes
    #: made once, for all who take it
    compressed: bytes
    #: of the newest change that it shows
    number: int
    until: float


class Fragments:
    """The newest fragments, by address, element, language, and who may see them."""

    def __init__(self) -> None:
        self._kept: dict[_Key, _Fragment] = {}
        #: those that have forms, and until when that is believed
        self._personal: dict[_Key, float] = {}
        #: who made it, and what
        self._flights: SingleFlight[tuple[str, web.StreamResponse]] = SingleFlight()

    async def respond(self, request: web.Request, make: _Make) -> web.StreamResponse:
        """Respond with the fragment that is known, else with the one that `make` makes."""
        session, element = request[SESSION], request.headers.get("HX-Target", "")
        if not element:
            return await make(request)
        number = request.app[CHANGES].number
        what = (request.path_qs, element, language_of(request))
        shared, own = (*what, session.caller.permission, session.caller.grants), (*what, session.token)
        kept = self._find(shared, number) or self._find(own, number)
        if kept is None and self._personal.get(shared, 0.0) < time.monotonic():
            maker, made = await self._flights.join((shared, number), lambda: _make(request, make))
            if _is_personal(made):
                _keep(self._personal, shared, time.monotonic() + _PERSONAL)
            if maker == session.token or not _is_personal(made):
                kept = self._made(own if _is_personal(made) else shared, made, number)
        if kept is None:
            _, made = await self._flights.join((own, number), lambda: _make(request, make))
            kept = self._made(own, made, number)
        return await make(request) if kept is None else _respond(request, kept)

    def _find(self, key: _Key, number: int) -> _Fragment | None:
        kept = self._kept.get(key)
        return kept if kept is not None and kept.number == number and kept.until > time.monotonic() else None

    def _made(self, key: _Key, made: web.StreamResponse, number: int) -> _Fragment | None:
        """Keep what was made, once; return None for what is no fragment, or too large."""
        if (kept := self._find(key, number)) is not None:
            return kept
        if not isinstance(made, web.Response) or made.content_type != "text/html" or made.text is None:
            return None
        if made.status != 200 or len(made.text) > _LARGEST:  # noqa: PLR2004
            return None
        body = made.text.encode()
        kept = _Fragment(body, gzip.compress(body, 5), number, time.monotonic() + _LIFETIME)
        _keep(self._kept, key, kept)
        return kept


def _keep(place: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    """Keep a value, and a bounded number of others."""
    place.pop(key, None)
    if len(place) >= _MOST:
        del place[next(iter(place))]
    place[key] = value


async def _make(request: web.Request, make: _Make) -> tuple[str, web.StreamResponse]:
    return request[SESSION].token, await make(request)


def _is_personal(made: web.StreamResponse) -> bool:
    return not isinstance(made, web.Response) or made.text is None or _FORM in made.text


def _respond(request: web.Request, kept: _Fragment) -> web.Response:
    takes_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
    return web.Response(
        body=kept.compressed if takes_gzip else kept.body,
        content_type="text/html",
        charset="utf-8",
        headers={**HEADERS, "Vary": "Accept-Encoding"} | ({"Content-Encoding": "gzip"} if takes_gzip else {}),
    )


FRAGMENTS = web.AppKey("fragments", Fragments)
