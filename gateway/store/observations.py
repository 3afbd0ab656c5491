"""Observed states of applications, written by the gateway that reaches their engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg

from gateway.model.applications import Desired
from gateway.model.observations import STALE_AFTER, ExpectedState, Observation, ObservedState, State
from gateway.store.database import Connection
from gateway.store.engines import AT_SERVERS
from gateway.store.queue import AT_GATE

_TOUCHED = timedelta(seconds=30)  # after which an unchanged row is written again
_WELL = timedelta(minutes=5)  # after which an alert is sent again

_FRESH = f"o.observed_at > now() - interval '{STALE_AFTER.seconds} seconds'"

#: the state of the row `o`, for a statement that joins it
CURRENT = f"CASE WHEN {_FRESH} THEN o.state::text ELSE 'unknown' END"


def is_any_of(states: frozenset[State]) -> str:
    """Return the condition that CURRENT is one of these states, in a form whose rows PostgreSQL can estimate."""
    names = ", ".join(f"'{one}'" for one in sorted(states - {State.UNKNOWN}))
    known = f"o.state IN ({names})" if names else "false"
    return f"({known} OR NOT {_FRESH})" if State.UNKNOWN in states else f"({known} AND {_FRESH})"


@dataclass(frozen=True, slots=True)
class Standing:
    """How long the state has lasted, and `notified`, the state of the last alert."""

    state: State
    lasted: timedelta
    notified: State | None
    since_healed: timedelta | None


async def select_expected(
    connection: Connection, engine_id: str, server_ids: Sequence[str | None], *, application_id: str | None = None
) -> tuple[list[ExpectedState], datetime]:
    """Return the applications that should run on the engine of these servers, and the time of this statement.

    With `application_id`, returns at most that application.
    """
    rows = await connection.fetch(
        f"""
        SELECT a.application_id, a.name, a.app_name, a.desired,
               coalesce((a.configuration ->> 'heal')::boolean, false) AS heal,
               served.deployment_id IS NULL OR (served.kind = 'rollback' AND served.rolls_back_to IS NULL)
                   AS as_adopted,
               CASE WHEN served.kind = 'rollback' THEN served.rolls_back_to ELSE served.deployment_id END
                   AS deployment_id,
               served.digest, served.spec_hash,
               (SELECT installation_id FROM installation) AS installation_id,
               EXISTS (SELECT FROM deployments r WHERE r.application_id = a.application_id AND r.status = 'running')
                   AS has_running_deployment,
               EXISTS (SELECT FROM deployments w
                        WHERE w.application_id = a.application_id AND w.status = 'queued' AND NOT {AT_GATE})
                   AS has_queued_deployment,
               EXISTS (SELECT FROM swaps s WHERE s.application_id = a.application_id)
                   OR EXISTS (
                          SELECT FROM watches w WHERE w.application_id = a.application_id AND w.until > now()
                      ) AS is_monitored,
               EXISTS (
                   SELECT FROM gates g WHERE g.kind = 'promotion' AND g.rule ->> 'follows' = a.application_id
               ) AS is_followed,
               statement_timestamp() AS as_of
          FROM applications a
          LEFT JOIN LATERAL (
               SELECT deployment_id, kind, rolls_back_to, digest, spec_hash
                 FROM deployments d
                WHERE d.application_id = a.application_id AND d.status = 'succeeded' AND d.replaced
                ORDER BY d.finished_at DESC
                LIMIT 1
               ) AS served ON true
         WHERE a.engine_id = $1 AND {AT_SERVERS} AND a.desired <> 'deleted'
           AND (served.deployment_id IS NOT NULL OR a.base IS NOT NULL)
           AND ($3::text IS NULL OR a.application_id = $3)
        """,  # noqa: S608 - a constant
        engine_id,
        [server_id or "" for server_id in server_ids],
        application_id,
    )
    if not rows:
        return [], await connection.fetchval("SELECT clock_timestamp()")
    *names, _ = rows[0].keys()
    found = [{name: row[name] for name in names} for row in rows]
    return [ExpectedState(**{**one, "desired": Desired(one["desired"])}) for one in found], rows[0]["as_of"]


async def upsert_observations(
    connection: Connection, found: Mapping[str, ObservedState], as_of: datetime
) -> dict[str, Standing]:
    """Store the observed states, and return how long they have lasted.

    An application is left out if one of its deployments runs, or has ended since `as_of`: its expected state, which was
    read then, may be out of date.
    """
    rows = await connection.fetch(
        """
        WITH found AS (
            SELECT f.application_id, f.state::observed AS state, f.detail
              FROM unnest($1::text[], $2::text[], $3::text[]) AS f (application_id, state, detail)
              JOIN applications a USING (application_id)
             WHERE NOT EXISTS (
                       SELECT FROM deployments d
                        WHERE d.application_id = f.application_id AND (d.status = 'running' OR d.finished_at > $4)
                   )
        ),
        written AS (
            INSERT INTO observations AS o (application_id, state, detail)
            SELECT application_id, state, detail FROM found ORDER BY application_id
                ON CONFLICT (application_id) DO UPDATE
               SET state = excluded.state, detail = excluded.detail, observed_at = now(),
                   since = CASE WHEN o.state = excluded.state THEN o.since ELSE now() END
             WHERE (o.state, o.detail) IS DISTINCT FROM (excluded.state, excluded.detail)
                OR o.observed_at < now() - $5::interval
            RETURNING application_id, since
        )
        SELECT f.application_id, f.state::text, o.told::text, now() - o.healed_at AS since_healed,
               now() - coalesce(w.since, o.since, now()) AS lasted
          FROM found f
          LEFT JOIN written w USING (application_id)
          LEFT JOIN observations o USING (application_id)
        """,
        list(found),
        [one.state for one in found.values()],
        [one.detail for one in found.values()],
        as_of,
        _TOUCHED,
    )
    return {row["application_id"]: _standing(row) for row in rows}


def _standing(row: asyncpg.Record) -> Standing:
    notified = row["told"]
    return Standing(
        State(row["state"]), row["lasted"], None if notified is None else State(notified), row["since_healed"]
    )


async def mark_notified(connection: Connection, application_id: str, state: State) -> bool:
    """Record that an alert of this state is sent; return False if another gateway has sent it."""
    done = await connection.execute(
        "UPDATE observations SET told = $2 WHERE application_id = $1 AND state = $2 AND told IS DISTINCT FROM $2",
        application_id,
        state,
    )
    return bool(done == "UPDATE 1")


async def forget_notified(connection: Connection, application_id: str) -> bool:
    """Allow another alert for an application that has been healthy for a while. Return False if it was allowed."""
    done = await connection.execute(
        """
        UPDATE observations SET told = NULL
         WHERE application_id = $1 AND told IS NOT NULL AND since < now() - $2::interval
        """,
        application_id,
        _WELL,
    )
    return bool(done == "UPDATE 1")


async def mark_healed(connection: Connection, application_id: str, pause: timedelta) -> bool:
    """Record a repair now; return False if the last one was too recent."""
    done = await connection.execute(
        """
        UPDATE observations SET healed_at = now()
         WHERE application_id = $1 AND (healed_at IS NULL OR healed_at < now() - $2::interval)
        """,
        application_id,
        pause,
    )
    return bool(done == "UPDATE 1")


async def select_observations(connection: Connection, application_ids: Sequence[str]) -> dict[str, Observation]:
    """Return the observed states of these applications; one without a recent observation is unknown."""
    rows = await connection.fetch(
        f"""
        SELECT application_id, {CURRENT} AS state, detail, since, observed_at
          FROM observations o
         WHERE application_id = ANY($1)
        """,  # noqa: S608 - a constant
        application_ids,
    )
    return {
        row["application_id"]: Observation(State(row["state"]), row["detail"], row["since"], row["observed_at"])
        for row in rows
    }


@dataclass(frozen=True, slots=True)
class NamedState:
    """An application by its name, what is wanted of it, and how it was last seen."""

    application_id: str
    name: str
    desired: Desired
    state: State


async def select_oldest(connection: Connection, most: int) -> list[NamedState]:
    """Return the oldest applications, at most so many."""
    rows = await connection.fetch(
        f"""
        SELECT application_id, a.name, a.desired::text, coalesce({CURRENT}, 'unknown') AS state
          FROM applications a
          LEFT JOIN observations o USING (application_id)
         WHERE a.desired <> 'deleted'
         ORDER BY a.created_at, application_id
         LIMIT $1
        """,  # noqa: S608 - a constant
        most,
    )
    return [
        NamedState(row["application_id"], row["name"], Desired(row["desired"]), State(row["state"])) for row in rows
    ]


async def count_states(connection: Connection) -> dict[State, int]:
    rows = await connection.fetch(f"SELECT {CURRENT} AS state, count(*) AS n FROM observations o GROUP BY 1")  # noqa: S608
    return {State(row["state"]): row["n"] for row in rows}
