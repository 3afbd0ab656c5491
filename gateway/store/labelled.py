"""Decisions on the containers and services that ask for adoption by labels, and the applications adopted so."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from gateway.store.database import Connection
from gateway.store.engines import AT_SERVERS, Place
from gateway.store.queue import AT_GATE

#: for how long a container is remembered that the engine no longer lists: it may be renamed, or the list incomplete
_REMEMBERED = timedelta(minutes=10)
_AT_SERVERS = AT_SERVERS.replace("a.", "o.")

# Whether a deployment of the application `a` runs or is about to, or has left a swap open.
_BUSY = f"""
    (EXISTS (SELECT FROM deployments w
              WHERE w.application_id = a.application_id
                AND (w.status = 'running' OR w.status = 'queued' AND NOT {AT_GATE}))
     OR EXISTS (SELECT FROM swaps s WHERE s.application_id = a.application_id))
"""  # noqa: S608 - a constant


class Paused(StrEnum):
    """Why pushes do not deploy an application that was adopted by labels."""

    MONITOR_ONLY = "monitor-only"
    UNLABELLED = "unlabelled"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided on a container or service. Without an application, it was left alone.

    `was_gone`: an earlier list of what has a label did not contain it.
    """

    labels_hash: str
    application_id: str | None
    decided_at: datetime
    age: timedelta
    was_gone: bool


@dataclass(frozen=True, slots=True)
class LabelledApplication:
    """An application that was adopted by labels. `missing_for`: for how long no container has had its name."""

    application_id: str
    app_name: str
    auto_deploy: bool
    paused: Paused | None
    is_busy: bool
    missing_for: timedelta | None


@dataclass(frozen=True, slots=True)
class NamedApplication:
    """An application with a certain name of its container."""

    application_id: str
    app_name: str
    server_id: str | None
    is_busy: bool


async def select_decisions(
    connection: Connection, engine_id: str, server_ids: Sequence[str | None]
) -> dict[str, Decision]:
    """Return what was decided on the engine of these servers, by the id of the container or service."""
    rows = await connection.fetch(
        f"""
        SELECT object_id, labels_hash, application_id, decided_at, now() - decided_at AS age,
               gone_at IS NOT NULL AS was_gone
          FROM labelled_objects o
         WHERE engine_id = $1 AND {_AT_SERVERS}
        """,  # noqa: S608 - a constant
        engine_id,
        [server_id or "" for server_id in server_ids],
    )
    return {row.pop("object_id"): Decision(**row) for row in map(dict, rows)}


async def select_applications(
    connection: Connection, engine_id: str, server_ids: Sequence[str | None]
) -> tuple[list[LabelledApplication], datetime]:
    """Return the applications that labels adopted on the engine of these servers, and the time of this statement."""
    rows = await connection.fetch(
        f"""
        SELECT a.application_id, a.app_name, a.auto_deploy, l.paused, {_BUSY} AS is_busy,
               now() - l.missing_since AS missing_for
          FROM labelled_applications l
          JOIN applications a USING (application_id)
         WHERE a.engine_id = $1 AND {AT_SERVERS} AND a.desired <> 'deleted'
        """,  # noqa: S608 - constants
        engine_id,
        [server_id or "" for server_id in server_ids],
    )
    as_of: datetime = await connection.fetchval("SELECT clock_timestamp()")
    found = [{**row, "paused": None if row["paused"] is None else Paused(row["paused"])} for row in rows]
    return [LabelledApplication(**one) for one in found], as_of


async def select_named(
    connection: Connection, app_names: Collection[str], server_ids: Sequence[str | None]
) -> dict[str, NamedApplication]:
    """Return the applications at these servers whose container has one of these names, by that name."""
    rows = await connection.fetch(
        f"""
        SELECT application_id, app_name, server_id, desired = 'deleted' OR {_BUSY} AS is_busy
          FROM applications a
         WHERE app_name = ANY($1) AND {AT_SERVERS}
        """,  # noqa: S608 - constants
        list(app_names),
        [server_id or "" for server_id in server_ids],
    )
    return {row["app_name"]: NamedApplication(**row) for row in rows}


async def select_names(connection: Connection, application_ids: Collection[str | None]) -> dict[str, str]:
    """Return the names of the containers of these applications, by id."""
    rows = await connection.fetch(
        "SELECT application_id, app_name FROM applications WHERE application_id = ANY($1)",
        [one for one in application_ids if one is not None],
    )
    return {row["application_id"]: row["app_name"] for row in rows}


async def is_busy(connection: Connection, application_id: str) -> bool:
    """Tell whether a deployment of the application runs or is about to, or whether it is being deleted."""
    return bool(
        await connection.fetchval(
            f"SELECT desired = 'deleted' OR {_BUSY} FROM applications a WHERE application_id = $1",  # noqa: S608
            application_id,
        )
    )


async def select_same_named(connection: Connection, app_name: str, engine_id: str, *, is_service: bool) -> list[str]:
    """Return the applications with this name of their container, on the engine, at any of its servers.

    Of a service, also those on other managers: they may be of the same Swarm.
    """
    rows = await connection.fetch(
        """
        SELECT application_id
          FROM applications
         WHERE app_name = $1 AND base IS NOT NULL
           AND (engine_id = $2 OR ($3 AND engine_id IN (SELECT engine_id FROM engines WHERE swarm_manager)))
         ORDER BY application_id
        """,
        app_name,
        engine_id,
        is_service,
    )
    return [row["application_id"] for row in rows]


async def lock_object(connection: Connection, object_id: str) -> None:
    """Lock this container or service against another adoption by labels until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 14))", object_id)


async def begin_decision(
    connection: Connection, place: Place, object_id: str, *, name: str, labels_hash: str, known: Decision | None
) -> bool:
    """Reserve the decision on a container or service until the transaction ends; False if another gateway decided.

    `known` is the decision that this one replaces.
    """
    if known is None:
        done = await connection.execute(
            """
            INSERT INTO labelled_objects (engine_id, server_id, object_id, name, labels_hash)
            VALUES ($1, $2, $3, $4, $5)
                ON CONFLICT DO NOTHING
            """,
            *place,
            object_id,
            name,
            labels_hash,
        )
        return bool(done == "INSERT 0 1")
    done = await connection.execute(
        """
        UPDATE labelled_objects
           SET name = $4, labels_hash = $5, decided_at = now(), gone_at = NULL
         WHERE engine_id = $1 AND server_id IS NOT DISTINCT FROM $2 AND object_id = $3
           AND decided_at = $6
        """,
        *place,
        object_id,
        name,
        labels_hash,
        known.decided_at,
    )
    return bool(done == "UPDATE 1")


async def end_decision(
    connection: Connection, place: Place, object_id: str, *, application_id: str | None, reason: str = ""
) -> bool:
    """Record the decision; return whether its reason differs from the one before."""
    before = await connection.fetchval(
        """
        SELECT reason FROM labelled_objects
         WHERE engine_id = $1 AND server_id IS NOT DISTINCT FROM $2 AND object_id = $3
        """,
        *place,
        object_id,
    )
    await connection.execute(
        """
        UPDATE labelled_objects
           SET application_id = $4, reason = $5
         WHERE engine_id = $1 AND server_id IS NOT DISTINCT FROM $2 AND object_id = $3
        """,
        *place,
        object_id,
        application_id,
        reason,
    )
    return bool(before != reason)


async def forget_gone(
    connection: Connection, engine_id: str, server_ids: Sequence[str | None], there: Collection[str]
) -> None:
    """Delete, after a while, the decisions on what the engine no longer has."""
    at = [server_id or "" for server_id in server_ids]
    await connection.execute(
        f"""
        UPDATE labelled_objects o
           SET gone_at = CASE WHEN object_id = ANY($3) THEN NULL ELSE now() END
         WHERE engine_id = $1 AND {_AT_SERVERS} AND (gone_at IS NULL) <> (object_id = ANY($3))
        """,  # noqa: S608 - a constant
        engine_id,
        at,
        list(there),
    )
    await connection.execute(
        f"DELETE FROM labelled_objects o WHERE engine_id = $1 AND {_AT_SERVERS} AND gone_at < now() - $3::interval",  # noqa: S608
        engine_id,
        at,
        _REMEMBERED,
    )


# -- the applications


async def select_subscription(connection: Connection, application_id: str) -> tuple[bool, str | None, Paused | None]:
    """Return whether labels adopted the application, its subscription for gateway.follow, and why it is paused."""
    row = await connection.fetchrow(
        "SELECT subscription_id, paused FROM labelled_applications WHERE application_id = $1", application_id
    )
    if row is None:
        return False, None, None
    return True, row["subscription_id"], None if row["paused"] is None else Paused(row["paused"])


async def upsert_application(
    connection: Connection,
    application_id: str,
    *,
    subscription_id: str | None,
    not_carried: Sequence[str],
    paused: Paused | None,
) -> None:
    """Record that labels adopted the application, or adopted it again."""
    await connection.execute(
        """
        INSERT INTO labelled_applications (application_id, subscription_id, not_carried, paused)
        VALUES ($1, $2, $3, $4)
            ON CONFLICT (application_id) DO UPDATE
           SET subscription_id = $2, not_carried = $3, paused = $4, missing_since = NULL, adopted_at = now()
        """,
        application_id,
        subscription_id,
        list(not_carried),
        paused,
    )


async def mark_missing(connection: Connection, missing: Mapping[str, bool]) -> None:
    """Record for each application that its container is missing since now, or that it is back."""
    await connection.execute(
        """
        UPDATE labelled_applications l
           SET missing_since = CASE WHEN m.missing THEN coalesce(l.missing_since, now()) END
          FROM unnest($1::text[], $2::boolean[]) AS m (application_id, missing)
         WHERE l.application_id = m.application_id AND (l.missing_since IS NULL) = m.missing
        """,
        list(missing),
        list(missing.values()),
    )


async def pause(connection: Connection, application_id: str, why: Paused, as_of: datetime) -> bool:
    """Keep pushes from deploying the application. Return False if a deployment has run since `as_of`.

    The caller holds the lock of its queue.
    """
    done = await connection.execute(
        """
        UPDATE labelled_applications l
           SET paused = $2
          FROM applications a
         WHERE l.application_id = $1 AND a.application_id = $1 AND l.paused IS NULL AND a.auto_deploy
           AND NOT EXISTS (
                   SELECT FROM deployments d
                    WHERE d.application_id = $1 AND (d.status = 'running' OR d.finished_at > $3)
               )
           AND NOT EXISTS (SELECT FROM swaps s WHERE s.application_id = $1)
        """,
        application_id,
        why,
        as_of,
    )
    return bool(done == "UPDATE 1")


async def resume(connection: Connection, application_id: str) -> bool:
    """Let pushes deploy the application again; False if it was not paused because its labels were gone."""
    done = await connection.execute(
        """
        UPDATE labelled_applications
           SET paused = NULL, missing_since = NULL
         WHERE application_id = $1 AND paused IN ('unlabelled', 'gone')
        """,
        application_id,
    )
    return bool(done == "UPDATE 1")


@dataclass(frozen=True, slots=True)
class Discovered:
    """A container or service with a label, and whether it was adopted: if not, `application_id` is None."""

    name: str
    server_id: str | None
    application_id: str | None
    #: whether the application is still there
    exists: bool
    paused: Paused | None
    reason: str
    not_carried: Sequence[str]
    at: datetime


async def select_discovered(connection: Connection, most: int) -> list[Discovered]:
    """Return the applications that were adopted by labels, and all else that has labels now: at most `most`."""
    rows = await connection.fetch(
        """
        SELECT a.app_name AS name, a.server_id, a.application_id, true AS exists, l.paused, '' AS reason,
               l.not_carried, l.adopted_at AS at
          FROM labelled_applications l
          JOIN applications a USING (application_id)
         WHERE a.desired <> 'deleted'
         UNION ALL
        SELECT o.name, o.server_id, o.application_id,
               EXISTS (SELECT FROM applications a
                        WHERE a.application_id = o.application_id AND a.desired <> 'deleted'), NULL, o.reason, '{}',
               o.decided_at
          FROM labelled_objects o
         WHERE o.gone_at IS NULL
           AND NOT EXISTS (SELECT FROM labelled_applications l WHERE l.application_id = o.application_id)
         ORDER BY name, at
         LIMIT $1
        """,
        most,
    )
    found = [{**row, "paused": None if row["paused"] is None else Paused(row["paused"])} for row in rows]
    return [Discovered(**one) for one in found]
