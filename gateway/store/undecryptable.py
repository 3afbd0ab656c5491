"""Rows with a secret that no key decrypts: they are logged, and do not affect other rows."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

import asyncpg
import structlog

from gateway.model.errors import UndecryptableSecret

_LOG = structlog.get_logger()

_LOG_INTERVAL = 3600.0  # seconds
_MOST_KNOWN = 1000  # places

T = TypeVar("T")

#: when each place was last logged, by the monotonic clock
_logged: dict[str, float] = {}


def log_once(error: UndecryptableSecret) -> None:
    """Log the error, at most once an hour for each place."""
    now = time.monotonic()
    if now - _logged.get(error.place, -_LOG_INTERVAL) < _LOG_INTERVAL:
        return
    if len(_logged) >= _MOST_KNOWN:
        _logged.clear()
    _logged[error.place] = now
    _LOG.error("A secret cannot be decrypted; what needs it is left out", place=error.place, error=str(error))


Row: TypeAlias = asyncpg.Record | Mapping[str, Any]


def read_decryptable(rows: Iterable[Row], read: Callable[[Row], T]) -> list[T]:
    """Return the rows that can be read."""
    found = []
    for row in rows:
        try:
            found.append(read(row))
        except UndecryptableSecret as error:
            log_once(error)
    return found


def read_all(rows: Iterable[Row], read: Callable[[Row], T], encrypted: Collection[str]) -> list[tuple[T, str | None]]:
    """Return all rows. A column of `encrypted` that no key decrypts becomes None, with the error beside the row.

    Raises UndecryptableSecret for any other column.
    """
    return [_read_without(row, read, encrypted) for row in rows]


def _read_without(row: Row, read: Callable[[Row], T], encrypted: Collection[str]) -> tuple[T, str | None]:
    why = None
    for _ in range(len(encrypted) + 1):
        try:
            return read(row), why
        except UndecryptableSecret as error:
            column = error.place.rpartition(":")[2]
            if column not in encrypted or row[column] is None:
                raise
            log_once(error)
            row, why = {**row, column: None}, str(error)
    raise AssertionError("each column is omitted once")
