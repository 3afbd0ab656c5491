"""Make the live part of a page once for all tabs of a session: a change makes each of them fetch it."""

import gzip
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from aiohttp import web

from gateway.dashboard.live import CHANGES
from gateway.dashboard.rendering import HEADERS
from gateway.dashboard.sessions import SESSION
from gateway.single_flight import SingleFlight

_LIFETIME = 1.0  # seconds; what changes without an event is shown after that
_MOST = 64
_LARGEST = 512 * 1024  # characters that are kept

_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class _Fragment:
    body: bytes
    #: made once, for all who take it
    compressed: bytes
    #: of the newest change that it shows
    number: int
    until: float


class Fragments:
    """The newest fragments, by session, address and element."""

    def __init__(self) -> None:
        self._kept: dict[_Key, _Fragment] = {}
        self._flights: SingleFlight[web.StreamResponse] = SingleFlight()

    async def respond(
        self, request: web.Request, make: Callable[[web.Request], Coroutine[object, object, web.StreamResponse]]
    ) -> web.StreamResponse:
        """Respond with the fragment that is known, else with the one that `make` makes."""
        session, element = request[SESSION], request.headers.get("HX-Target", "")
        if not element:
            return await make(request)
        number = request.app[CHANGES].number
        key = (session.token, request.path_qs, element)
        kept = self._kept.get(key)
        if kept is None or kept.number != number or kept.until < time.monotonic():
            made = await self._flights.join((*key, number), lambda: make(request))
            if not isinstance(made, web.Response) or made.content_type != "text/html" or made.text is None:
                return await make(request)
            if made.status != 200 or len(made.text) > _LARGEST:  # noqa: PLR2004
                return await make(request)
            body = made.text.encode()
            kept = _Fragment(body, gzip.compress(body, 5), number, time.monotonic() + _LIFETIME)
            if len(self._kept) >= _MOST:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = kept
        takes_gzip = "gzip" in request.headers.get("Accept-Encoding", "")
        return web.Response(
            body=kept.compressed if takes_gzip else kept.body,
            content_type="text/html",
            charset="utf-8",
            headers={**HEADERS, "Vary": "Accept-Encoding"} | ({"Content-Encoding": "gzip"} if takes_gzip else {}),
        )


FRAGMENTS = web.AppKey("fragments", Fragments)
