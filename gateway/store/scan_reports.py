"""Reports of scanners about images: the last one for each image, platform and scanner, as the scanner wrote it."""

import asyncio
import gzip
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from gateway.model.reference import Digest
from gateway.store.database import Connection

_AT_ONCE = 100
_LARGEST = 64 * 1024**2  # bytes of a report


@dataclass(frozen=True, slots=True)
class Scanned:
    """What was scanned, for which platform, and by what."""

    digest: Digest
    platform: str
    scanner: str


async def upsert_report(connection: Connection, scanned: Scanned, database: str, report: bytes) -> None:
    """Keep the report in place of the former one."""
    await connection.execute(
        """
        INSERT INTO scan_reports (digest, platform, scanner, database, report) VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (digest, platform, scanner) DO UPDATE
           SET database = excluded.database, report = excluded.report, created_at = now()
        """,
        scanned.digest,
        scanned.platform,
        scanned.scanner,
        database,
        await asyncio.to_thread(gzip.compress, report, 5),
    )


async def select_report(connection: Connection, scanned: Scanned, database: str) -> bytes | None:
    """Return the report, if it was made with this version of the database."""
    found = await connection.fetchval(
        """
        SELECT report FROM scan_reports WHERE digest = $1 AND platform = $2 AND scanner = $3 AND database = $4
        """,
        scanned.digest,
        scanned.platform,
        scanned.scanner,
        database,
    )
    return None if found is None else await asyncio.to_thread(_decompress, found)


async def select_newest(connection: Connection, digests: Collection[str]) -> bytes | None:
    """Return the last report on any of these images, of any scanner."""
    found = await connection.fetchval(
        "SELECT report FROM scan_reports WHERE digest = ANY($1) ORDER BY created_at DESC LIMIT 1", list(digests)
    )
    return None if found is None else await asyncio.to_thread(_decompress, found)


def _decompress(packed: bytes) -> bytes | None:
    """Return the decompressed report. None if it cannot be decompressed, or is too large."""
    stream = zlib.decompressobj(31)
    try:
        text = stream.decompress(packed, _LARGEST)
    except zlib.error:
        return None
    return text if stream.eof else None


async def delete_expired(connection: Connection, *, older_than: timedelta, most: int) -> bool:
    """Delete expired reports, and the oldest beyond so many; return whether there may be more."""
    done = await connection.execute(
        """
        DELETE FROM scan_reports
         WHERE (digest, platform, scanner) IN (
               SELECT digest, platform, scanner
                 FROM (SELECT digest, platform, scanner, created_at,
                              row_number() OVER (ORDER BY created_at DESC) AS place
                         FROM scan_reports) AS placed
                WHERE created_at < now() - $1::interval OR place > $2
                LIMIT $3
               )
        """,
        older_than,
        most,
        _AT_ONCE,
    )
    return done == f"DELETE {_AT_ONCE}"
