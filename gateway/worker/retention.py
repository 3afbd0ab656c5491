"""Prunes what grows: inbox, audit log, deployments and their details, monitor windows, digests, scan reports, sign-ins.

One gateway at a time prunes, in short transactions. What it does not finish, the next one does.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from gateway.config import Settings
from gateway.store import (
    api_keys,
    applications,
    audit,
    delivery_log,
    delivery_log_size,
    deployment_retention,
    first_seen,
    inbox_parts,
    outbox_retention,
    promotions,
    releases,
    scan_reports,
    sign_ins,
    soaks,
    versions,
    watches,
)
from gateway.store.database import Connection, Pool, transaction

_STALE_SPANS = 40  # spans of the inbox that are measured again in each run
_MAX_MEASURED = timedelta(days=1)  # measured in one statement
_PARTS = 10  # parts of the inbox: each holds a tenth of the kept time or of the allowed size
_LEAST_PART = 8 * 1024**2  # bytes
_PAGE_SIZE = 100  # applications
_REPORTS_KEPT = 1000  # of scanners
_MESSAGES_KEPT = 100_000  # of alerts, that were delivered or given up


async def prune_expired(pool: Pool, settings: Settings) -> None:
    """Prune everything once, or nothing while another gateway is pruning."""
    for step in (_delete_expired, _prune_inbox, _prune_deployments):
        await step(pool, settings)


async def _repeat_under_lock(pool: Pool, step: Callable[[Connection], Awaitable[bool]]) -> None:
    """Repeat a step, each time in its own transaction, until it returns False or another gateway holds the lock."""
    more = True
    while more:
        async with transaction(pool) as connection:
            more = await deployment_retention.try_retention_lock(connection) and await step(connection)


async def _delete_expired(pool: Pool, settings: Settings) -> None:
    async def delete(connection: Connection) -> bool:
        # Expired parts are dropped as a whole. This deletes from a part that has lasted much longer than a part should.
        days = timedelta(days=settings.inbox_days)
        deliveries = await delivery_log.delete_expired(connection, days + days / _PARTS)
        entries = await audit.delete_expired(
            connection, older_than=timedelta(days=settings.audit_days), most=settings.audit_rows
        )
        await watches.delete_expired(connection)
        await sign_ins.delete_expired(connection)
        await api_keys.delete_signed_in(connection, older_than=timedelta(days=settings.audit_days))
        await releases.delete_old(connection, settings.deployments_kept)
        await soaks.delete_surplus(connection)
        await promotions.delete_surplus(connection)
        digests = await first_seen.delete_unused(connection)
        reports = await scan_reports.delete_expired(
            connection, older_than=timedelta(days=settings.log_days), most=_REPORTS_KEPT
        )
        events = await outbox_retention.delete_expired(
            connection, older_than=timedelta(days=settings.inbox_days), most=_MESSAGES_KEPT
        )
        return deliveries or entries or events or digests or reports

    await _repeat_under_lock(pool, delete)


# -- the inbox


async def _prune_inbox(pool: Pool, settings: Settings) -> None:
    await begin_part_if_full(pool, settings)
    await drop_expired_parts(pool, timedelta(days=settings.inbox_days))
    await prune_inbox(pool, settings.inbox_megabytes * 1024**2)


async def begin_part_if_full(pool: Pool, settings: Settings) -> bool:
    """Begin a part of the inbox if the newest one is old or large enough; return whether it was."""
    lasts = timedelta(days=settings.inbox_days) / _PARTS
    most = max(_LEAST_PART, settings.inbox_megabytes * 1024**2 // _PARTS)
    async with transaction(pool) as connection:
        return (
            await inbox_parts.is_part_full(connection, lasts=lasts, most=most)
            and await deployment_retention.try_retention_lock(connection)
            and await inbox_parts.begin_part(connection)
        )


async def drop_expired_parts(pool: Pool, older_than: timedelta) -> None:
    """Drop the parts of the inbox that ended longer ago than `older_than`."""

    async def detach(connection: Connection) -> bool:
        part = await inbox_parts.select_oldest(connection)
        now: datetime = await connection.fetchval("SELECT now()")
        if part is None or (part.until is not None and part.until >= now - older_than):
            return False
        return await inbox_parts.detach(connection, part)

    await _repeat_under_lock(pool, detach)
    await _drop_detached(pool)


async def prune_inbox(pool: Pool, limit: int) -> None:
    """Delete the oldest deliveries beyond `limit` bytes: first whole parts, then the rest from the oldest part."""
    async with transaction(pool) as connection:
        gap = await delivery_log_size.select_gap(connection)
    if gap is None:
        return
    since, until = gap

    async def measure_day(connection: Connection) -> bool:
        nonlocal since
        end = min(since + _MAX_MEASURED, delivery_log_size.span_of(until) + delivery_log_size.SPAN)
        await delivery_log_size.measure(connection, since, end)
        since = end
        return end <= until

    async def detach_excess(connection: Connection) -> bool:
        return await _detach_excess(connection, limit)

    async def delete_excess(connection: Connection) -> bool:
        return await _delete_excess(connection, limit)

    for step in (measure_day, _measure_stale, detach_excess, delete_excess):
        await _repeat_under_lock(pool, step)
    await _drop_detached(pool)


async def _detach_excess(connection: Connection, limit: int) -> bool:
    """Take the oldest part out of the inbox if all of it is beyond the limit; return whether it was."""
    excess = await delivery_log_size.select_size(connection) - limit
    oldest = await delivery_log_size.select_oldest(connection)
    part = await inbox_parts.select_oldest(connection) if excess > 0 else None
    if part is None or oldest is None:
        return False
    bytes_ = await delivery_log_size.select_size_of_part(connection, part.name, excess)
    if bytes_ is None or bytes_ > excess:
        return False
    # Recorded sizes may be out of date, and with them too much would be deleted: measure again first.
    end = delivery_log_size.span_of(part.until or oldest) + delivery_log_size.SPAN
    await delivery_log_size.measure(connection, oldest, end)
    excess = await delivery_log_size.select_size(connection) - limit
    return bytes_ <= excess and await inbox_parts.detach(connection, part)


async def _drop_detached(pool: Pool) -> None:
    """Drop the parts that are no longer in the inbox, once nothing refers to their deliveries."""
    async with transaction(pool) as connection:
        names = await inbox_parts.select_detached(connection)
    for name in names:
        last: str | None = ""

        async def forget(connection: Connection, name: str = name) -> bool:
            nonlocal last
            last = await inbox_parts.forget(connection, name, last or "")
            if last is None:
                await inbox_parts.drop(connection, name)
            return last is not None

        await _repeat_under_lock(pool, forget)


async def _measure_stale(connection: Connection) -> bool:
    for begins in await delivery_log_size.select_stalest(connection, _STALE_SPANS):
        await delivery_log_size.measure(connection, begins, begins + delivery_log_size.SPAN)
    return False


async def _delete_excess(connection: Connection, limit: int) -> bool:
    """Delete the oldest deliveries of one span; return whether there may be more to delete."""
    excess = await delivery_log_size.select_size(connection) - limit
    oldest = await delivery_log_size.select_oldest(connection) if excess > 0 else None
    if oldest is None:
        return False
    # The recorded size of the span may be out of date, and with it too much would be deleted: measure before and after.
    await delivery_log_size.measure(connection, oldest, oldest + delivery_log_size.SPAN)
    excess = await delivery_log_size.select_size(connection) - limit
    if excess <= 0:
        return False
    await delivery_log_size.delete_oldest(connection, excess, oldest + delivery_log_size.SPAN)
    await delivery_log_size.measure(connection, oldest, oldest + delivery_log_size.SPAN)
    return True


# -- deployments


async def _prune_deployments(pool: Pool, settings: Settings) -> None:
    limit, days = settings.deployments_kept, timedelta(days=settings.deployment_days)
    details, last = timedelta(days=settings.log_days), ""
    while True:
        async with transaction(pool) as connection:
            if not await deployment_retention.try_retention_lock(connection):
                return
            found = await deployment_retention.select_after(
                connection, last, _PAGE_SIZE, most=limit, older_than=days, details=details
            )
        if not found:
            return
        last = max(found)
        for application_id in (one for one, prunable in found.items() if prunable):
            await prune_deployments(pool, application_id, limit=limit, older_than=days, details=details)


async def prune_deployments(
    pool: Pool, application_id: str, *, limit: int, older_than: timedelta, details: timedelta
) -> None:
    """Delete deployments beyond `limit` or older than `older_than`, and steps and logs older than `details`."""

    async def remove(connection: Connection) -> bool:
        await applications.lock_row(connection, application_id)
        previous = await versions.select_previous(connection, application_id)
        more = await deployment_retention.delete_surplus(
            connection, application_id, previous=previous, most=limit, older_than=older_than
        )
        await deployment_retention.delete_details(connection, application_id, details)
        return more

    await _repeat_under_lock(pool, remove)
