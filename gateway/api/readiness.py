"""Check that the database accepts writes, so that a push can be stored."""

import asyncio
import time

import structlog
from aiohttp import web

from gateway.model.errors import Unavailable
from gateway.store import readiness
from gateway.store.database import Pool, within

_LOG = structlog.get_logger()

_DEADLINE = 3.0  # seconds
_CACHED = 1.0  # seconds


class Readiness:
    """The result of the last check, cached for a second."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._problem, self._until = "", 0.0

    async def check(self, pool: Pool) -> str:
        """Return what is wrong with the database, "" where it accepts writes."""
        async with self._lock:
            if time.monotonic() >= self._until:
                self._problem = await _find_problem(pool)
                self._until = time.monotonic() + _CACHED
            return self._problem


async def _find_problem(pool: Pool) -> str:
    try:
        await within(_DEADLINE, readiness.probe_write(pool))
    except Unavailable as error:
        return str(error).removesuffix(": try again")
    except Exception:
        _LOG.exception("The database cannot be written to")
        return "the database does not accept writes: see the log"
    return ""


READINESS = web.AppKey("readiness", Readiness)
