"""Rows with a secret that no key opens: they stand in nobody else's way, and are told of in the log."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

import asyncpg
import structlog

from gateway.model.errors import UndecryptableSecret

_LOG = structlog.get_logger()

_TELL_EVERY = 3600.0  # seconds
_MOST_KNOWN = 1000  # places

T = TypeVar("T")

#: when each place was last told of, by the clock that only goes on
_told: dict[str, float] = {}


def tell(error: UndecryptableSecret) -> None:
    """Log it, once an hour for a place."""
    now = time.monotonic()
    if now - _told.get(error.place, -_TELL_EVERY) < _TELL_EVERY:
        return
    if len(_told) >= _MOST_KNOWN:
        _told.clear()
    _told[error.place] = now
    _LOG.error("A secret cannot be read, and what needs it is left out", place=error.place, error=str(error))


Row: TypeAlias = asyncpg.Record | Mapping[str, Any]


def readable(rows: Iterable[Row], read: Callable[[Row], T]) -> list[T]:
    """Return those that can be read."""
    found = []
    for row in rows:
        try:
            found.append(read(row))
        except UndecryptableSecret as error:
            tell(error)
    return found


def shown(rows: Iterable[Row], read: Callable[[Row], T], sealed: Collection[str]) -> list[tuple[T, str | None]]:
    """Return all of them, without those of the `sealed` columns that no key opens, and why they are.

    Raises Unreadable where it is another column.
    """
    return [_without(row, read, sealed) for row in rows]


def _without(row: Row, read: Callable[[Row], T], sealed: Collection[str]) -> tuple[T, str | None]:
    why = None
    for _ in range(len(sealed) + 1):
        try:
            return read(row), why
        except UndecryptableSecret as error:
            column = error.place.rpartition(":")[2]
            if column not in sealed or row[column] is None:
                raise
            tell(error)
            row, why = {**row, column: None}, str(error)
    raise AssertionError("each column is left out once")
