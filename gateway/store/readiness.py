"""Whether the database takes writes."""

import os

from gateway.store.database import Pool, statement

_PAGE = 7_900  # bytes of a row that takes a page of its own, so that a full disk shows


async def probe_write(pool: Pool) -> None:
    """Write a row, and undo it; raises Unavailable where the database takes none, as one that is read-only or full."""
    async with statement(pool) as connection:
        undone = connection.transaction()
        await undone.start()
        try:
            await connection.execute("INSERT INTO readiness_probes (filler) VALUES ($1)", os.urandom(_PAGE))
        finally:
            await undone.rollback()
