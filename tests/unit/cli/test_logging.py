"""A log that nobody reads holds up nobody."""

import logging
import os

import pytest

from gateway.cli._logging import QueuedHandler


@pytest.fixture
def log() -> logging.Logger:
    return logging.Logger("apart")  # noqa: LOG001 - of no hierarchy, so that nothing else takes its lines


def test_a_reader_that_hangs_costs_lines_and_no_time(log: logging.Logger) -> None:
    reading, writing = os.pipe()
    handler = QueuedHandler(writing, most=100)
    log.addHandler(handler)
    for number in range(5000):
        log.warning("line %d %s", number, "x" * 100)
    log.warning("%s", "far too long" * 10_000)
    assert handler.dropped > 3000
    written = b""
    while b"were dropped" not in written:
        written += os.read(reading, 65536)
    lines = written.splitlines()
    assert lines[0].startswith(b"line 0 x")
    handler.finish()
    log.warning("the last \udcff")
    handler.finish()
    os.set_blocking(reading, False)
    assert os.read(reading, 1 << 20).splitlines()[-1] == rb"the last \udcff"
    os.close(reading)
    log.warning("to nobody")
    handler.finish()
    os.close(writing)
