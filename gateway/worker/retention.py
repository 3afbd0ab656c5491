"""Keeps within bounds what grows: the inbox, the audit, deployments with their steps and logs, windows that are over.

One gateway at a time does it, in short transactions; what one leaves undone the next does.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta

from gateway.config import Settings
from gateway.store import applications, audit, delivery_log, delivery_log_size, deployment_retention, versions, watches
from gateway.store.database import Connection, Pool, transaction

_STALE = 40  # spans of the inbox that are measured again each time
_MOST_SPANS = timedelta(days=1)  # that are measured in one statement
_PAGE = 100  # applications


async def clean(pool: Pool, settings: Settings) -> None:
    """Go through all of it once, or through nothing where another gateway does just now."""
    for part in (_expire, _bound_inbox, _bound_deployments):
        await part(pool, settings)


async def _in_turn(pool: Pool, act: Callable[[Connection], Awaitable[bool]]) -> None:
    """Do it again and again, each time in a transaction of its own, until it is done or another gateway does it."""
    more = True
    while more:
        async with transaction(pool) as connection:
            more = await deployment_retention.try_retention_lock(connection) and await act(connection)


async def _expire(pool: Pool, settings: Settings) -> None:
    async def expire(connection: Connection) -> bool:
        deliveries = await delivery_log.delete_expired(connection, timedelta(days=settings.inbox_days))
        entries = await audit.delete_expired(
            connection, older_than=timedelta(days=settings.audit_days), most=settings.audit_rows
        )
        await watches.delete_expired(connection)
        return deliveries or entries

    await _in_turn(pool, expire)


# -- the inbox


async def _bound_inbox(pool: Pool, settings: Settings) -> None:
    await prune_inbox(pool, settings.inbox_megabytes * 1024**2)


async def prune_inbox(pool: Pool, most: int) -> None:
    """Forget the oldest deliveries beyond so many bytes."""
    async with transaction(pool) as connection:
        gap = await delivery_log_size.select_gap(connection)
    if gap is None:
        return
    since, until = gap

    async def measure_day(connection: Connection) -> bool:
        nonlocal since
        end = min(since + _MOST_SPANS, delivery_log_size.span_of(until) + delivery_log_size.SPAN)
        await delivery_log_size.measure(connection, since, end)
        since = end
        return end <= until

    async def make_room(connection: Connection) -> bool:
        return await _make_room(connection, most)

    for part in (measure_day, _measure_stale, make_room):
        await _in_turn(pool, part)


async def _measure_stale(connection: Connection) -> bool:
    for begins in await delivery_log_size.select_stalest(connection, _STALE):
        await delivery_log_size.measure(connection, begins, begins + delivery_log_size.SPAN)
    return False


async def _make_room(connection: Connection, most: int) -> bool:
    """Return whether there may be more to do."""
    excess = await delivery_log_size.select_size(connection) - most
    oldest = await delivery_log_size.select_oldest(connection) if excess > 0 else None
    if oldest is None:
        return False
    # It may have been long since it was measured, and too much would go: that alone, and measured before and after.
    await delivery_log_size.measure(connection, oldest, oldest + delivery_log_size.SPAN)
    excess = await delivery_log_size.select_size(connection) - most
    if excess <= 0:
        return False
    await delivery_log_size.delete_oldest(connection, excess, oldest + delivery_log_size.SPAN)
    await delivery_log_size.measure(connection, oldest, oldest + delivery_log_size.SPAN)
    return True


# -- deployments


async def _bound_deployments(pool: Pool, settings: Settings) -> None:
    most, days = settings.deployments_kept, timedelta(days=settings.deployment_days)
    last = ""
    while True:
        async with transaction(pool) as connection:
            if not await deployment_retention.try_retention_lock(connection):
                return
            ids = await deployment_retention.select_ids_after(connection, last, _PAGE)
        if not ids:
            return
        last = ids[-1]
        for application_id in ids:
            await prune_deployments(
                pool, application_id, most=most, older_than=days, details=timedelta(days=settings.log_days)
            )


async def prune_deployments(
    pool: Pool, application_id: str, *, most: int, older_than: timedelta, details: timedelta
) -> None:
    """Remove what is not to be kept of one application's deployments."""

    async def remove(connection: Connection) -> bool:
        await applications.lock_row(connection, application_id)
        previous = await versions.select_previous(connection, application_id)
        more = await deployment_retention.delete_surplus(
            connection, application_id, previous=previous, most=most, older_than=older_than
        )
        await deployment_retention.delete_details(connection, application_id, details)
        return more

    await _in_turn(pool, remove)
