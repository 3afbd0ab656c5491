"""Who else is on the database, and with which key it seals: each connection bears the mark of it as its name."""

from gateway.store.database import Connection

_PREFIX = "gateway "
_TURN = 0x676174656B657973  # a number of our own for advisory locks


def session_name(mark: str) -> str:
    return _PREFIX + mark


async def select_marks(connection: Connection) -> set[str]:
    """Return the marks of all who are connected, ourselves among them."""
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
    """Be the one who rotates, until the connection ends or gives it back; tell whether nobody else is."""
    return bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", _TURN))


async def release_rotation_lock(connection: Connection) -> None:
    await connection.execute("SELECT pg_advisory_unlock($1)", _TURN)
