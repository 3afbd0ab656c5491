"""Run until the process gets a signal to stop."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import structlog

_LOG = structlog.get_logger()


async def run_until_stopped(
    running: AbstractAsyncContextManager[str],
    *,
    signals: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT),
    watch: Callable[[Callable[[], None]], None] | None = None,
) -> None:
    """Hold the block open until one of the signals comes; it yields its address.

    `watch` is given the function that stops, for what else may stop it.
    """
    stopping = asyncio.Event()
    starting = asyncio.current_task()

    def stop() -> None:
        stopping.set()
        if starting is not None:  # the start may take long, for a migration or its lock
            starting.cancel()

    loop = asyncio.get_running_loop()
    for number in signals:
        loop.add_signal_handler(number, stop)
    if watch is not None:
        watch(stop)
    try:
        async with running as address:
            starting = None
            _LOG.info("Serving", address=address)
            await stopping.wait()
            _LOG.info("Stopping")
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise
    _LOG.info("Stopped")
