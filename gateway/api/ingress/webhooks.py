"""POST /webhooks/{source}/{token}: proven, parsed, stored, and only then answered; never late.

Most senders wait a few seconds, some hold back all that follows, and each has its own idea of which answers
mean "again": its Source tells.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog
from aiohttp import web

from gateway.api.context import CONTEXT, TRUSTED_PROXIES
from gateway.api.ingress import rejections
from gateway.api.ingress.deadline import in_time
from gateway.api.ingress.key_fetcher import AT_LEAST, KEPT, OUTWARD
from gateway.api.ingress.pipeline import TRY_AGAIN, deliver, headers_of, read, shown
from gateway.api.ingress.rate_limit import GATES
from gateway.api.metrics import DELIVERIES
from gateway.model.deliveries import redact_headers
from gateway.model.endpoints import Endpoint, sender_address
from gateway.model.errors import (
    Forbidden,
    GatewayError,
    InvalidInput,
    NotFound,
    Throttled,
    Unauthenticated,
    Unavailable,
)
from gateway.model.events import Ignored, Notification
from gateway.queue import ingest
from gateway.sources import SOURCES, Handshake, Request, Source, Trust
from gateway.store import endpoints
from gateway.store.database import statement

_LOG = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: object
    verdict: str
    headers: dict[str, str]


async def receive(request: web.Request) -> web.Response:
    """Answer 202 when something was queued or joined, else 200; 4xx for what cannot be believed or understood."""
    name = request.match_info["source"]
    source = SOURCES.get(name)
    try:
        if source is None:
            raise NotFound("there is no such webhook")
        gates = request.app[GATES]
        gate = gates.at(request.path)
        gate.count()
        began = time.monotonic()
        endpoint = await in_time(request.app, source.response_deadline, gate.through(_endpoint(request, source)))
        left = source.response_deadline - (time.monotonic() - began)
        gate = gates.open(request.path, rate=endpoint.rate / 60 if endpoint.rate else None)
        asked, flaw = await read(request)
        work = _accept(request.app, source, endpoint, asked, flaw)
        answer = await in_time(request.app, left, gate.through(work))
    except GatewayError as error:
        status, headers = _status(source, error, request)
        DELIVERIES.labels(name if source else "unknown", f"refused_{status}").inc()
        _LOG.info("Refused a webhook", source=name, status=status, reason=str(error))
        body = {"error": {"code": type(error).__name__, "message": str(error)}}
        return web.json_response(body, status=status, headers=headers)
    DELIVERIES.labels(source.name, answer.verdict).inc()
    if answer.body is None:
        return web.Response(status=answer.status, headers=answer.headers)
    return web.json_response(answer.body, status=answer.status, headers=answer.headers)


def _status(source: Source | None, error: GatewayError, request: web.Request) -> tuple[int, dict[str, str]]:
    """Return what tells this sender to come again, where it should."""
    if source is None or not isinstance(error, Unavailable | Throttled):
        return int(error.status), {}
    if not source.honours_retry_after or (source.no_retry_header and source.no_retry_header in request.headers):
        return source.unavailable_status, {}
    seconds = error.retry_after if isinstance(error, Throttled) else TRY_AGAIN
    return int(error.status), {"Retry-After": str(math.ceil(seconds))}


async def _endpoint(request: web.Request, source: Source) -> Endpoint:
    """Return the endpoint this sender may use; raises NotFound, Forbidden."""
    context = request.app[CONTEXT]
    async with statement(context.pool) as connection:
        endpoint = await endpoints.select_endpoint(connection, context.vault, source.name, request.match_info["token"])
    if not endpoint.enabled and not source.always_accept:
        raise NotFound("there is no such webhook")
    if endpoint.networks:
        forwarded, proxies = ",".join(request.headers.getall("X-Forwarded-For", ())), request.app[TRUSTED_PROXIES]
        if not endpoint.admits(sender_address(request.remote, forwarded, proxies)):
            why = "this webhook takes nothing from that address"
            rejections.count(request.app, endpoint, why, headers_of(request))
            raise Forbidden(why)
    return endpoint


async def _accept(
    application: web.Application, source: Source, endpoint: Endpoint, asked: Request, flaw: GatewayError | None
) -> _Answer:
    trusts = [Trust(one, endpoint.host, endpoint.aliases, endpoint.settings) for one in endpoint.secrets]
    if flaw is not None and not source.always_accept:
        raise flaw
    if asked.method == "OPTIONS":
        # Browsers' preflights aside, a sender that asks this way proves itself in none: the path is unguessable.
        if (handshake := source.handshake(asked, trusts[0])) is None:
            raise web.HTTPMethodNotAllowed(asked.method, ["POST"])
        return await _shake(application, handshake)
    try:
        trust = await _prove(application, source, asked, trusts)
    except Unauthenticated as error:
        rejections.count(application, endpoint, str(error), asked.headers)
        raise
    if (handshake := source.handshake(asked, trust)) is not None:
        answer = await _shake(application, handshake)
        await deliver(application, endpoint, asked, Notification(ignored=(Ignored("", "a handshake, answered"),)))
        return answer
    try:
        notification = source.parse(asked, trust)
    except InvalidInput as error:
        why, headers = str(flaw or error), redact_headers(asked.headers, endpoint.secrets)
        receipt = await ingest.reject(application[CONTEXT].pool, endpoint, asked.body, why, headers=headers)
        if not source.always_accept:
            raise
        return _Answer(200, shown(receipt), "rejected", {})
    notification = replace(endpoint.permitted(notification), signed=source.signed(asked, trust))
    receipt = await deliver(application, endpoint, asked, notification)
    return _Answer(202 if receipt.deployments else 200, shown(receipt), receipt.verdict, {})


async def _prove(application: web.Application, source: Source, asked: Request, trusts: Sequence[Trust]) -> Trust:
    """Return the trust by which the request proves itself; raises Unauthenticated, or Unavailable for want of a key."""
    refused = Unauthenticated("no secret is valid")
    addresses = source.keys(asked, trusts[0])
    for younger_than in (KEPT, AT_LEAST) if addresses else (KEPT,):
        keys = await application[OUTWARD].fetch_keys(addresses, younger_than=younger_than)
        for trust in trusts:
            try:
                source.verify(replace(asked, keys=keys), trust)
            except Unauthenticated as error:
                refused = error
            else:
                return trust
    raise refused


async def _shake(application: web.Application, handshake: Handshake) -> _Answer:
    if handshake.visit is not None:
        await application[OUTWARD].visit(handshake.visit)
    return _Answer(handshake.status, handshake.body, "handshake", dict(handshake.headers))
