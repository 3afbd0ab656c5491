"""The request pipeline that webhooks and deploy tokens share.

    limit the rate ─▶ find the endpoint ─▶ read the body ─▶ verify ─▶ parse ─▶ ingest ─▶ respond

`process` runs the steps, in this order. An `Ingress` supplies what differs between the two. Rights are checked
before work is done: an unknown sender costs one database query, and its body is never read. The gateway accepts a
delivery only after the transaction that stores it has committed.

Most deliveries need fewer steps. If the endpoint is cached and the request is authenticated, `queue.accept` stores the
delivery together with others, in a transaction that also checks that the endpoint has not changed. In all other cases,
the endpoint is read again and the steps above are run. For requests that come in one piece, `shortcut` does the same
without aiohttp's request and response.
"""

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson
import structlog
from aiohttp import web
from prometheus_client import Counter

from gateway.api.context import CONTEXT
from gateway.api.ingress.deadline import respond_within
from gateway.api.ingress.rate_limit import RATE_LIMITERS, RateLimiter
from gateway.api.ingress.repository_locks import REPOSITORY_LOCKS
from gateway.api.metrics import DELIVERIES
from gateway.api.notify import notify_workers
from gateway.api.request_body import read_body
from gateway.api.shortcut_connections import seconds_on_shortcut
from gateway.model.deliveries import redact_headers
from gateway.model.endpoints import Endpoint
from gateway.model.errors import GatewayError, InvalidInput, Throttled
from gateway.model.events import Notification
from gateway.queue import ingest
from gateway.queue.accept import Acceptor
from gateway.queue.ingest import Receipt
from gateway.sources import Request
from gateway.store.database import repeat_on_conflict

_LOG = structlog.get_logger()

ACCEPTOR = web.AppKey("acceptor", Acceptor)
JSON = "application/json; charset=utf-8"

_RETRY_AFTER = 5  # seconds until a database that does not answer may be back
_LOGGED = 20  # deployments and ignored parts of one delivery in the log; the inbox has all of them


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sender receives: `body` as JSON, or an empty body for None."""

    status: int
    body: object
    #: the verdict label of `gateway_deliveries_total`; None where the request is not counted
    verdict: str | None
    headers: Mapping[str, str] = field(default_factory=dict)


class Ingress(ABC):
    """One request to a webhook or a deploy token. The pipeline calls the methods in the order of their definition."""

    #: the source, as metrics, the log and the inbox name it
    name: str
    #: seconds within which the sender is answered, not counting the time in which its body arrives
    deadline: float
    #: whether an authenticated request is answered 2xx even if it cannot be read or parsed
    always_accept: bool = False

    def __init__(self, request: web.Request) -> None:
        self.request = request
        self.app = request.app

    def known_endpoint(self) -> Endpoint | None:
        """Return the endpoint from the cache, or None."""
        return None

    async def recognize(self, endpoint: Endpoint, received: Request) -> Notification | None:
        """Return the content of a delivery; None if it is not a delivery, or is not authenticated for this endpoint."""
        _ = endpoint, received
        return None

    @abstractmethod
    async def find_endpoint(self) -> Endpoint:
        """Return the endpoint that the sender may use; raises NotFound or Forbidden."""

    async def verify(self, endpoint: Endpoint, received: Request) -> Answer | None:
        """Raise Unauthenticated unless the request is authentic; return the answer to a handshake or ping."""
        _ = endpoint, received
        return None

    @abstractmethod
    def parse(self, endpoint: Endpoint, received: Request) -> Notification:
        """Return the push events of an authenticated request; raises InvalidInput."""

    @abstractmethod
    def accepted(self, receipt: Receipt) -> Answer:
        """Return the answer to a delivery that is stored."""

    @abstractmethod
    def rejected(self, error: GatewayError) -> Answer:
        """Return the answer to a request that failed with this error."""


async def process(ingress: Ingress) -> web.Response:
    """Take a request through the pipeline, count it, and respond."""
    try:
        answer = await _run(ingress)
    except GatewayError as error:
        answer = ingress.rejected(error)
        log_rejection(ingress.name, answer.status, error)
    count(ingress.name, answer)
    return respond(answer)


def count(source: str, answer: Answer) -> None:
    """Count an answer in `gateway_deliveries_total`."""
    if answer.verdict is not None:
        _counter(source, answer.verdict).inc()


@lru_cache(maxsize=1024)
def _counter(source: str, verdict: str) -> Counter:
    return DELIVERIES.labels(source, verdict)


async def _run(ingress: Ingress) -> Answer:
    request, limiters = ingress.request, ingress.app[RATE_LIMITERS]
    limiter = limiters.for_path(request.path)
    limiter.count()
    spent = seconds_on_shortcut(request)
    until = time.monotonic() + ingress.deadline - (spent or 0.0)
    # If one batch could not decide the delivery, another batch cannot either.
    known = ingress.known_endpoint() if spent is None else None
    endpoint = known or await _find_endpoint(ingress, limiter, until)
    limiter = limiters.for_endpoint(request.path, rate=endpoint.rate / 60 if endpoint.rate else None)
    started = time.monotonic()
    received, unreadable = await read(request)
    until += time.monotonic() - started
    if known is not None:
        if unreadable is None and (answer := await _accept_known(ingress, known, received, limiter, until)) is not None:
            return answer
        endpoint = await _find_endpoint(ingress, limiter, until)
    accept = _accept(ingress, endpoint, received, unreadable)
    return await respond_within(ingress.app, until - time.monotonic(), limiter.run(accept))


async def _find_endpoint(ingress: Ingress, limiter: RateLimiter, until: float) -> Endpoint:
    return await respond_within(ingress.app, until - time.monotonic(), limiter.run(ingress.find_endpoint()))


async def _accept_known(
    ingress: Ingress, endpoint: Endpoint, received: Request, limiter: RateLimiter, until: float
) -> Answer | None:
    """Accept a delivery with the endpoint from the cache, if possible. Return the answer, or None."""
    if (notification := await ingress.recognize(endpoint, received)) is None:
        return None
    headers = redact_headers(received.headers, endpoint.secrets)
    accept = ingress.app[ACCEPTOR].accept(
        endpoint, received.body, notification, headers, within=until - time.monotonic()
    )
    if (receipt := await limiter.wait(accept)) is None:
        return None
    report(ingress.app, endpoint.source, receipt)
    return ingress.accepted(receipt)


async def read(request: web.Request) -> tuple[Request, InvalidInput | None]:
    """Return the request as sources read it, and why its body cannot be read, if so."""
    body = b""
    unreadable: InvalidInput | None = None
    try:
        body = await read_body(request)
    except InvalidInput as error:
        unreadable = error
    query = dict(request.query) if request.query_string else {}
    received = Request(headers_of(request), body, request.method, query, datetime.now(UTC))
    return received, unreadable


async def _accept(ingress: Ingress, endpoint: Endpoint, received: Request, unreadable: InvalidInput | None) -> Answer:
    if unreadable is not None and not ingress.always_accept:
        raise unreadable
    if (answer := await ingress.verify(endpoint, received)) is not None:
        return answer
    try:
        notification = ingress.parse(endpoint, received)
    except InvalidInput as error:
        receipt = await _store_rejected(ingress.app, endpoint, received, unreadable or error)
        if not ingress.always_accept:
            raise
        return Answer(200, receipt_body(receipt), "rejected")
    return ingress.accepted(await store(ingress.app, endpoint, received, notification))


async def store(
    application: web.Application, endpoint: Endpoint, received: Request, notification: Notification
) -> Receipt:
    """Store a delivery and queue the deployments that it causes; raises Unavailable.

    Deliveries for one repository take turns, so that they do not wait for each other's rows on a database connection.
    """
    pool, headers = application[CONTEXT].pool, redact_headers(received.headers, endpoint.secrets)
    async with application[REPOSITORY_LOCKS].hold(str(event.repository) for event in notification.events):
        receipt = await repeat_on_conflict(
            lambda: ingest.ingest_delivery(pool, endpoint, received.body, notification, headers=headers)
        )
    report(application, endpoint.source, receipt)
    return receipt


def report(application: web.Application, source: str, receipt: Receipt) -> None:
    """Wake the workers if there are deployments, and log what a delivery has caused."""
    if receipt.deployments:
        notify_workers(application)
    if not _LOG.is_enabled_for(logging.INFO):  # save the work of collecting the fields
        return
    _LOG.info(
        "Accepted a webhook",
        delivery=receipt.delivery_id,
        source=source,
        verdict=receipt.verdict,
        duplicate_of=receipt.duplicate_of,
        deployments=[queued.deployment_id for queued in receipt.deployments[:_LOGGED]],
        ignored=[f"{ignored.reference}: {ignored.reason}" for ignored in receipt.ignored[:_LOGGED]],
    )


async def _store_rejected(
    application: web.Application, endpoint: Endpoint, received: Request, error: InvalidInput
) -> Receipt:
    pool, headers = application[CONTEXT].pool, redact_headers(received.headers, endpoint.secrets)
    return await repeat_on_conflict(
        lambda: ingest.ingest_rejected(pool, endpoint, received.body, str(error), headers=headers)
    )


def respond(answer: Answer) -> web.Response:
    """Return the answer as an HTTP response."""
    if answer.body is None:
        return web.Response(status=answer.status, headers=answer.headers)
    headers = {"Content-Type": JSON, **answer.headers}
    return web.Response(body=orjson.dumps(answer.body), status=answer.status, headers=headers)


def receipt_body(receipt: Receipt) -> dict[str, Any]:
    """Return what a sender is answered about a delivery that is stored."""
    return {
        "deliveryId": receipt.delivery_id,
        "duplicateOf": receipt.duplicate_of,
        "deployments": [
            {"deploymentId": queued.deployment_id, "applicationId": queued.application_id}
            for queued in receipt.deployments
        ],
        "ignored": [{"reference": ignored.reference, "reason": ignored.reason} for ignored in receipt.ignored],
    }


def retry_after(error: GatewayError) -> dict[str, str]:
    """Return the header that asks the sender to repeat a request that failed with Throttled or Unavailable."""
    seconds = error.retry_after if isinstance(error, Throttled) else _RETRY_AFTER
    return {"Retry-After": str(math.ceil(seconds))}


def log_rejection(source: str, status: int, error: GatewayError) -> None:
    """Log a request that the gateway does not accept."""
    _LOG.info("Rejected a webhook", source=source, status=status, reason=str(error))


def headers_of(request: web.Request) -> dict[str, str]:
    """Return the headers by lower-case name."""
    return by_lower_name(request.headers)


def by_lower_name(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers by lower-case name; of several with one name the last."""
    return {name.lower(): value for name, value in headers.items()}
