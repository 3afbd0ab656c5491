"""Check whether the database accepts writes."""

import os

from gateway.store.database import Pool, statement

_PAGE = 7_900  # bytes of a row that fills a page, so that a full disk fails the write


async def probe_write(pool: Pool) -> None:
    """Insert a row and roll back. Raises Unavailable, for a read-only or full database too."""
    async with statement(pool) as connection:
        undone = connection.transaction()
        await undone.start()
        try:
            await connection.execute("INSERT INTO readiness_probes (filler) VALUES ($1)", os.urandom(_PAGE))
        finally:
            await undone.rollback()
