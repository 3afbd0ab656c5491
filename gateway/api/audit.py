"""Record in the audit and the log what callers did: changes at once, failed and denied calls within two seconds.

A denied call costs no database statement of its own: equal ones of two seconds are one row with a count, and one line.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import structlog
from aiohttp import web
from pydantic import ValidationError

from gateway.api.context import CONTEXT
from gateway.api.metrics import WRONG_KEYS
from gateway.model.audit import Actor, Outcome
from gateway.model.errors import Forbidden, InvalidInput, Throttled, Unavailable, truncate
from gateway.store import audit
from gateway.store.audit import UnrecordedEvent
from gateway.store.database import statement

_LOG = structlog.get_logger()
_INTERVAL = 2.0  # seconds between two writes
_MAX_ROWS = 100  # different rows in one interval; more are written as one
_MAX_DETAIL = 300  # characters

_ID = re.compile(r"[\x21-\x7e]+")  # keeps control characters out of logs and terminals

_Key = tuple[str | None, str, str | None, Outcome, str]
PENDING: web.AppKey[dict[_Key, UnrecordedEvent]] = web.AppKey("pending_audit", dict)


async def record_success(application: web.Application, actor: Actor, given: Any) -> None:
    """Record a change: in the log, and in the audit where no trigger of a changed table has recorded it."""
    if actor.via != "cli":  # `log_commands` logs those
        _log(UnrecordedEvent(actor, Outcome.DONE, target=_target(given)))
    try:
        async with statement(application[CONTEXT].pool) as connection:
            await audit.insert_unrecorded(connection, [UnrecordedEvent(actor, Outcome.DONE, target=_target(given))])
    except Unavailable:
        _LOG.warning("A change is not in the audit: the database does not answer", call=actor.call_id)


def record_failure(application: web.Application, actor: Actor, error: Exception, given: Any) -> None:
    """Record a call that was denied or failed."""
    outcome = Outcome.REFUSED if isinstance(error, Forbidden | Throttled) else Outcome.FAILED
    _count(application, UnrecordedEvent(actor, outcome, truncate(_detail(error), _MAX_DETAIL), _target(given)))


def record_wrong_key(application: web.Application, address: str | None, why: str) -> None:
    """Record a request with an invalid API key, or one beyond the limit of invalid keys."""
    WRONG_KEYS.inc()
    actor = Actor("api", "nobody", "key", address=address)
    _count(application, UnrecordedEvent(actor, Outcome.REFUSED, why))


def _detail(error: Exception) -> str:
    """Return why the call failed, without its input, which may hold a secret."""
    match error:
        case ValidationError():
            fields = sorted({".".join(map(str, issue["loc"][:2])) for issue in error.errors(include_input=False)})
            return f"invalid input: {', '.join(fields[:5])}"
        case InvalidInput():
            return f"invalid input: {error.field or 'see the answer'}"
        case _:
            return str(error) or type(error).__name__


def _target(given: Any) -> str | None:
    """Return the first id in the input."""
    sent = given if isinstance(given, Mapping) else {}
    return next(
        (
            value
            for name, value in sent.items()
            if str(name).endswith("Id")
            and isinstance(value, str)
            and len(value) <= _MAX_DETAIL
            and _ID.fullmatch(value)
        ),
        None,
    )


def _count(application: web.Application, event: UnrecordedEvent) -> None:
    pending, actor = application[PENDING], event.actor
    key = (actor.key_id, actor.action, actor.address, event.outcome, event.detail)
    if key not in pending and len(pending) >= _MAX_ROWS:
        several = Actor("api", "several", "several")
        key, event = (None, "several", None, event.outcome, ""), UnrecordedEvent(several, event.outcome)
    before = pending.get(key)
    pending[key] = replace(event, times=(before.times if before else 0) + 1)


async def run_writer(application: web.Application) -> AsyncIterator[None]:
    """Run the task that writes for as long as the application runs, and write the rest when it stops."""
    application[PENDING] = {}
    async with application[CONTEXT].rollouts.background_tasks.running("audit", partial(_write_forever, application)):
        yield
    try:
        await write(application)
    except Exception:
        _LOG.exception("The last denied and failed calls are not in the audit")


async def _write_forever(application: web.Application) -> None:
    seen = None
    while True:
        seen = await log_commands(application, seen)
        await asyncio.sleep(_INTERVAL)
        await write(application)


async def log_commands(application: web.Application, above: int | None) -> int:
    """Log what the command line has changed since this row of the audit; return the newest row."""
    async with statement(application[CONTEXT].pool) as connection:
        newest = await audit.select_newest(connection)
        entries = [] if above is None or newest == above else await audit.select_commands(connection, above, newest)
    for entry in entries:
        actor = Actor(entry.via, entry.who, entry.action, entry.key_id, entry.address, entry.call_id)
        _log(UnrecordedEvent(actor, entry.outcome, target=entry.target))
    return newest


async def write(application: web.Application) -> None:
    """Write the pending rows to the audit, and log them."""
    events = list(application[PENDING].values())
    if not events:
        return
    application[PENDING].clear()
    for event in events:
        _log(event)
    try:
        async with statement(application[CONTEXT].pool) as connection:
            await audit.insert_unrecorded(connection, events)
    except Unavailable:
        _LOG.warning("Denied and failed calls are not in the audit: the database does not answer", refusals=len(events))


def _log(event: UnrecordedEvent) -> None:
    actor = event.actor
    log = _LOG.info if event.outcome is Outcome.DONE else _LOG.warning
    log(
        "Audit",
        action=actor.action,
        outcome=event.outcome,
        who=actor.who,
        key=actor.key_id,
        address=actor.address,
        target=event.target,
        **({"detail": event.detail} if event.detail else {}),
        **({"times": event.times} if event.times > 1 else {}),
    )
