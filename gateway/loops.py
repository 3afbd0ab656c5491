"""Loops that outlive what they depend on."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from gateway.errors import Unavailable

_LOG = structlog.get_logger()

LOOK_AGAIN = 1.0  # seconds; a notification comes sooner, this is for what nobody tells


async def for_ever(loop: Callable[..., Awaitable[None]], *arguments: object) -> None:
    """Begin again what the database's absence, or a defect, has ended; return when it returns."""
    while True:
        try:
            await loop(*arguments)
        except Unavailable as error:
            _LOG.warning("A loop waits", loop=getattr(loop, "__qualname__", ""), error=str(error))
        except Exception:
            _LOG.exception("A loop failed", loop=getattr(loop, "__qualname__", ""))
        else:
            return
        if (task := asyncio.current_task()) is not None and task.cancelling():
            return  # a failure on the way out must not begin again
        await asyncio.sleep(LOOK_AGAIN)
