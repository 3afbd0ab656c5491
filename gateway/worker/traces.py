"""Sends the trace of each deployment that ended to a receiver of OTLP over HTTP, where one is set.

A trace that the receiver does not accept within a few tries, or that does not fit into the bounded queue, is dropped
and counted. No rollout waits for its trace.
"""

import asyncio
from collections import deque
from http import HTTPStatus

import aiohttp
import orjson
import structlog

from gateway.background import backoff
from gateway.config import Settings
from gateway.model import traces
from gateway.model.errors import DatabaseUnavailable, InvalidInput, NotFound
from gateway.store import applications, deliveries, deployments, steps
from gateway.store.database import Pool, statement
from gateway.version import VERSION
from gateway.worker.metrics import TRACES

_LOG = structlog.get_logger()

_MOST = 1000  # deployments that wait
_TRIES = 4
_TIMEOUT = 10.0  # seconds a request may take
_LONGEST_PAUSE = 8.0  # seconds between two tries
_AGAIN = {429, 502, 503, 504}  # as the specification of OTLP has it


class Traces:
    """Deployments whose traces are to be sent."""

    def __init__(self, pool: Pool, settings: Settings) -> None:
        headers = settings.otlp_headers.get_secret_value() if settings.otlp_headers else ""
        self._pool = pool
        self._url = f"{settings.otlp_endpoint}/v1/traces"
        self._headers = {"Content-Type": "application/json", **parse_headers(headers)}
        self._waiting: deque[str] = deque()
        self._more = asyncio.Event()

    def offer(self, deployment_id: str) -> None:
        """Queue an ended deployment, so that its trace is sent."""
        if len(self._waiting) >= _MOST:
            TRACES.labels("dropped").inc()
            return
        self._waiting.append(deployment_id)
        self._more.set()

    async def send_all(self) -> None:
        """Send the traces of offered deployments, until cancelled."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT)
        async with aiohttp.ClientSession(timeout=timeout, headers=self._headers) as session:
            while True:
                while self._waiting:
                    await self._send(session, self._waiting.popleft())
                self._more.clear()
                await self._more.wait()

    async def _send(self, session: aiohttp.ClientSession, deployment_id: str) -> None:
        try:
            body = await self._body(deployment_id)
        except DatabaseUnavailable:
            self._waiting.appendleft(deployment_id)
            raise
        except NotFound:  # deleted meanwhile
            TRACES.labels("dropped").inc()
            return
        why = ""
        for tried in range(1, _TRIES + 1):
            try:
                async with session.post(self._url, data=body, allow_redirects=False) as answer:
                    if answer.status == HTTPStatus.OK:
                        TRACES.labels("sent").inc()
                        return
                    why = f"it answered {answer.status}"
                    if answer.status not in _AGAIN:
                        break
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                why = str(error) or "it did not answer in time"
            if tried < _TRIES:
                await asyncio.sleep(backoff(tried, _LONGEST_PAUSE))
        TRACES.labels("dropped").inc()
        _LOG.warning("A trace was not taken", deployment=deployment_id, error=why)

    async def _body(self, deployment_id: str) -> bytes:
        async with statement(self._pool) as connection:
            deployment = await deployments.select_deployment(connection, deployment_id)
            names = await applications.select_names(connection, [deployment.application_id])
            caused_by = await deployments.select_deliveries_of(connection, deployment_id)
            received_at = await deliveries.select_first_received(connection, caused_by)
            made = (await steps.select_steps(connection, [deployment_id]))[deployment_id]
        name = names.get(deployment.application_id, deployment.application_id)
        try:
            found = traces.spans(deployment, name, received_at, made)
        except ValueError as error:  # a person had the deployment run again
            raise NotFound(str(error)) from error
        return orjson.dumps(traces.request(found, VERSION))


def parse_headers(text: str) -> dict[str, str]:
    """Parse `name=value,…`, as OTEL_EXPORTER_OTLP_HEADERS has it. Raises InvalidInput, without the values."""
    found = {}
    for pair in filter(None, (one.strip() for one in text.split(","))):
        name, equals, value = pair.partition("=")
        if not equals or not name.strip() or not value.isprintable():
            raise InvalidInput("GATEWAY_OTLP_HEADERS is not like authorization=Bearer TOKEN,x-scope=a")
        found[name.strip()] = value.strip()
    return found
