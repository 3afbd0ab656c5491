"""POST /webhooks/{source}/{token}: deliveries of the registries in `gateway.sources`.

Most senders wait only a few seconds, and some hold back all further deliveries until one is accepted. Senders also
differ in the statuses after which they repeat a request. The `Source` of each declares this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from aiohttp import web

from gateway.api.context import CONTEXT, sender
from gateway.api.ingress import rejections
from gateway.api.ingress.endpoint_cache import ENDPOINT_CACHE
from gateway.api.ingress.key_fetcher import KEY_FETCHER, KEY_LIFETIME, MIN_REFETCH_INTERVAL
from gateway.api.ingress.pipeline import (
    Answer,
    Ingress,
    headers_of,
    log_rejection,
    process,
    receipt_body,
    respond,
    retry_after,
    store,
)
from gateway.api.metrics import DELIVERIES
from gateway.model.endpoints import Endpoint
from gateway.model.errors import Forbidden, GatewayError, NotFound, Throttled, Unauthenticated, Unavailable
from gateway.model.events import Ignored, Notification
from gateway.queue.ingest import Receipt
from gateway.sources import SOURCES, Handshake, Request, Source, Trust
from gateway.store import endpoints
from gateway.store.database import statement

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


async def receive(request: web.Request) -> web.Response:
    """Respond 202 when a deployment was queued or joined, 200 when none was, and 4xx to a request that is rejected."""
    name = request.match_info["source"]
    if (source := SOURCES.get(name)) is not None:
        return await process(_Webhook(request, source))
    error = _no_such_webhook()
    answer = _rejection(error)
    log_rejection(name, answer.status, error)
    DELIVERIES.labels("unknown", answer.verdict).inc()
    return respond(answer)


class _Webhook(Ingress):
    """One request to a webhook, verified and parsed by its source."""

    #: set by `verify`: the trust that authenticated the request; during a rotation, two secrets are valid
    trust: Trust

    def __init__(self, request: web.Request, source: Source) -> None:
        super().__init__(request)
        self.source = source
        self.name, self.deadline = source.name, source.response_deadline
        self.always_accept = source.always_accept

    @property
    def _token(self) -> str:
        return self.request.match_info["token"]

    def known_endpoint(self) -> Endpoint | None:
        return self.app[ENDPOINT_CACHE].get(self.name, self._token) if self.request.method == "POST" else None

    async def recognize(self, endpoint: Endpoint, received: Request) -> Notification | None:
        if endpoint.networks and not endpoint.allows_address(sender(self.request)):
            return None
        try:
            self.trust = await self._prove(received, _trusts(endpoint))
            is_handshake = self.source.handshake(received, self.trust) is not None
            return None if is_handshake else self.parse(endpoint, received)
        except GatewayError:
            return None

    async def find_endpoint(self) -> Endpoint:
        context, cache = self.app[CONTEXT], self.app[ENDPOINT_CACHE]
        try:
            async with statement(context.pool) as connection:
                endpoint = await endpoints.select_endpoint(connection, context.vault, self.name, self._token)
        except NotFound:
            cache.drop(self.name, self._token)
            raise
        cache.put(self.name, self._token, endpoint)
        if not endpoint.enabled and not self.always_accept:
            raise _no_such_webhook()
        if endpoint.networks and not endpoint.allows_address(sender(self.request)):
            reason = "this webhook accepts no requests from that address"
            rejections.count(self.app, endpoint, reason, headers_of(self.request))
            raise Forbidden(reason)
        return endpoint

    async def verify(self, endpoint: Endpoint, received: Request) -> Answer | None:
        trusts = _trusts(endpoint)
        if received.method == "OPTIONS":
            # A handshake by OPTIONS has no proof but the unguessable path. Browsers' preflights are rejected.
            if (handshake := self.source.handshake(received, trusts[0])) is None:
                raise web.HTTPMethodNotAllowed(received.method, ["POST"])
            return await self._answer_handshake(handshake)
        try:
            self.trust = await self._prove(received, trusts)
        except Unauthenticated as error:
            rejections.count(self.app, endpoint, str(error), received.headers)
            raise
        if (handshake := self.source.handshake(received, self.trust)) is None:
            return None
        answer = await self._answer_handshake(handshake)
        await store(self.app, endpoint, received, Notification(ignored=(Ignored("", "a handshake, answered"),)))
        return answer

    async def _prove(self, received: Request, trusts: Sequence[Trust]) -> Trust:
        """Return the trust that authenticates the request; raises Unauthenticated.

        Raises Unavailable when a public key cannot be fetched. A failed verification is tried again with newer keys,
        since the signer may have changed its key.
        """
        rejection = Unauthenticated("")
        addresses = self.source.keys(received, trusts[0])
        for max_age in (KEY_LIFETIME, MIN_REFETCH_INTERVAL) if addresses else (KEY_LIFETIME,):
            keys = await self.app[KEY_FETCHER].fetch_keys(addresses, max_age=max_age) if addresses else {}
            try:
                return _proven(self.source, replace(received, keys=keys) if keys else received, trusts)
            except Unauthenticated as error:
                rejection = error
        raise rejection

    async def _answer_handshake(self, handshake: Handshake) -> Answer:
        if handshake.visit is not None:
            await self.app[KEY_FETCHER].visit(handshake.visit)
        return Answer(handshake.status, handshake.body, "handshake", handshake.headers)

    def parse(self, endpoint: Endpoint, received: Request) -> Notification:
        return _parse(self.source, endpoint, received, self.trust)

    def accepted(self, receipt: Receipt) -> Answer:
        return accepted(receipt)

    def rejected(self, error: GatewayError) -> Answer:
        return rejected(self.source, self.request.headers, error)


def recognize(source: Source, endpoint: Endpoint, received: Request) -> Notification | None:
    """Return the content of a delivery that can be authenticated without fetching a key; None for any other request."""
    trusts = _trusts(endpoint)
    try:
        if source.keys(received, trusts[0]):
            return None
        trust = _proven(source, received, trusts)
        is_handshake = source.handshake(received, trust) is not None
        return None if is_handshake else _parse(source, endpoint, received, trust)
    except GatewayError:
        return None


def accepted(receipt: Receipt) -> Answer:
    """Return the answer to a delivery that is stored."""
    return Answer(202 if receipt.deployments else 200, receipt_body(receipt), receipt.verdict)


def rejected(source: Source, headers: Mapping[str, str], error: GatewayError) -> Answer:
    """Return the answer to a request that failed with this error, so that its sender repeats it if it should."""
    if not isinstance(error, Unavailable | Throttled):
        return _rejection(error)
    if source.honours_retry_after and not (source.no_retry_header and source.no_retry_header.lower() in headers):
        return _rejection(error, headers=retry_after(error))
    return _rejection(error, status=source.unavailable_status)


def _proven(source: Source, received: Request, trusts: Sequence[Trust]) -> Trust:
    """Return the trust that authenticates the request; raises Unauthenticated."""
    rejection = Unauthenticated("the signature or token does not match")
    for trust in trusts:
        try:
            source.verify(received, trust)
        except Unauthenticated as error:
            rejection = error
        else:
            return trust
    raise rejection


def _parse(source: Source, endpoint: Endpoint, received: Request, trust: Trust) -> Notification:
    notification = endpoint.filter_permitted(source.parse(received, trust))
    return replace(notification, signed_without_time=True) if source.signed(received, trust) else notification


def _trusts(endpoint: Endpoint) -> list[Trust]:
    """Return what the endpoint's settings say about its sender, for each secret that is valid."""
    return [Trust(one, endpoint.host, endpoint.aliases, endpoint.settings) for one in endpoint.secrets]


def _no_such_webhook() -> NotFound:
    return NotFound("there is no such webhook")


def _rejection(error: GatewayError, *, status: int | None = None, headers: Mapping[str, str] = _NO_HEADERS) -> Answer:
    status = int(error.status) if status is None else status
    body = {"error": {"code": error.published_code, "message": str(error)}}
    return Answer(status, body, f"refused_{status}", headers)
