"""Sends alerts to people through Apprise; its addresses are described at https://github.com/caronc/apprise.

Alerts are queued and sent by a background task, so rollouts do not wait for them. A failure is logged without the
address, which is a secret.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from gateway.background import BackgroundTasks
from gateway.model.deployments import Deployment
from gateway.model.errors import InvalidInput, Reason
from gateway.model.sanitize import safe_line, safe_text
from gateway.notify import people
from gateway.notify.receiver import Undelivered
from gateway.worker.metrics import ALERTS

if TYPE_CHECKING:  # slow to import, and needed only where there is an address
    from apprise import Apprise

_LOG = structlog.get_logger()

_MAX_QUEUED = 1000  # alerts; more are dropped and counted
_FLUSH_DEADLINE = 5.0  # seconds for queued alerts when the gateway stops


@dataclass(frozen=True, slots=True)
class Alert:
    """A message to people."""

    title: str
    body: str
    #: the outbox has it, and delivers it
    recorded: bool = False

    @classmethod
    def of(
        cls, application: str, what: str, deployment: Deployment, reason: Reason | None, *, recorded: bool = False
    ) -> "Alert":
        why = [reason.message, reason.remedy] if reason else []
        code = [f"Code: {reason.code}"] if reason else []
        details = [*why, *code, f"Image: {deployment.reference or '-'}", f"Deployment: {deployment.deployment_id}"]
        return cls(f"{application}: {what}", "\n".join(map(safe_line, details)), recorded)


class AlertSink(Protocol):
    """Takes alerts."""

    def send(self, alert: Alert, /) -> None: ...


class AlertQueue:
    """Queues alerts for each address, and sends them to it one after the other. Created by `send_alerts`."""

    def __init__(self, addresses: Sequence["Apprise"]) -> None:
        self._queues = [(address, asyncio.Queue[Alert](_MAX_QUEUED)) for address in addresses]

    def send(self, alert: Alert, /) -> None:
        if alert.recorded:
            return
        for _, queue in self._queues:
            try:
                queue.put_nowait(alert)
            except asyncio.QueueFull:
                ALERTS.labels("dropped").inc()

    async def send_forever(self) -> None:
        async with asyncio.TaskGroup() as addresses:  # one that does not answer delays no other
            for address, queue in self._queues:
                addresses.create_task(_send_queued(address, queue))

    async def flush(self) -> None:
        """Return once all queued alerts are sent."""
        await asyncio.gather(*(queue.join() for _, queue in self._queues))


async def _send_queued(address: "Apprise", queue: asyncio.Queue[Alert]) -> None:
    while True:
        alert = await queue.get()
        try:
            await _send(address, alert)
        finally:
            queue.task_done()


async def _send(address: "Apprise", alert: Alert) -> None:
    try:
        await people.send(address, safe_line(alert.title), safe_text(alert.body))
    except Undelivered as error:
        _LOG.warning("An alert could not be sent", alert=alert.title, error=str(error))
        ALERTS.labels("failed").inc()
    else:
        ALERTS.labels("sent").inc()


@asynccontextmanager
async def send_alerts(urls: str, background_tasks: BackgroundTasks) -> AsyncIterator[AlertQueue]:
    """Send alerts until the block is left, then those still queued for a few seconds.

    Raises InvalidInput when an address is invalid.
    """
    alerts = AlertQueue(await asyncio.to_thread(_addresses, urls) if urls else [])
    async with background_tasks.running("alerts", alerts.send_forever):
        try:
            yield alerts
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_DEADLINE):
                    await alerts.flush()


def _addresses(urls: str) -> list["Apprise"]:
    parsed: list[Apprise] = []
    for number, url in enumerate(people.ADDRESS_SEPARATOR.split(urls.strip()), start=1):
        try:
            parsed.append(people.parse_address(url))
        except InvalidInput as error:
            raise InvalidInput(
                f"GATEWAY_ALERT_URLS: address {number} is not an Apprise address such as mailto://user:password@host"
            ) from error
    return parsed
