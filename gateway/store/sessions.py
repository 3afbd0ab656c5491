"""The sessions of gateways on the database. A connection's name contains the mark of the key that encrypts there."""

from gateway.store.database import Connection

_PREFIX = "gateway "
_ROTATION_LOCK = 0x676174656B657973  # the key of an advisory lock


def session_name(mark: str) -> str:
    return _PREFIX + mark


async def select_marks(connection: Connection) -> set[str]:
    """Return the marks of all connected gateways, this one included."""
    rows = await connection.fetch(
        """
        SELECT DISTINCT application_name AS name
          FROM pg_stat_activity
         WHERE datname = current_database() AND starts_with(application_name, $1)
        """,
        _PREFIX,
    )
    return {row["name"].removeprefix(_PREFIX) for row in rows}


async def try_rotation_lock(connection: Connection) -> bool:
    """Take the lock of the key rotation, until it is released or the connection ends; return whether that worked."""
    return bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", _ROTATION_LOCK))


async def release_rotation_lock(connection: Connection) -> None:
    await connection.execute("SELECT pg_advisory_unlock($1)", _ROTATION_LOCK)
