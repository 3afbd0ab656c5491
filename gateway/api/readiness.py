"""Whether the database takes what a push has to be written to."""

import asyncio
import time

import structlog
from aiohttp import web

from gateway.model.errors import Unavailable
from gateway.store import readiness
from gateway.store.database import Pool, within

_LOG = structlog.get_logger()

_DEADLINE = 3.0  # seconds
_KEPT = 1.0  # seconds: whoever asks more often is told the same


class Readiness:
    """What the database said last."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._said, self._until = "", 0.0

    async def look(self, pool: Pool) -> str:
        """Return what is wrong with the database, "" where it takes writes."""
        async with self._lock:
            if time.monotonic() >= self._until:
                self._said = await _said(pool)
                self._until = time.monotonic() + _KEPT
            return self._said


async def _said(pool: Pool) -> str:
    try:
        await within(_DEADLINE, readiness.try_to_write(pool))
    except Unavailable as error:
        return str(error).removesuffix(": try again")
    except Exception:
        _LOG.exception("The database cannot be written to")
        return "the database refuses to be written to: the log has it"
    return ""


READINESS = web.AppKey("readiness", Readiness)
