"""The fast path of a delivery: from the head and body of a request to the bytes of its response.

It is for the most frequent requests: a complete request to a webhook that was used before, which can be authenticated
without fetching a key, and whose delivery `queue.accept` can decide. Every other request takes the slow path,
`pipeline.process`, at once or as soon as it turns out to need it. Both paths send the same response.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus

import orjson
import structlog
from aiohttp import hdrs, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE
from aiohttp.http_parser import RawRequestMessage

from gateway.api.ingress.endpoint_cache import ENDPOINT_CACHE
from gateway.api.ingress.pipeline import ACCEPTOR, JSON, Answer, by_lower_name, count, log_rejection, report
from gateway.api.ingress.rate_limit import RATE_LIMITERS, RateLimiter
from gateway.api.ingress.webhooks import accepted, recognize, rejected
from gateway.api.schema_check import SCHEMA_CHECK
from gateway.api.shortcut_connections import Respond
from gateway.model.deliveries import redact_headers
from gateway.model.endpoints import Endpoint
from gateway.model.errors import GatewayError, Throttled
from gateway.queue.accept import Outcome
from gateway.queue.ingest import Receipt
from gateway.sources import SOURCES, Request, Source

_LOG = structlog.get_logger()

_PARTS = ["", "webhooks"]  # of a path, before the source and the token
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class Shortcut:
    """Answers deliveries without aiohttp's request, response and tasks."""

    def __init__(self, application: web.Application, *, body_limit: int) -> None:
        self._application, self._body_limit = application, body_limit
        self._endpoints, self._limiters = application[ENDPOINT_CACHE], application[RATE_LIMITERS]
        self._acceptor, self._schema = application[ACCEPTOR], application[SCHEMA_CHECK]

    def read(self, message: RawRequestMessage) -> "Head | None":
        """Return the head of a delivery, or None if a request with this head never takes the fast path."""
        *parts, name, token = message.path.split("/")
        source = SOURCES.get(name)
        if parts != _PARTS or message.method != hdrs.METH_POST or source is None:
            return None
        if hdrs.CONTENT_ENCODING in message.headers or hdrs.EXPECT in message.headers:
            return None
        return Head(message.path, token, source, by_lower_name(message.headers))

    def begin(self, head: "Head", body: bytes, respond: Respond) -> bool:
        """Begin to answer a request, and return whether it takes the fast path. If so, `respond` is called later, once.

        `respond` gets the bytes of the response, or None if the request must take the slow path after all.
        """
        if len(body) > self._body_limit or self._schema.outdated:
            return False
        endpoint = self._endpoints.get(head.source.name, head.token)
        if endpoint is None or endpoint.networks:
            return False
        limiter = self._counted(head.path, endpoint)
        return limiter is not None and self._submit(
            endpoint, body, _Delivery(self._application, head, limiter, respond)
        )

    def _counted(self, path: str, endpoint: Endpoint) -> RateLimiter | None:
        """Count a request, and return the limiter. None if it is the endpoint's first request, or beyond its limit."""
        if (limiter := self._limiters.of_endpoint(path)) is not None:
            try:
                limiter.count()
            except Throttled:
                return None
            self._limiters.for_endpoint(path, rate=endpoint.rate / 60 if endpoint.rate else None)
        return limiter

    def _submit(self, endpoint: Endpoint, body: bytes, delivery: "_Delivery") -> bool:
        """Give a delivery to the acceptor if it is authenticated. Return whether the acceptor took it."""
        head = delivery.head
        received = Request(head.headers, body, hdrs.METH_POST, {}, datetime.now(UTC))
        notification = recognize(head.source, endpoint, received)
        if notification is None or not self._acceptor.submit(
            endpoint,
            body,
            notification,
            head.redacted(endpoint),
            delivery.finish,
            within=head.source.response_deadline,
        ):
            delivery.limiter.uncount()  # the slow path counts it again
            return False
        delivery.limiter.waiting += 1
        return True


class Head:
    """The parsed head of a request. Requests with the same head share it."""

    __slots__ = ("_endpoint", "_redacted", "headers", "path", "source", "token")

    def __init__(self, path: str, token: str, source: Source, headers: Mapping[str, str]) -> None:
        self.path, self.token, self.source = path, token, source
        #: by their names in lower case
        self.headers = headers
        self._endpoint: Endpoint | None = None
        self._redacted: Mapping[str, str] = {}

    def redacted(self, endpoint: Endpoint) -> Mapping[str, str]:
        """Return the headers without the secrets of an endpoint, from a cache for the last endpoint."""
        if self._endpoint is not endpoint:
            self._endpoint, self._redacted = endpoint, redact_headers(self.headers, endpoint.secrets)
        return self._redacted


@dataclass(slots=True)
class _Delivery:
    """A delivery between its request and its response."""

    application: web.Application
    head: Head
    limiter: RateLimiter
    respond: Respond

    def finish(self, outcome: Outcome) -> None:
        """Respond to the sender, and then report: the sender does not wait for the report."""
        self.limiter.waiting -= 1
        try:
            answer = self._answer(outcome)
        except Exception:
            self.respond(None)
            raise
        try:
            self.respond(None if answer is None else response(answer))
        finally:
            if answer is not None:
                self._report(outcome, answer)

    def _answer(self, outcome: Outcome) -> Answer | None:
        source = self.head.source
        if isinstance(outcome, GatewayError):
            return rejected(source, self.head.headers, outcome)
        if isinstance(outcome, Receipt):
            return accepted(outcome)
        if outcome is not None:
            _LOG.warning("A delivery is tried by itself", source=source.name, exc_info=outcome)
        self.limiter.uncount()  # the slow path counts it again
        return None

    def _report(self, outcome: Outcome, answer: Answer) -> None:
        """Wake the workers, log, and count."""
        name = self.head.source.name
        if isinstance(outcome, Receipt):
            report(self.application, name, outcome)
        elif isinstance(outcome, GatewayError):
            log_rejection(name, answer.status, outcome)
        count(name, answer)


def response(answer: Answer) -> bytes:
    """Return the bytes that `pipeline.respond` would send for this answer, to a client that keeps its connection."""
    body = orjson.dumps(answer.body)
    more = "".join([f"{name}: {value}\r\n" for name, value in answer.headers.items()]) if answer.headers else ""
    head = (
        f"HTTP/1.1 {answer.status} {_PHRASES[answer.status]}\r\nContent-Type: {JSON}\r\n{more}"
        f"Cache-Control: no-store\r\nContent-Length: {len(body)}\r\n"
        f"Date: {rfc822_formatted_time()}\r\nServer: {SERVER_SOFTWARE}\r\n\r\n"
    )
    return head.encode() + body
