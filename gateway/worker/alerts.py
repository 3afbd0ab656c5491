"""Tells people what went wrong, over whatever they read: https://github.com/caronc/apprise names the addresses.

Off the way of the rollouts: an alert is queued and sent by a task of its own. What cannot be sent is logged, without
the address, which is a secret.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from gateway.background import BackgroundTasks
from gateway.model.deployments import Deployment
from gateway.model.errors import InvalidInput, Reason
from gateway.model.sanitize import safe_line, safe_text
from gateway.worker.metrics import ALERTS

if TYPE_CHECKING:  # slow to import, and needed only where there is an address
    from apprise import Apprise

_LOG = structlog.get_logger()

_WAITING = 1000  # alerts; what comes beyond is lost, and counted
_DEADLINE = 30.0  # seconds one address may take
_LAST_WORDS = 5.0  # seconds for what waits when the gateway stops
_ACTS = re.compile(r"@(?=(all|channel|everyone|here|room)\b)|\](?=[(\[:])|<(?=[A-Za-z!@#/])", re.IGNORECASE)
# Addresses may hold commas of their own.
_BETWEEN = re.compile(r"[,\s]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")


@dataclass(frozen=True, slots=True)
class Alert:
    """What people are told."""

    title: str
    body: str

    @classmethod
    def of(cls, application: str, what: str, deployment: Deployment, reason: Reason | None) -> "Alert":
        why = [reason.message, reason.remedy] if reason else []
        code = [f"Code: {reason.code}"] if reason else []
        told = [*why, *code, f"Image: {deployment.reference or '-'}", f"Deployment: {deployment.deployment_id}"]
        return cls(f"{application}: {what}", "\n".join(map(safe_line, told)))


class AlertSink(Protocol):
    """Whoever may be given an alert."""

    def send(self, alert: Alert, /) -> None: ...


class Alerts:
    """Takes alerts at once and sends them in turn. Made by `sending`."""

    def __init__(self, addresses: Sequence["Apprise"]) -> None:
        self._addresses = addresses
        self._queue: asyncio.Queue[Alert] = asyncio.Queue(_WAITING)

    def send(self, alert: Alert, /) -> None:
        if not self._addresses:
            return
        try:
            self._queue.put_nowait(alert)
        except asyncio.QueueFull:
            ALERTS.labels("dropped").inc()

    async def send_forever(self) -> None:
        while True:
            alert = await self._queue.get()
            try:
                await asyncio.gather(*(_send(address, alert) for address in self._addresses))
            finally:
                self._queue.task_done()

    async def sent(self) -> None:
        """Return once nothing waits."""
        await self._queue.join()


async def _send(address: "Apprise", alert: Alert) -> None:
    from apprise import NotifyFormat

    title, body = _plain(safe_line(alert.title)), _plain(safe_text(alert.body))
    try:
        async with asyncio.timeout(_DEADLINE):
            # Plain text: what looks like HTML or Markdown is shown as it stands.
            done = bool(await address.async_notify(body=body, title=title, body_format=NotifyFormat.TEXT))
    except Exception as error:  # whatever a plugin does not foresee
        _LOG.warning("An alert could not be sent", alert=alert.title, error=type(error).__name__)
        done = False
    else:
        if not done:
            _LOG.warning("An alert was not taken", alert=alert.title)
    ALERTS.labels("sent" if done else "failed").inc()


def _plain(text: str) -> str:
    """Return it so that no chat calls everybody by it, or hides an address behind other words; a name may say so."""
    return _ACTS.sub("\\g<0>\u2060", text)


@asynccontextmanager
async def sending(urls: str, background_tasks: BackgroundTasks) -> AsyncIterator[Alerts]:
    """Send what is told until the block is left, and what waits then within seconds; raises InvalidInput."""
    alerts = Alerts(await asyncio.to_thread(_addresses, urls) if urls else [])
    async with background_tasks.running("alerts", alerts.send_forever):
        try:
            yield alerts
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS):
                    await alerts.sent()


def _addresses(urls: str) -> list["Apprise"]:
    import apprise

    # They log addresses, and failures are told above.
    for library in ("apprise", "urllib3"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    found: list[Apprise] = []
    for number, url in enumerate(_BETWEEN.split(urls.strip()), start=1):
        one = apprise.Apprise()
        if not one.add(url):
            raise InvalidInput(
                f"GATEWAY_ALERT_URLS: address {number} is none that apprise knows, as in mailto://user:password@host"
            )
        found.append(one)
    return found
