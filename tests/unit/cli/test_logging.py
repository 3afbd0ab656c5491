"""A log that nobody reads holds up nobody."""

import asyncio
import logging
import os
from unittest.mock import Mock

import pytest
from aiohttp import StreamReader

from gateway.cli._logging import LineHandler, QueuedLines, _is_not_disconnect


@pytest.fixture
def log() -> logging.Logger:
    return logging.Logger("apart")  # noqa: LOG001 - of no hierarchy, so that nothing else takes its lines


def test_a_reader_that_hangs_costs_lines_and_no_time(log: logging.Logger) -> None:
    reading, writing = os.pipe()
    queued = QueuedLines(writing, most=100)
    log.addHandler(LineHandler(queued))
    for number in range(5000):
        log.warning("line %d %s", number, "x" * 100)
    log.warning("%s", "far too long" * 10_000)
    assert queued.dropped > 3000
    written = b""
    while b"were dropped" not in written:
        written += os.read(reading, 65536)
    lines = written.splitlines()
    assert lines[0].startswith(b"line 0 x")
    queued.finish()
    log.warning("the last \udcff")
    queued.finish()
    os.set_blocking(reading, False)
    assert os.read(reading, 1 << 20).splitlines()[-1] == rb"the last \udcff"
    os.close(reading)
    log.warning("to nobody")
    queued.finish()
    os.close(writing)


def _record(error: BaseException) -> logging.LogRecord:
    return logging.LogRecord(
        "aiohttp.server", logging.ERROR, "", 0, "Unhandled exception", (), (type(error), error, None)
    )


async def test_a_client_that_leaves_while_its_body_is_drained_is_no_error() -> None:
    left = StreamReader(Mock(connected=False), 2**16, loop=asyncio.get_running_loop())
    with pytest.raises(RuntimeError) as disconnect:
        await left.readany()
    assert not _is_not_disconnect(_record(disconnect.value))
    assert _is_not_disconnect(_record(RuntimeError("another")))
    assert _is_not_disconnect(_record(ConnectionError("Connection closed.")))
