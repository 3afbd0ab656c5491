"""Engines, identified by the daemon's own id and the server: two engines may have the same id."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from gateway.store.database import Connection


class Place(NamedTuple):
    """Where applications are: an engine, and the server that it is registered as; None is the gateway's own engine."""

    engine_id: str
    server_id: str | None


@dataclass(frozen=True, slots=True)
class Seen:
    """An engine that answered at a server. `recovered`: the deployments that waited for it are to be retried."""

    engine_id: str
    server_id: str | None
    name: str
    version: str
    platform: str
    daemon: str
    swarm_manager: bool
    recovered: bool


#: The time of the last response of an application `a`'s engine `e`: at the application's server, or at another address
#: of the same daemon. A gateway of an earlier version updates only the row of the engine.
LAST_SEEN = """
    greatest(
        (SELECT max(r.last_seen_at)
           FROM engine_addresses r
          WHERE r.engine_id = a.engine_id
            AND (r.server_id IS NOT DISTINCT FROM a.server_id
                 OR r.daemon IN (SELECT own.daemon
                                   FROM engine_addresses own
                                  WHERE own.engine_id = a.engine_id
                                    AND own.server_id IS NOT DISTINCT FROM a.server_id))),
        (SELECT e.last_seen_at
          WHERE NOT EXISTS (SELECT FROM engine_addresses r
                             WHERE r.engine_id = e.engine_id AND r.last_seen_at >= e.last_seen_at))
    )
"""


#: whether an application `a` is at one of the servers $2, where '' stands for the gateway's own engine. Uses an index
AT_SERVERS = "(a.server_id = ANY($2::text[]) OR (a.server_id IS NULL AND '' = ANY($2::text[])))"


async def is_any_reached(connection: Connection, within: timedelta) -> bool:
    """Tell whether a gateway has reached an engine in this time. A gateway that runs tries every few seconds."""
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM engines WHERE last_seen_at > now() - $1::interval)", within
        )
    )


async def upsert_engine(
    connection: Connection, *, engine_id: str, name: str, version: str, platform: str, swarm_manager: bool
) -> None:
    """Record that this engine responds."""
    await connection.execute(
        """
        INSERT INTO engines (engine_id, name, version, platform, swarm_manager)
        VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (engine_id) DO UPDATE
           SET name = $2, version = $3, platform = $4, swarm_manager = $5, last_seen_at = now()
        """,
        engine_id,
        name,
        version,
        platform,
        swarm_manager,
    )


#: the platform of an application before any engine is known
USUAL_PLATFORM = "linux/amd64"


async def select_platform(connection: Connection, engine_id: str | None) -> str:
    """Return the platform of the engine; without one, that of the engine that was seen last."""
    row = await connection.fetchval(
        "SELECT platform FROM engines ORDER BY engine_id = $1 DESC NULLS LAST, last_seen_at DESC LIMIT 1", engine_id
    )
    return USUAL_PLATFORM if not row else str(row)


async def upsert_seen(connection: Connection, seen: Sequence[Seen]) -> None:
    """Record that these engines answer at their servers."""
    rows = sorted({(one.engine_id, one.server_id or ""): one for one in seen}.items())
    engines = {one.engine_id: one for _, one in rows}
    await connection.execute(
        """
        INSERT INTO engines (engine_id, name, version, platform, swarm_manager)
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::boolean[])
            ON CONFLICT (engine_id) DO UPDATE
           SET name = excluded.name, version = excluded.version, platform = excluded.platform,
               swarm_manager = excluded.swarm_manager, last_seen_at = now()
        """,
        list(engines),
        [one.name for one in engines.values()],
        [one.version for one in engines.values()],
        [one.platform for one in engines.values()],
        [one.swarm_manager for one in engines.values()],
    )
    places = [one for _, one in rows]
    registered = [one for one in places if one.server_id is not None]
    if registered:
        # The row of the server comes before that of its address: the removal of a server locks them in the same order.
        await connection.execute(
            """
            UPDATE servers s
               SET engine_id = seen.engine_id, error = NULL
              FROM unnest($1::text[], $2::text[]) AS seen (engine_id, server_id)
             WHERE s.server_id = seen.server_id AND (s.engine_id, s.error) IS DISTINCT FROM (seen.engine_id, NULL)
            """,
            [one.engine_id for one in registered],
            [one.server_id for one in registered],
        )
    await connection.execute(
        """
        INSERT INTO engine_addresses (engine_id, server_id, daemon, swarm_manager)
        SELECT engine_id, server_id, daemon, swarm_manager
          FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[])
            AS seen (engine_id, server_id, daemon, swarm_manager)
         WHERE server_id IS NULL OR EXISTS (SELECT FROM servers s WHERE s.server_id = seen.server_id)
            ON CONFLICT (engine_id, coalesce(server_id, '')) DO UPDATE
           SET daemon = excluded.daemon, swarm_manager = excluded.swarm_manager, last_seen_at = now()
        """,
        [one.engine_id for one in places],
        [one.server_id for one in places],
        [one.daemon for one in places],
        [one.swarm_manager for one in places],
    )


async def select_unseen(connection: Connection, within: timedelta) -> set[str]:
    """Return the servers at which no gateway has reached an engine in this time."""
    rows = await connection.fetch(
        """
        SELECT server_id
          FROM servers s
         WHERE s.changed_at < now() - $1::interval
           AND NOT EXISTS (
                   SELECT FROM engine_addresses r
                    WHERE r.server_id = s.server_id AND r.last_seen_at > now() - $1::interval
               )
        """,
        within,
    )
    return {row["server_id"] for row in rows}


async def select_swarm_manager(connection: Connection, application_id: str) -> bool:
    """Return whether the application's engine manages a Swarm; before it is bound, its server's engine, or any."""
    return bool(
        await connection.fetchval(
            """
            SELECT coalesce(
                       (SELECT bool_or(r.swarm_manager)
                          FROM engine_addresses r
                         WHERE r.server_id IS NOT DISTINCT FROM a.server_id
                           AND r.engine_id = coalesce(a.engine_id, s.engine_id, r.engine_id)),
                       (SELECT bool_or(e.swarm_manager)
                          FROM engines e
                         WHERE e.engine_id = coalesce(a.engine_id, s.engine_id, e.engine_id))
                   )
              FROM applications a
              LEFT JOIN servers s USING (server_id)
             WHERE a.application_id = $1
            """,
            application_id,
        )
    )


async def select_seen(connection: Connection, application_id: str, within: timedelta) -> bool:
    """Return whether a gateway has reached the application's engine recently."""
    return bool(
        await connection.fetchval(
            f"""
            SELECT {LAST_SEEN} > now() - $2::interval
              FROM applications a
              JOIN engines e USING (engine_id)
             WHERE a.application_id = $1
            """,  # noqa: S608 - a constant
            application_id,
            within,
        )
    )
