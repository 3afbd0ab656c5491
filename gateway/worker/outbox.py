"""Delivers the events in the outbox: each to each receiver at least once, and the events of one application in order.

    claimed ─▶ sent ─┬─▶ delivered
                     ├─▶ waits, longer each time      the receiver is down, or asks to wait
                     └─▶ given up                     it refuses the event for good, or for too long

Several gateways share the deliveries: a claim is a lease, which ends when its gateway has died. A receiver that is down
is paused, and then tried by one delivery at a time. A receiver that never answers does not hold up others: half of the
places are reserved for receivers to which nothing else is being sent.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from random import random
from typing import TYPE_CHECKING, Any

import structlog

from gateway.background import POLL_INTERVAL
from gateway.config import Settings
from gateway.model.alerts import FOR_PEOPLE, EventKind
from gateway.model.deployments import LeaseLost
from gateway.model.errors import Unavailable, storable_text
from gateway.model.sanitize import safe_line
from gateway.notify import people, receivers
from gateway.notify.http import Sender, open_sender
from gateway.notify.receiver import Delivery, Receipt, Undelivered
from gateway.registry.client import RegistryClient
from gateway.store import alerts, outbox, outbox_attempts, outbox_claims, outbox_retention, receiver_health
from gateway.store.database import Pool, statement, transaction
from gateway.store.encryption import Vault
from gateway.store.outbox_claims import ClaimedDelivery, Claims
from gateway.store.receiver_health import LONGEST_PAUSE, TRIPPED
from gateway.worker.image_origins import ImageOrigins
from gateway.worker.metrics import ALERTS

if TYPE_CHECKING:
    from gateway.gates.window import Rule

_LOG = structlog.get_logger()

_LEASE = timedelta(seconds=60)
_DEADLINE = 45.0  # seconds that one delivery may take: less than its lease
_MOST, _PER_RECEIVER = 128, 8  # deliveries at a time
_RESERVED = 64  # of these, for receivers to which nothing else is being sent: so many receivers may hang
_PAUSE = 0.02  # seconds between two claims
_SHORTEST, _LONGEST = 2.0, 1800.0  # seconds between attempts
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 600.0  # seconds for which a receiver that is down is left alone
_MOST_DOUBLINGS = 16
_LONGEST_ERROR = 1000  # characters
_MOST_REFUSALS = 12  # attempts at a delivery that the receiver refuses although it is not down
_SETTINGS_INTERVAL = 3600.0  # seconds
_BOUNDS_INTERVAL = 30.0  # seconds
MOST_WAITING = 10_000  # deliveries for one receiver
LONGEST_WAIT = timedelta(days=3)
#: the events that GATEWAY_ALERT_URLS gets by the outbox; `alerts` sends the rest, which has links that are secrets
OF_SETTING = tuple(sorted(FOR_PEOPLE - {EventKind.WAITING, EventKind.RECOVERED}))


class OutboxWorker:
    """Delivers for one gateway."""

    def __init__(self, pool: Pool, vault: Vault, registry: RegistryClient, settings: Settings, owner: str) -> None:
        self._pool = pool
        self._vault = vault
        self._settings = settings
        self._owner = owner
        self._origins = ImageOrigins(pool, vault, registry)
        self._woken = asyncio.Event()
        self._running: dict[asyncio.Task[None], ClaimedDelivery] = {}
        #: by receiver, the delivery after which the next claim goes on
        self._after: Mapping[str, str] = {}
        #: the addresses of the settings, by the id of their alert
        self._addresses = self._addresses_of_settings()

    def _addresses_of_settings(self) -> Mapping[str, str]:
        urls = self._settings.alert_urls.get_secret_value() if self._settings.alert_urls else ""
        listed = people.ADDRESS_SEPARATOR.split(urls.strip()) if urls.strip() else []
        return {f"setting-{self._vault.derive(one, 'alert')[:24]}": one for one in listed}

    def wake(self) -> None:
        """Look at the outbox now."""
        self._woken.set()

    async def deliver_forever(self) -> None:
        try:
            async with open_sender() as sender:
                while True:
                    self._woken.clear()
                    free = _MOST - len(self._running)
                    claims = await self._claim(free) if free > 0 else Claims(after=self._after)
                    self._after = claims.after
                    if claims.more:
                        self._woken.set()
                    for claimed in claims.deliveries:
                        task = asyncio.create_task(self._deliver(sender, claimed), name="outbox delivery")
                        self._running[task] = claimed
                        task.add_done_callback(self._ended)
                    await asyncio.sleep(_PAUSE)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(POLL_INTERVAL):
                            await self._woken.wait()
        finally:
            await self._give_back()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.pop(task, None)
        self._woken.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            # Its lease runs out, and it is delivered again.
            _LOG.error("A delivery of the outbox failed on a defect", exc_info=error)

    async def _claim(self, most: int) -> Claims:
        async with statement(self._pool) as connection:
            return await outbox_claims.claim_deliveries(
                connection,
                self._vault,
                self._owner,
                lease=_LEASE,
                most=most,
                common=most - _RESERVED,
                per_alert=_PER_RECEIVER,
                settings=list(self._addresses),
                after=self._after,
            )

    async def _give_back(self) -> None:
        """Cancel the running deliveries, and release their claims so that other gateways can deliver at once."""
        running = dict(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(POLL_INTERVAL), statement(self._pool) as connection:
                for claimed in running.values():
                    await outbox_attempts.postpone_delivery(
                        connection,
                        claimed,
                        delay=timedelta(0),
                        status_code=None,
                        error=None,
                        progress=None,
                    )

    # -- one delivery

    async def _deliver(self, sender: Sender, claimed: ClaimedDelivery) -> None:
        if (delay := self._quiet_for(claimed)) is not None:
            await self._hold(claimed, delay)
            return
        address = self._addresses.get(claimed.alert.alert_id)
        alert = claimed.alert if address is None else replace(claimed.alert, address={"url": address})
        delivery = Delivery(
            alert,
            claimed.event,
            dict(claimed.progress),
            attempt=claimed.attempts,
            url=self._url(claimed),
            earlier=claimed.earlier,
            find_labels=partial(self._origins.find, claimed.event),
            store=partial(self._store, claimed),
        )
        try:
            async with asyncio.timeout(_DEADLINE):
                receipt = await receivers.deliver(sender, delivery)
        except Undelivered as error:
            await self._failed(claimed, delivery, error)
        except TimeoutError:
            await self._failed(claimed, delivery, Undelivered("it does not answer in time", down=True))
        except LeaseLost:
            _LOG.warning("A delivery took longer than its lease", alert=alert.name, delivery=claimed.delivery_id)
        except Unavailable as error:  # the database: its lease runs out, and it is delivered again
            _LOG.warning("A delivery waits for the database", delivery=claimed.delivery_id, error=str(error))
        except Exception:
            _LOG.exception("A delivery failed on a defect", alert=alert.name, delivery=claimed.delivery_id)
            defect = Undelivered("it failed on a defect of the gateway: see its log", waits=True)
            await self._failed(claimed, delivery, defect)
        else:
            await self._delivered(claimed, delivery, receipt)

    async def _store(self, claimed: ClaimedDelivery, progress: Mapping[str, Any]) -> None:
        """Store what is about to be sent. Raises LeaseLost when another gateway may be sending the same delivery."""
        async with statement(self._pool) as connection:
            if not await outbox_attempts.store_progress(connection, claimed, progress):
                raise LeaseLost(claimed.delivery_id)

    def _url(self, claimed: ClaimedDelivery) -> str | None:
        base = self._settings.public_url
        if not base or claimed.event.deployment_id is None:
            return None
        return f"{base.rstrip('/')}/deployments/{claimed.event.deployment_id}"

    @staticmethod
    def _quiet_for(claimed: ClaimedDelivery) -> timedelta | None:
        """Return for how long nothing is sent to this receiver, None if it may be sent now."""
        if not claimed.alert.quiet_hours:
            return None
        from gateway.gates.window import is_open, next_opening

        now, rule = datetime.now(UTC), quiet_rule(claimed.alert.quiet_hours)
        if is_open(rule, now):
            return None
        return (next_opening(rule, now) or now + LONGEST_WAIT) - now

    async def _delivered(self, claimed: ClaimedDelivery, delivery: Delivery, receipt: Receipt) -> None:
        async def write() -> None:
            async with transaction(self._pool) as connection:
                await outbox_attempts.finish_delivery(
                    connection,
                    claimed,
                    delivered=True,
                    status_code=receipt.status,
                    error=receipt.note or None,
                    progress=delivery.progress,
                )
                await receiver_health.mark_well(connection, claimed.alert.alert_id)

        await _until_written(write)
        ALERTS.labels("sent").inc()

    async def _failed(self, claimed: ClaimedDelivery, delivery: Delivery, error: Undelivered) -> None:
        """Postpone the delivery or give it up. Pause its receiver if the receiver is down."""
        alert_id, text = claimed.alert.alert_id, storable_text(safe_line(str(error)))[:_LONGEST_ERROR]
        ends = error.final or error.gone or (not (error.down or error.waits) and claimed.attempts >= _MOST_REFUSALS)
        delay = max(error.retry_after or 0.0, _jittered(_SHORTEST, claimed.attempts, _LONGEST))
        too_far = claimed.queued_at + LONGEST_WAIT < datetime.now(UTC) + timedelta(seconds=delay)

        async def write() -> None:
            async with transaction(self._pool) as connection:
                asked = None if error.retry_after is None else timedelta(seconds=error.retry_after)
                failures = await receiver_health.mark_failed(connection, alert_id, text, asked, down=error.down)
                if failures >= TRIPPED and error.down:
                    pause = timedelta(seconds=_jittered(_FIRST_PAUSE, failures - TRIPPED + 1, _LONGEST_PAUSE))
                    await receiver_health.mark_failed(connection, alert_id, text, pause, down=False)
                if error.gone:
                    await receiver_health.disable_alert(connection, alert_id, text)
                if ends or too_far:
                    await outbox_attempts.finish_delivery(
                        connection,
                        claimed,
                        delivered=False,
                        status_code=error.status,
                        error=text,
                        progress=delivery.progress,
                    )
                    return
                await outbox_attempts.postpone_delivery(
                    connection,
                    claimed,
                    delay=timedelta(seconds=delay),
                    status_code=error.status,
                    error=text,
                    progress=delivery.progress,
                )

        await _until_written(write)
        ALERTS.labels("failed").inc()
        _LOG.warning(
            "An alert was not delivered",
            alert=claimed.alert.name,
            delivery=claimed.delivery_id,
            attempt=claimed.attempts,
            error=text,
            again=not (ends or too_far),
        )

    async def _hold(self, claimed: ClaimedDelivery, delay: timedelta) -> None:
        """Postpone the delivery without counting an attempt."""
        async with statement(self._pool) as connection:
            await outbox_attempts.postpone_delivery(
                connection,
                claimed,
                delay=delay,
                status_code=None,
                error=None,
                progress=None,
                counted=False,
            )

    # -- beside it

    async def keep_bounds_forever(self) -> None:
        """Give up deliveries that wait for too long or are too many, and record the receivers of the settings."""
        said = 0.0
        while True:
            now = asyncio.get_running_loop().time()
            if said <= now:
                await self._record_settings()
                said = now + _SETTINGS_INTERVAL
            async with statement(self._pool) as connection:
                await outbox.close_overtaken(connection)
                await outbox_retention.shorten_waits(connection, _LEASE, LONGEST_PAUSE)
                given_up = await outbox_retention.give_up_old(connection, older_than=LONGEST_WAIT, most=MOST_WAITING)
            if given_up:
                ALERTS.labels("dropped").inc(given_up)
                _LOG.error("Alerts were given up: they waited for too long, or too many did", count=given_up)
            await asyncio.sleep(_BOUNDS_INTERVAL)

    async def _record_settings(self) -> None:
        names = {one: f"GATEWAY_ALERT_URLS {number}" for number, one in enumerate(self._addresses, 1)}
        async with transaction(self._pool) as connection:
            if names:
                await alerts.upsert_settings(connection, names, OF_SETTING)
            await alerts.delete_unset(connection)


def quiet_rule(quiet_hours: tuple[Mapping[str, Any], ...]) -> "Rule":
    """Return the windows in which nothing is sent."""
    from gateway.gates.window import Rule

    return Rule.model_validate({"mode": "freeze", "windows": list(quiet_hours)})


def _jittered(first: float, number: int, longest: float) -> float:
    """Return the seconds until the next attempt after `number` attempts: they double each time, with a random part."""
    whole = min(first * 2.0 ** min(number - 1, _MOST_DOUBLINGS), longest)
    return float(whole * (0.5 + random() / 2))  # noqa: S311 - so that deliveries that failed together are tried apart


async def _until_written(write: Callable[[], Awaitable[None]]) -> None:
    """Repeat `write` while the database is unavailable, as long as the lease may hold.

    After that it raises Unavailable, and another gateway delivers again.
    """
    until = asyncio.get_running_loop().time() + _LEASE.total_seconds()
    while True:
        try:
            return await write()
        except Unavailable:
            if asyncio.get_running_loop().time() >= until:
                raise
        await asyncio.sleep(POLL_INTERVAL)
