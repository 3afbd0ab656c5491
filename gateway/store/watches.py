"""Monitor windows: a new version is monitored for a while after its rollout."""

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime, timedelta

from gateway.model.deployments import Deployment, Kind, MonitorWindow
from gateway.store.database import Connection
from gateway.store.engines import Place

# No newer deployment is queued or running that replaces what is monitored. One that a release holds up does not count.
_UNTOUCHED = """
    NOT EXISTS (
        SELECT FROM deployments newer
         WHERE newer.application_id = w.application_id AND newer.status IN ('queued', 'running')
           AND NOT (
                   newer.status = 'queued'
               AND EXISTS (SELECT FROM release_members m WHERE m.application_id = w.application_id AND m.open)
               )
    )
"""


async def insert_watch(
    connection: Connection, deployment: Deployment, object_id: str, restarts: int, window: timedelta
) -> None:
    """Open the monitor window of a deployment. The caller has closed the window of the version before."""
    await connection.execute(
        """
        INSERT INTO watches (application_id, deployment_id, object_id, restarts, until, length)
        VALUES ($1, $2, $3, $4, now() + $5::interval, $5::interval)
        """,
        deployment.application_id,
        deployment.deployment_id,
        object_id,
        restarts,
        window,
    )


async def shorten_watches(connection: Connection) -> None:
    """Shorten the windows that end later than their length from now, because the clock was set back."""
    await connection.execute("UPDATE watches SET until = now() + length WHERE until > now() + length")


async def select_watches(connection: Connection) -> dict[Place, list[MonitorWindow]]:
    """Return the open windows of all engines, by where they are."""
    rows = await connection.fetch(
        f"""
        SELECT a.engine_id, a.server_id, w.application_id, w.deployment_id, d.kind, w.object_id, w.restarts, w.until
          FROM watches w
          JOIN applications a USING (application_id)
          JOIN deployments d USING (deployment_id)
         WHERE a.engine_id IS NOT NULL AND a.desired = 'running' AND w.until > now() AND {_UNTOUCHED}
        """  # noqa: S608 - a constant
    )
    found: defaultdict[Place, list[MonitorWindow]] = defaultdict(list)
    for engine_id, server_id, application_id, deployment_id, kind, object_id, restarts, until in rows:
        window = MonitorWindow(application_id, deployment_id, Kind(kind), object_id, restarts, until)
        found[Place(engine_id, server_id)].append(window)
    return found


async def delete_watches_of(connection: Connection, deployment_ids: Collection[str]) -> None:
    """Close the windows of these deployments."""
    await connection.execute("DELETE FROM watches WHERE deployment_id = ANY($1)", list(deployment_ids))


async def end_watch(connection: Connection, watch: MonitorWindow) -> bool:
    """Close the window after a failure; return False if it was closed. The caller holds the lock of the queue."""
    done = await connection.execute(
        f"DELETE FROM watches w WHERE w.application_id = $1 AND w.deployment_id = $2 AND {_UNTOUCHED}",  # noqa: S608
        watch.application_id,
        watch.deployment_id,
    )
    return bool(done == "DELETE 1")


async def select_window_end(connection: Connection, deployment_id: str) -> datetime | None:
    """Return the end of the deployment's window; None if none is open."""
    until: datetime | None = await connection.fetchval(
        "SELECT until FROM watches WHERE deployment_id = $1 AND until > now()", deployment_id
    )
    return until


async def delete_expired(connection: Connection) -> None:
    await connection.execute("DELETE FROM watches WHERE until < now()")


async def count_open(connection: Connection) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM watches WHERE until > now()"))
