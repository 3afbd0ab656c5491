"""Call a gateway over HTTP: at an address with an API key, or over its own socket on this host.

http.client is used, since it loads in a tenth of the time that aiohttp takes, and a command makes few calls. The key is
sent to its address alone: a redirect is not followed.
"""

import asyncio
import http.client
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self

from gateway.client.address import Address
from gateway.client.gateway import Answer, Gateway, UnknownProcedure, invalid_input
from gateway.model import errors
from gateway.model.errors import MAX_MESSAGE_LENGTH, GatewayError, Throttled, Unavailable, truncate
from gateway.model.sanitize import safe_line
from gateway.version import VERSION

_CONNECT = 10.0  # seconds
_ANSWER = 300.0  # seconds: some calls wait for an engine, a registry or a scanner
_KEPT = 10.0  # seconds that an idle connection is used again
_LONGEST = 64 << 20  # bytes of an answer
_SHOWN = 200  # characters of foreign text in a message
_BY_STATUS: Mapping[int, type[GatewayError]] = {
    one.status: one
    for one in (
        *(errors.InvalidInput, errors.TooLarge, errors.Unauthenticated, errors.Forbidden),
        *(errors.NotFound, errors.Conflict, errors.Unavailable),
    )
}


class HttpGateway(Gateway):
    """A gateway behind HTTP. `close` ends the connection."""

    def __init__(
        self, place: str, connection: http.client.HTTPConnection, *, path: str = "", key: str | None, command: str
    ) -> None:
        """Without a key, the connection leads to the socket of a gateway on this host."""
        self.place, self.is_local = place, key is None
        self._connection, self.path = connection, path
        self._headers = _headers(key, command)
        self._used_at = 0.0

    @classmethod
    def at(cls, address: Address, key: str, *, command: str = "") -> Self:
        """Return a gateway that is not connected yet."""
        connection = address.connection(_CONNECT)
        made = cls(f"the gateway at {address}", connection, path=address.path, key=key, command=command)
        made.url = str(address)
        return made

    @classmethod
    def over(cls, opened: Callable[[], socket.socket], place: str, *, command: str = "") -> Self:
        """Return a gateway on this host; `opened` connects to its socket and raises OSError."""
        return cls(place, _OverSocket(opened), key=None, command=command)

    async def answer(self, procedure: str, given: Mapping[str, Any] | None = None) -> Answer:
        body = json.dumps(given or {}).encode()
        status, headers, answered = await self.exchange("POST", f"{self.path}/api/{procedure}", body)
        self.version = headers.get("x-gateway-version", self.version)
        if status == http.client.OK:
            return Answer(self._parse(answered, status) if answered.strip() else None, headers)
        raise self._error(procedure, status, headers, answered)

    async def exchange(
        self, method: str, path: str, body: bytes | None = None, *, patience: float = _ANSWER
    ) -> tuple[int, dict[str, str], bytes]:
        """Make a request, and return the status, the headers and the body. Raises Unavailable.

        `patience` is for each part of the answer, and for all of it: one that comes byte by byte ends too.
        """
        loop = asyncio.get_running_loop()
        late = loop.call_later(patience, self.interrupt)
        try:
            answered = await asyncio.to_thread(self._exchange, method, path, body, patience)
            if loop.time() < late.when():
                return answered
        except asyncio.CancelledError:
            self.interrupt()
            raise
        except Unavailable:
            if loop.time() < late.when():
                raise
        finally:
            late.cancel()
        self.close()
        raise Unavailable(f"{self.place} does not answer in time")

    def _exchange(
        self, method: str, path: str, body: bytes | None, patience: float
    ) -> tuple[int, dict[str, str], bytes]:
        try:
            self._connect(patience)
            self._connection.request(method, path, body, self._headers)
            answered = self._connection.getresponse()
            content = answered.read(_LONGEST + 1)
            if len(content) <= _LONGEST and answered.length:
                raise http.client.IncompleteRead(content, answered.length)
        except TimeoutError as error:
            self.close()
            raise Unavailable(f"{self.place} does not answer in time") from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unavailable(f"{self.place} cannot be reached: {_reason(error)}") from error
        self._used_at = time.monotonic()
        if len(content) > _LONGEST:
            self.close()
            raise Unavailable(f"{self.place} answers with more than {_LONGEST >> 20} MB: ask for less, with --limit")
        return answered.status, {name.lower(): value for name, value in answered.getheaders()}, content

    def _connect(self, patience: float) -> None:
        """Open the connection unless it is open. One that was idle may be closed at the other end: it is replaced."""
        if self._connection.sock is not None and time.monotonic() - self._used_at > _KEPT:
            self._connection.close()
        if self._connection.sock is None:
            self._connection.connect()
        if self._connection.sock is not None:
            self._connection.sock.settimeout(patience)

    def interrupt(self) -> None:
        """End a request that another thread waits for."""
        if self._connection.sock is not None:
            with suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._connection.close()

    def _parse(self, body: bytes, status: int) -> Any:
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Unavailable(f"{self.place} answers {status}, but not as a gateway does: is it one?") from error

    def _error(self, procedure: str, status: int, headers: Mapping[str, str], body: bytes) -> GatewayError:
        """Return the error that an answer stands for."""
        if http.client.MULTIPLE_CHOICES <= status < http.client.BAD_REQUEST:
            target = safe_line(headers.get("location", "elsewhere"))[:_SHOWN]
            return Unavailable(f"{self.place} redirects to {target}, and the key is not sent there: use that address")
        answer = self._parse(body, status)
        answer = answer.get("error", answer) if isinstance(answer, dict) else {}
        answer = answer if isinstance(answer, dict) else {}
        message = truncate(str(answer.get("message") or f"status {status}"), MAX_MESSAGE_LENGTH)
        if status == http.client.UNAUTHORIZED:
            return errors.Unauthenticated(
                f"{self.place} does not accept the key: it may be revoked or expired. "
                "Where the gateway runs, create one: gateway keys create NAME"
            )
        detail = answer.get("data")
        if status == http.client.NOT_FOUND and isinstance(detail, dict) and "path" not in detail:
            of = f"is of version {self.version}" if self.version else f"is older than this command line ({VERSION})"
            return UnknownProcedure(f"{self.place} {of} and has no {procedure}: update it")
        if status == http.client.TOO_MANY_REQUESTS:
            return Throttled(message, retry_after=_seconds(headers.get("retry-after")))
        return self._usual_error(status, message, answer.get("issues"))

    def _usual_error(self, status: int, message: str, issues: object) -> GatewayError:
        found = _BY_STATUS.get(status)
        if found is None:
            return Unavailable(f"{self.place} answers {status}: {message}")
        if found is errors.InvalidInput:
            return invalid_input(message, issues if isinstance(issues, list) else ())
        return found(message)


class _OverSocket(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, opened: Callable[[], socket.socket]) -> None:
        super().__init__("gateway")
        self._opened = opened

    def connect(self) -> None:
        self.sock = self._opened()


def _headers(key: str | None, command: str) -> dict[str, str]:
    sudo = os.environ.get("SUDO_USER", "") if key is None else ""
    given = {"X-Gateway-Command": command, "X-Gateway-Sudo-User": sudo, "x-api-key": key or ""}
    return {
        "Content-Type": "application/json",
        "X-Gateway-Client": VERSION,
        "User-Agent": f"gateway/{VERSION}",
        **{name: value for name, value in given.items() if value and value.isascii() and value.isprintable()},
    }


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "it speaks no TLS at this port; if that is right, its URL begins with http://"
    if isinstance(error, http.client.IncompleteRead):
        return "its answer ends too early"
    return safe_line(getattr(error, "strerror", None) or str(error).strip() or type(error).__name__)[:_SHOWN]


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isdecimal() else 1.0
