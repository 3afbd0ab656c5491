"""What callers did, in the audit and in the log: what they changed at once, what they were refused soon, and counted.

A refusal costs no statement of its own: those of a few seconds that are alike are one row, and one line.
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
from gateway.store.audit import Told
from gateway.store.database import statement

_LOG = structlog.get_logger()
_GATHER = 2.0  # seconds whose refusals are written as one
_MOST = 100  # that differ, in that time
_LONGEST = 300  # characters of a detail

_ID = re.compile(r"[\x21-\x7e]+")  # nothing else reaches a log or a terminal

_Alike = tuple[str | None, str, str | None, Outcome, str]
GATHERED: web.AppKey[dict[_Alike, Told]] = web.AppKey("audited", dict)


async def done(application: web.Application, actor: Actor, given: Any) -> None:
    """Write down what a caller had done: the log, and the audit where no table has told of it."""
    _log(Told(actor, Outcome.DONE, target=_target(given)))
    try:
        async with statement(application[CONTEXT].pool) as connection:
            await audit.insert_told(connection, [Told(actor, Outcome.DONE, target=_target(given))])
    except Unavailable:
        _LOG.warning("The audit does not have it: the database does not answer", call=actor.call_id)


def not_done(application: web.Application, actor: Actor, error: Exception, given: Any) -> None:
    """Count what a caller was refused, or what failed."""
    outcome = Outcome.REFUSED if isinstance(error, Forbidden | Throttled) else Outcome.FAILED
    _gather(application, Told(actor, outcome, truncate(_detail(error), _LONGEST), _target(given)))


def wrong_key(application: web.Application, address: str | None, why: str) -> None:
    """Count a request with a key that is none, or was not looked up as too many of them were none."""
    WRONG_KEYS.inc()
    actor = Actor("api", "nobody", "key", address=address)
    _gather(application, Told(actor, Outcome.REFUSED, why))


def _detail(error: Exception) -> str:
    """Return why, without what was sent: that may be a secret."""
    match error:
        case ValidationError():
            fields = sorted({".".join(map(str, one["loc"][:2])) for one in error.errors(include_input=False)})
            return f"invalid input: {', '.join(fields[:5])}"
        case InvalidInput():
            return f"invalid input: {error.field or 'see the answer'}"
        case _:
            return str(error) or type(error).__name__


def _target(given: Any) -> str | None:
    """Return the first id that was sent."""
    sent = given if isinstance(given, Mapping) else {}
    return next(
        (
            value
            for name, value in sent.items()
            if str(name).endswith("Id") and isinstance(value, str) and len(value) <= _LONGEST and _ID.fullmatch(value)
        ),
        None,
    )


def _gather(application: web.Application, told: Told) -> None:
    gathered, actor = application[GATHERED], told.actor
    key = (actor.key_id, actor.action, actor.address, told.outcome, told.detail)
    if key not in gathered and len(gathered) >= _MOST:
        others = Actor("api", "several", "several")
        key, told = (None, "several", None, told.outcome, ""), Told(others, told.outcome)
    before = gathered.get(key)
    gathered[key] = replace(told, times=(before.times if before else 0) + 1)


async def writing(application: web.Application) -> AsyncIterator[None]:
    """Own the task that writes, for as long as the application lives; what is left is written at the end."""
    application[GATHERED] = {}
    async with application[CONTEXT].rollouts.background_tasks.running("audit", partial(_write_for_ever, application)):
        yield
    try:
        await write(application)
    except Exception:
        _LOG.exception("What was refused last is not written down")


async def _write_for_ever(application: web.Application) -> None:
    seen = None
    while True:
        seen = await tell_commands(application, seen)
        await asyncio.sleep(_GATHER)
        await write(application)


async def tell_commands(application: web.Application, above: int | None) -> int:
    """Log what commands have changed since this row, in processes of their own; return the newest row."""
    async with statement(application[CONTEXT].pool) as connection:
        newest = await audit.select_newest(connection)
        found = [] if above is None or newest == above else await audit.select_commands(connection, above, newest)
    for entry in found:
        actor = Actor(entry.via, entry.who, entry.action, entry.key_id, entry.address, entry.call_id)
        _log(Told(actor, entry.outcome, target=entry.target))
    return newest


async def write(application: web.Application) -> None:
    """Write down what was gathered."""
    told = list(application[GATHERED].values())
    if not told:
        return
    application[GATHERED].clear()
    for one in told:
        _log(one)
    try:
        async with statement(application[CONTEXT].pool) as connection:
            await audit.insert_told(connection, told)
    except Unavailable:
        _LOG.warning("The audit does not have refusals: the database does not answer", refusals=len(told))


def _log(told: Told) -> None:
    actor = told.actor
    log = _LOG.info if told.outcome is Outcome.DONE else _LOG.warning
    log(
        "Audit",
        action=actor.action,
        outcome=told.outcome,
        who=actor.who,
        key=actor.key_id,
        address=actor.address,
        target=told.target,
        **({"detail": told.detail} if told.detail else {}),
        **({"times": told.times} if told.times > 1 else {}),
    )
