"""Engines, known by the daemon's own id."""

from datetime import timedelta

from gateway.store.database import Connection


async def upsert_engine(
    connection: Connection, *, engine_id: str, name: str, version: str, platform: str, swarm_manager: bool
) -> None:
    """Write down that this engine answers."""
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


async def select_swarm_manager(connection: Connection, application_id: str) -> bool:
    """Tell whether the application's engine manages a Swarm; before it is bound, that its server's does, or any."""
    return bool(
        await connection.fetchval(
            """
            SELECT bool_or(engines.swarm_manager)
              FROM applications
              LEFT JOIN servers USING (server_id)
              JOIN engines
                ON engines.engine_id = coalesce(applications.engine_id, servers.engine_id, engines.engine_id)
             WHERE applications.application_id = $1
            """,
            application_id,
        )
    )


async def select_seen(connection: Connection, engine_id: str, within: timedelta) -> bool:
    """Tell whether any gateway has reached it of late."""
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM engines WHERE engine_id = $1 AND last_seen_at > now() - $2::interval)",
            engine_id,
            within,
        )
    )
