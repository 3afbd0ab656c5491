"""The database of Trivy on this host: how old it is, its lock, and its download.

Scans hold the lock together; a download, which replaces the files one after the other, holds it alone.
"""

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import orjson

from gateway.model.errors import Code, InvalidInput, Postponed

_FILES = {"db": "trivy.db", "java-db": "trivy-java.db"}
_METADATA_SIZE = 64 * 1024  # bytes
_AGAIN = timedelta(hours=1)  # after the last download, where no newer database was out


@dataclass(frozen=True, slots=True)
class Database:
    """A database of vulnerabilities: when it was made, and when the next one is expected."""

    updated_at: datetime
    next_update: datetime | None = None
    downloaded_at: datetime | None = None

    @property
    def version(self) -> str:
        return self.updated_at.isoformat()

    def is_due(self, now: datetime) -> bool:
        """Tell whether a newer one may be out."""
        if self.next_update is None or now < self.next_update:
            return False
        return self.downloaded_at is None or self.downloaded_at + _AGAIN < now

    @classmethod
    def parse(cls, found: Any) -> "Database":
        """Read Trivy's metadata. Raises InvalidInput."""
        try:
            return cls(*(_moment(found[name]) for name in ("UpdatedAt", "NextUpdate", "DownloadedAt")))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InvalidInput("it does not say when it was made") from error


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def read(cache: Path, name: Literal["db", "java-db"] = "db") -> Database | None:
    """Return the database in Trivy's cache directory, None if there is none. Raises InvalidInput."""
    try:
        with (cache / name / "metadata.json").open("rb") as file:
            text = file.read(_METADATA_SIZE)
        if not (cache / name / _FILES[name]).is_file():
            return None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidInput(f"it cannot be read: {error.strerror}") from error
    try:
        return Database.parse(orjson.loads(text))
    except orjson.JSONDecodeError as error:
        raise InvalidInput("its metadata.json is not JSON") from error


@contextmanager
def locked(cache: Path, *, alone: bool) -> Iterator[bool]:
    """Hold the lock in the block, if it is free; yield whether it was. Raises OSError."""
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(cache / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


async def require(cache: Path, age: timedelta, now: datetime, *, how: str) -> Database:
    """Return the database. Raises Postponed unless there is one that is not older than `age`; `how` to get one."""
    try:
        found = await asyncio.to_thread(read, cache)
    except InvalidInput as error:
        raise Postponed(
            Code.GATE_UNANSWERED, f"the database of Trivy in {cache} is unusable, {error}; {how}"
        ) from error
    if found is None:
        raise Postponed(Code.GATE_UNANSWERED, f"Trivy has no database in {cache}; {how}")
    check_age(found, age, now, how=how)
    return found


def check_age(database: Database, most: timedelta, now: datetime, *, how: str) -> None:
    """Raise Postponed for a database that is too old to say much."""
    if now - database.updated_at > most:
        raise Postponed(
            Code.GATE_UNANSWERED,
            f"the database of vulnerabilities is from {database.updated_at:%Y-%m-%d %H:%M} UTC, older than the rule's "
            f"maxDatabaseAge; {how}",
        )
