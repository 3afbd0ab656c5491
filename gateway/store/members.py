"""The gateways that are connected to the database now, each known by a number.

A gateway holds an advisory lock for as long as its connection lasts. So whoever is killed is gone at once, and there is
no row to tidy up.
"""

from secrets import randbelow

from gateway.store.database import Connection, is_lost
from gateway.store.transient_errors import is_transient

_CLASS = 0x67617465  # "gate": the first key of the locks
_NUMBERS = 2**31


async def join(connection: Connection) -> int:
    """Become a member for as long as the connection lasts; return the number."""
    while True:
        number = randbelow(_NUMBERS)
        if await connection.fetchval("SELECT pg_try_advisory_lock($1::int, $2::int)", _CLASS, number):
            return number


async def leave(connection: Connection, number: int) -> None:
    """Be no member any more, as after the end of the connection."""
    if is_lost(connection):
        return
    try:
        await connection.execute("SELECT pg_advisory_unlock($1::int, $2::int)", _CLASS, number)
    except Exception as error:
        if not is_transient(error):
            raise


async def select_members(connection: Connection) -> frozenset[int]:
    """Return the numbers of all members."""
    rows = await connection.fetch(
        """
        SELECT objid::bigint AS number
          FROM pg_locks
         WHERE locktype = 'advisory' AND classid::bigint = $1 AND objsubid = 2
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        """,
        _CLASS,
    )
    return frozenset(row["number"] for row in rows)
