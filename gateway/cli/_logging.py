"""Structured logging: one line for each event. Code that works on a delivery or a deployment binds its id.

A thread writes the lines, so that a reader of standard error that hangs blocks nothing. Lines that do not fit into its
queue, or are too long, are dropped and counted.
"""

import atexit
import itertools
import json
import logging
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from io import StringIO
from typing import Any, Protocol, TextIO

import orjson
import structlog
from prometheus_client import Counter

from gateway.model.sanitize import safe_line, safe_text

DROPPED_LINES = Counter(
    "gateway_log_lines_dropped_total", "Log lines that were dropped because they were not read in time."
)

_MAX_QUEUED = 10_000  # lines
_MAX_LINE_LENGTH = 64 * 1024  # characters of a line that is written
_GATHERED = 0.02  # seconds whose lines are written together
_MAX_WRITTEN = 1000  # lines at a time
_FLUSH_TIMEOUT = 1.0  # seconds for writing the remaining lines at exit


def configure(level: str, form: str, *, queued: bool = False) -> None:
    """Send the log lines of the gateway and its libraries to standard error, as json or text."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    last: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(_to_json)
        if form == "json"
        else structlog.dev.ConsoleRenderer(exception_formatter=_format_traceback)
    )
    safe: list[structlog.typing.Processor] = []
    if form == "text":
        shared.pop()  # the console renderer formats exceptions itself
        safe.append(_sanitize_event)
    lines = QueuedLines(sys.stderr.fileno()) if queued else PrintedLines()
    structlog.configure(
        processors=[*shared, *safe, last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: _LineLogger(lines),
        cache_logger_on_first_use=True,
    )
    handler = LineHandler(lines)  # of libraries
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *safe, last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # Their debug lines contain the tokens that they fetch.
    for name in ("botocore", "aiobotocore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Access logs are the job of a proxy; the gateway logs deliveries and deployments.
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.server").addFilter(_is_not_disconnect)


def _is_not_disconnect(record: logging.LogRecord) -> bool:
    """Return whether the record reports something else than a client that left before its body was read.

    After an early response aiohttp reads the rest of the body. It logs the loss of the connection there as an error.
    """
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, RuntimeError) and str(error) == "Connection closed.")


class Lines(Protocol):
    """Where lines of the log go."""

    def put(self, line: str) -> None: ...


class PrintedLines:
    """Prints lines to standard error."""

    def put(self, line: str) -> None:
        sys.stderr.write(f"{line}\n")


class QueuedLines:
    """Passes lines to a thread that writes them to a file, many at a time. Dropped lines are counted."""

    def __init__(self, file: int, *, most: int = _MAX_QUEUED) -> None:
        self._file, self._most, self._lines = file, most, queue.SimpleQueue[str]()
        self._numbers, self._accepted, self._written = itertools.count(1), 0, 0
        self.dropped = 0
        self._writer = threading.Thread(target=self._write_lines, name="log", daemon=True)
        self._writer.start()
        atexit.register(self.finish)

    def put(self, line: str) -> None:
        if len(line) > _MAX_LINE_LENGTH or self._lines.qsize() >= self._most:
            self.dropped += 1
            DROPPED_LINES.inc()
        else:
            self._lines.put(line)
            self._accepted = next(self._numbers)

    def finish(self) -> None:
        """Wait until the remaining lines are written, for a short time."""
        until = time.monotonic() + _FLUSH_TIMEOUT
        while self._written < self._accepted and time.monotonic() < until:
            time.sleep(0.001)

    def _write_lines(self) -> None:
        reported = 0
        while True:
            lines = [self._lines.get()]
            time.sleep(_GATHERED)
            with suppress(queue.Empty):
                while len(lines) < _MAX_WRITTEN:
                    lines.append(self._lines.get_nowait())
            _write(self._file, "\n".join([*lines, ""]).encode(errors="backslashreplace"))
            if dropped := self.dropped - reported:
                reported += dropped
                _write(self._file, orjson.dumps({"event": "Lines of the log were dropped", "lines": dropped}) + b"\n")
            self._written += len(lines)


class _LineLogger:
    """What structlog calls with each finished line, whatever its level."""

    def __init__(self, lines: Lines) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = lines.put


class LineHandler(logging.Handler):
    """Passes the records of libraries on as lines."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
        else:
            self._lines.put(line)


def _to_json(event: structlog.typing.EventDict, default: Callable[[Any], Any]) -> str:
    with suppress(TypeError):  # for what only the standard library can write
        line = orjson.dumps(event, default)
        if line.isascii():  # other characters are escaped: a terminal may act on them
            return line.decode()
    return json.dumps(event, default=default)


def _write(file: int, data: bytes) -> None:
    """Write all bytes, however long it takes. A closed file is ignored."""
    while data:
        try:
            data = data[os.write(file, data) :]
        except BlockingIOError:
            select.select([], [file], [])
        except OSError:
            return


def _sanitize_event(
    _logger: structlog.typing.WrappedLogger, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Escape foreign text, so that it has no effect on a terminal and cannot imitate other log lines."""
    return {safe_line(name): value if name == "exc_info" else safe_line(str(value)) for name, value in event.items()}


def _format_traceback(stream: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    drawn = StringIO()
    structlog.dev.plain_traceback(drawn, exc_info)
    stream.write(safe_text(drawn.getvalue()))
