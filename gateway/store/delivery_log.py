"""Read the inbox, and delete from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import asyncpg

from gateway.model.deliveries import CausedDeployment, Delivery, Verdict
from gateway.model.deployments import Status
from gateway.model.errors import NotFound
from gateway.model.events import Ignored
from gateway.store.database import Connection
from gateway.store.pagination import FIRST, Cursor, Page

_AT_ONCE = 1000  # rows for one statement

#: verdicts that are stored
_STORED = [Verdict.QUEUED, Verdict.IGNORED, Verdict.DUPLICATE, Verdict.REJECTED]
#: verdicts that are derived from the deployments of a delivery
_DERIVED = frozenset({Verdict.QUEUED, Verdict.DEPLOYED, Verdict.SUPERSEDED, Verdict.FAILED})

_COLUMNS = """
    d.delivery_id, d.endpoint_id, d.source, d.received_at, d.verdict, d.ignored, d.duplicate_of, d.replay_of, d.times,
    d.refusal IS NOT NULL AS refused, d.headers, octet_length(d.body) AS size, d.ended::text[]
"""
_CAUSED = """
    ARRAY(SELECT ARRAY[deployment_id, application_id, status::text]
            FROM deployment_deliveries l JOIN deployments USING (deployment_id)
           WHERE l.delivery_id = d.delivery_id
           ORDER BY application_id) AS caused
"""


def _from_row(row: asyncpg.Record) -> Delivery:
    return Delivery(
        delivery_id=row["delivery_id"],
        endpoint_id=row["endpoint_id"],
        source=row["source"],
        received_at=row["received_at"],
        initial_verdict=Verdict(row["verdict"]),
        ignored=tuple(Ignored(item["reference"], item["reason"]) for item in row["ignored"]),
        duplicate_of=row["duplicate_of"],
        replay_of=row["replay_of"],
        times=row["times"],
        unauthenticated=row["refused"],
        headers=row["headers"],
        size=row["size"],
        pruned_outcomes=tuple(Status(one) for one in row["ended"]),
        caused=tuple(CausedDeployment(one[0], one[1], Status(one[2])) for one in row["caused"]),
    )


async def select_inbox(
    connection: Connection,
    *,
    endpoint_id: str | None = None,
    source: str | None = None,
    verdict: Verdict | None = None,
    page: Page = FIRST,
) -> tuple[list[Delivery], Cursor | None]:
    """Return a page of one endpoint, source or verdict, or of all, and where the next one begins.

    A verdict that depends on the state of the deployments is searched among a thousand rows at a time: such a page may
    have few rows although another page follows.
    """
    derived = verdict in _DERIVED
    wanted = Page(max(_AT_ONCE, page.limit), page.after) if derived else page
    stored = [Verdict.QUEUED] if derived else _STORED if verdict is None else [verdict]
    which, given = _narrowed(endpoint_id, source, [str(one) for one in stored])
    rows = await connection.fetch(
        f"""
        WITH newest AS MATERIALIZED ({which})
        SELECT *, {_CAUSED} FROM newest d ORDER BY received_at DESC, delivery_id DESC
        """,  # noqa: S608 - constants
        *wanted.bounds,
        *given,
    )
    found = [_from_row(row) for row in rows]
    if not derived:
        return found, page.next(found, _place)
    fitting = [one for one in found if one.verdict is verdict]
    if len(fitting) > page.limit:
        return fitting[: page.limit], Cursor(*_place(fitting[page.limit - 1]))
    return fitting, wanted.next(found, _place)


def _place(delivery: Delivery) -> tuple[datetime, str]:
    return delivery.received_at, delivery.delivery_id


def _narrowed(endpoint_id: str | None, source: str | None, verdicts: list[str]) -> tuple[str, list[object]]:
    """Return the statement for the rows of a page, and its parameters from $4 on. Each reads one index in order."""
    newest = "ORDER BY d.received_at DESC, d.delivery_id DESC LIMIT $3"
    if endpoint_id is None and source is None and len(verdicts) == len(_STORED):
        return f"SELECT {_COLUMNS} FROM deliveries d WHERE (received_at, delivery_id) < ($1, $2) {newest}", []  # noqa: S608
    column = "endpoint_id" if endpoint_id is not None else "source" if source is not None else None
    given: list[object] = [verdicts]
    narrowing = ""
    if column is not None:
        narrowing = f"AND d.{column} = $5"
        given.append(endpoint_id if column == "endpoint_id" else source)
    if column == "endpoint_id" and source is not None:
        narrowing += " AND d.source = $6"
        given.append(source)
    each = f"""
        SELECT d.*
          FROM unnest($4::verdict[]) AS wanted (verdict)
         CROSS JOIN LATERAL (
               SELECT {_COLUMNS}
                 FROM deliveries d
                WHERE d.verdict = wanted.verdict {narrowing} AND (d.received_at, d.delivery_id) < ($1, $2)
                {newest}
               ) AS d
         {newest}
        """  # noqa: S608 - constants
    return each, given


async def select_delivery(connection: Connection, delivery_id: str) -> tuple[Delivery, bytes]:
    """Return a delivery and its body. Raises NotFound."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS}, {_CAUSED}, body FROM deliveries d WHERE delivery_id = $1",  # noqa: S608 - constants
        delivery_id,
    )
    if row is None:
        raise NotFound(f"there is no delivery {delivery_id!r}; see: gateway deliveries list")
    return _from_row(row), row["body"]


async def select_of_deployment(
    connection: Connection, deployment_id: str, *, most: int
) -> list[tuple[Delivery, bytes]]:
    """Return the newest deliveries that led to a deployment and have a body, with their bodies."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS}, {_CAUSED}, body
          FROM deliveries d
         WHERE delivery_id IN (SELECT delivery_id FROM deployment_deliveries WHERE deployment_id = $1)
           AND octet_length(d.body) > 0
         ORDER BY received_at DESC, delivery_id DESC
         LIMIT $2
        """,  # noqa: S608 - constants
        deployment_id,
        most,
    )
    return [(_from_row(row), row["body"]) for row in rows]


@dataclass(slots=True)
class Refusals:
    """How often an endpoint refused requests for one reason, and the headers of the last one."""

    endpoint_id: str
    source: str
    reason: str
    times: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)


async def add_refusals(connection: Connection, refusals: Sequence[Refusals]) -> None:
    """Count refusals in one row for each endpoint, reason and hour. Those of deleted endpoints are dropped."""
    await connection.execute(
        """
        INSERT INTO deliveries AS d (endpoint_id, source, refusal, hour, times, headers, body, verdict, ignored)
        SELECT r.endpoint_id, r.source, r.reason, date_trunc('hour', now()), r.times, r.headers, '', 'rejected',
               jsonb_build_array(jsonb_build_object('reference', '', 'reason', r.reason))
          FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::jsonb[])
            AS r (endpoint_id, source, reason, times, headers)
          JOIN endpoints e USING (endpoint_id)
         ORDER BY endpoint_id, r.reason
           FOR KEY SHARE OF e
            ON CONFLICT (endpoint_id, refusal, hour) DO UPDATE
           SET times = d.times + excluded.times, headers = excluded.headers, received_at = now()
        """,
        [one.endpoint_id for one in refusals],
        [one.source for one in refusals],
        [one.reason for one in refusals],
        [one.times for one in refusals],
        [dict(one.headers) for one in refusals],
    )


async def delete_rejected_beyond(connection: Connection, endpoint_id: str, kept: int) -> None:
    """Delete all but the newest rejected deliveries of an endpoint."""
    await connection.execute(
        """
        DELETE FROM deliveries
         WHERE delivery_id IN (
               SELECT delivery_id
                 FROM deliveries
                WHERE endpoint_id = $1 AND verdict = 'rejected'
                ORDER BY received_at DESC
               OFFSET $2
               )
        """,
        endpoint_id,
        kept,
    )


async def delete_expired(connection: Connection, older_than: timedelta) -> bool:
    """Delete the oldest expired deliveries; return whether there may be more."""
    done = await connection.execute(
        """
        DELETE FROM deliveries
         WHERE delivery_id IN (
               SELECT delivery_id
                 FROM deliveries
                WHERE received_at < now() - $1::interval
                ORDER BY received_at
                LIMIT $2
               )
        """,
        older_than,
        _AT_ONCE,
    )
    return done == f"DELETE {_AT_ONCE}"
