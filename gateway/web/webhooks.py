"""POST /webhooks/{source}/{token}: proven, parsed, stored, and only then answered; never late.

Most senders wait a few seconds, some hold back all that follows, and each has its own idea of which answers
mean "again": its Source tells.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import structlog
from aiohttp import web

from gateway import dispatch
from gateway.dispatch import Receipt
from gateway.errors import GatewayError, InvalidInput, NotFound, TooLarge, Unauthenticated, Unavailable
from gateway.events import Ignored, Notification
from gateway.metrics import DELIVERIES
from gateway.sources import SOURCES, Handshake, Request, Source, Trust
from gateway.store import endpoints
from gateway.store.database import statement
from gateway.store.endpoints import Endpoint
from gateway.web.context import CONTEXT
from gateway.web.notifier import tell
from gateway.web.outward import AT_LEAST, KEPT, OUTWARD

_LOG = structlog.get_logger()

_T = TypeVar("_T")

_PATIENCE = 2.5  # seconds until we answer that nothing was stored; the least patient retrying senders give 3
_BODY_DEADLINE = 10.0  # seconds a sender has for its body
_TRY_AGAIN = 5  # seconds, for senders that ask

#: what goes on after its sender was told to try again
UNANSWERED = web.AppKey("unanswered", set[asyncio.Task[Any]])


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
        endpoint = await _in_time(request.app, _endpoint(request, source))
        asked, whole = await _read(request)
        answer = await _in_time(request.app, _accept(request.app, source, endpoint, asked, whole=whole))
    except GatewayError as error:
        status = source.unstored if source and isinstance(error, Unavailable) else int(error.status)
        DELIVERIES.labels(name if source else "unknown", f"refused_{status}").inc()
        _LOG.info("Refused a webhook", source=name, status=status, reason=str(error))
        return _refusal(error, status, retry=source is not None and source.honours_retry_after)
    DELIVERIES.labels(source.name, answer.verdict).inc()
    if answer.body is None:
        return web.Response(status=answer.status, headers=answer.headers)
    return web.json_response(answer.body, status=answer.status, headers=answer.headers)


async def _endpoint(request: web.Request, source: Source) -> Endpoint:
    context = request.app[CONTEXT]
    async with statement(context.pool) as connection:
        return await endpoints.select_endpoint(connection, context.vault, source.name, request.match_info["token"])


async def _read(request: web.Request) -> tuple[Request, bool]:
    """Return what was sent, and whether it is all of it."""
    body, whole = b"", True
    try:
        async with asyncio.timeout(_BODY_DEADLINE):
            body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        whole = False
    except TimeoutError as error:
        raise web.HTTPRequestTimeout from error
    headers = {key.lower(): value for key, value in request.headers.items()}
    return Request(headers, body, request.method, dict(request.query), datetime.now(UTC)), whole


async def _accept(
    application: web.Application, source: Source, endpoint: Endpoint, asked: Request, *, whole: bool
) -> _Answer:
    trust = Trust(endpoint.secret, endpoint.host, endpoint.aliases, endpoint.settings)
    if not whole and not source.never_refuse:
        raise TooLarge("the body is larger than is accepted")
    if asked.method == "OPTIONS":
        # Browsers' preflights aside, a sender that asks this way proves itself in none: the path is unguessable.
        if (handshake := source.handshake(asked, trust)) is None:
            raise web.HTTPMethodNotAllowed(asked.method, ["POST"])
        return await _shake(application, handshake)
    trust = await _prove(application, source, asked, [trust])
    if (handshake := source.handshake(asked, trust)) is not None:
        answer = await _shake(application, handshake)
        await _deliver(application, endpoint, asked, Notification(ignored=(Ignored("", "a handshake, answered"),)))
        return answer
    try:
        notification = source.parse(asked, trust)
    except InvalidInput as error:
        if not source.never_refuse:
            raise
        why = str(error) if whole else "the body is larger than is accepted"
        receipt = await dispatch.reject(application[CONTEXT].pool, endpoint, asked.body, why)
        return _Answer(200, _shown(receipt), "rejected", {})
    receipt = await _deliver(application, endpoint, asked, notification)
    return _Answer(202 if receipt.deployments else 200, _shown(receipt), receipt.verdict, {})


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


async def _deliver(
    application: web.Application, endpoint: Endpoint, asked: Request, notification: Notification
) -> Receipt:
    receipt = await dispatch.deliver(application[CONTEXT].pool, endpoint, asked.body, notification)
    if receipt.deployments:
        tell(application)
    _LOG.info(
        "Accepted a webhook",
        delivery=receipt.delivery_id,
        source=endpoint.source,
        verdict=receipt.verdict,
        duplicate_of=receipt.duplicate_of,
        deployments=[queued.deployment_id for queued in receipt.deployments],
        ignored=[f"{ignored.reference}: {ignored.reason}" for ignored in receipt.ignored],
    )
    return receipt


def _shown(receipt: Receipt) -> dict[str, Any]:
    return {
        "deliveryId": receipt.delivery_id,
        "duplicateOf": receipt.duplicate_of,
        "deployments": [
            {"deploymentId": queued.deployment_id, "applicationId": queued.application_id}
            for queued in receipt.deployments
        ],
        "ignored": [{"reference": ignored.reference, "reason": ignored.reason} for ignored in receipt.ignored],
    }


def _refusal(error: GatewayError, status: int, *, retry: bool) -> web.Response:
    code = type(error).__name__
    headers = {"Retry-After": str(_TRY_AGAIN)} if retry and isinstance(error, Unavailable) else None
    return web.json_response({"error": {"code": code, "message": str(error)}}, status=status, headers=headers)


# -- never late


async def _in_time(application: web.Application, work: Coroutine[Any, Any, _T]) -> _T:
    """Return its result; raises Unavailable once the sender should not wait longer.

    The work goes on: what it stores then makes a duplicate of the sender's next attempt.
    """
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=_PATIENCE)
    if done:
        return task.result()
    application[UNANSWERED].add(task)
    task.add_done_callback(partial(_ended_late, application[UNANSWERED]))
    raise Unavailable("the database does not answer in time: try again")


def _ended_late(unanswered: set[asyncio.Task[Any]], task: asyncio.Task[Any]) -> None:
    unanswered.discard(task)
    failed = None if task.cancelled() else task.exception()
    _LOG.info("Ended after its sender was told to try again", failed=None if failed is None else str(failed))


async def finishing(application: web.Application) -> AsyncIterator[None]:
    """Leave nothing behind when the application ends."""
    yield
    for task in application[UNANSWERED]:
        task.cancel()
    await asyncio.gather(*application[UNANSWERED], return_exceptions=True)
