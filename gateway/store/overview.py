"""What the dashboard shows of many applications at once."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from gateway.model.applications import Desired
from gateway.model.deployments import Status
from gateway.model.observations import State
from gateway.store.database import Connection
from gateway.store.observations import CURRENT, is_any_of


@dataclass(frozen=True, slots=True)
class OverviewRow:
    """An application: what it should run, what was observed, and how its last deployment ended."""

    application_id: str
    name: str
    app_name: str
    project: str
    environment: str
    server: str | None
    desired: Desired
    image: str | None
    #: the digest that its last successful deployment brought
    digest: str | None
    #: None before the first deployment
    observed: State | None
    detail: str | None
    since: datetime | None
    deployment_id: str | None
    outcome: Status | None
    reason: str | None
    ended_at: datetime | None


#: stands for the gateway's own engine, which is no server
OWN_ENGINE = "-"


@dataclass(frozen=True, slots=True)
class OverviewFilter:
    """Which applications to show; an empty text matches all. A state may be `trouble`, which is several, or `none`."""

    text: str = ""
    project_id: str = ""
    state: str = ""
    server_id: str = ""


_OBSERVED = f"CASE WHEN o.application_id IS NOT NULL THEN {CURRENT} END"
_TROUBLE = frozenset({State.UNHEALTHY, State.RESTARTING, State.MISSING, State.DRIFTED, State.UNKNOWN})


def _is_in(state: str) -> str:
    """Return the condition for a state, or for the words that stand for several and for none."""
    if state == "none":
        return "o.application_id IS NULL"
    return is_any_of(_TROUBLE if state == "trouble" else frozenset({State(state)}))


async def select_overview(
    connection: Connection, wanted: OverviewFilter, *, only: Collection[str] | None, limit: int, offset: int
) -> tuple[list[OverviewRow], int]:
    """Return a page of applications by name, and how many there are: of `only` these, where that is not None."""
    conditions: list[str] = ["a.desired <> 'deleted'"]
    if wanted.server_id == OWN_ENGINE:
        conditions.append("a.server_id IS NULL")
    if wanted.state:
        conditions.append(_is_in(wanted.state))
    given: list[object] = []
    for value, condition in (
        (None if only is None else list(only), "a.application_id = ANY({})"),
        (wanted.text or None, "strpos(lower(concat_ws(E'\\n', a.name, a.app_name, a.docker_image)), lower({})) > 0"),
        (wanted.project_id or None, "e.project_id = {}"),
        (wanted.server_id if wanted.server_id not in {"", OWN_ENGINE} else None, "a.server_id = {}"),
    ):
        if value is not None:
            given.append(value)
            conditions.append(condition.format(f"${len(given)}"))
    # Whatever no condition needs is not joined to count.
    matching = f"""
          FROM applications a
          LEFT JOIN observations o USING (application_id)
          LEFT JOIN environments e USING (environment_id)
          LEFT JOIN projects p USING (project_id)
         WHERE {" AND ".join(conditions)}
    """
    total: int = await connection.fetchval(f"SELECT count(*) {matching}", *given)
    rows = await connection.fetch(
        f"""
        WITH matching AS (
            SELECT a.application_id, a.name, a.app_name, p.name AS project, e.name AS environment, a.server_id,
                   a.desired, a.docker_image, {_OBSERVED} AS observed, o.detail, o.since
              {matching}
             ORDER BY lower(a.name), a.application_id
             LIMIT ${len(given) + 1} OFFSET ${len(given) + 2}
        )
        SELECT m.application_id, m.name, m.app_name, m.project, m.environment, s.name AS server, m.desired,
               m.docker_image AS image, ran.digest, m.observed, m.detail, m.since, last.deployment_id,
               last.status AS outcome, last.reason_message AS reason, last.finished_at AS ended_at
          FROM matching m
          LEFT JOIN servers s USING (server_id)
          LEFT JOIN LATERAL (
               SELECT deployment_id, status, reason_message, finished_at
                 FROM deployments d
                WHERE d.application_id = m.application_id
                  AND status NOT IN ('queued', 'running', 'superseded', 'cancelled')
                ORDER BY created_at DESC
                LIMIT 1
               ) AS last ON true
          LEFT JOIN LATERAL (
               SELECT digest
                 FROM deployments d
                WHERE d.application_id = m.application_id AND d.status = 'succeeded' AND d.replaced
                ORDER BY d.finished_at DESC
                LIMIT 1
               ) AS ran ON true
         ORDER BY lower(m.name), m.application_id
        """,  # noqa: S608 - constants
        *given,
        limit,
        offset,
    )
    found = []
    for row in rows:
        fields = dict(row)
        fields["desired"] = Desired(fields["desired"])
        fields["observed"] = fields["observed"] and State(fields["observed"])
        fields["outcome"] = fields["outcome"] and Status(fields["outcome"])
        found.append(OverviewRow(**fields))
    return found, total


@dataclass(frozen=True, slots=True)
class Change:
    """The visible state of one deployment: two that are equal look the same on a page."""

    application_id: str
    status: str
    reason: str | None
    attempts: int
    waits_for: str | None
    steps: int
    step: str | None


async def select_pending_changes(connection: Connection, limit: int) -> dict[str, Change]:
    """Return the visible states of the queued and running deployments, by id: of the newest `limit` of them."""
    rows = await connection.fetch(
        """
        SELECT d.deployment_id, d.application_id, d.status, d.reason_message AS reason, d.attempts, d.waits_for,
               coalesce(done.steps, 0) AS steps, done.step
          FROM deployments d
          LEFT JOIN LATERAL (
               SELECT count(*) AS steps, (array_agg(s.step || ' ' || s.detail ORDER BY s.epoch DESC, s.number DESC))[1]
                   AS step
                 FROM steps s
                WHERE s.deployment_id = d.deployment_id AND d.status = 'running'
               ) AS done ON true
         WHERE d.status IN ('queued', 'running')
         ORDER BY d.requested_at DESC
         LIMIT $1
        """,
        limit,
    )
    return {row["deployment_id"]: Change(*list(row.values())[1:]) for row in rows}


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest rows of lists. A list has changed if its newest row has."""

    deployment_id: str | None
    delivery_id: str | None
    observed: datetime | None
    #: number of the newest row of the audit: a person has changed something
    audited: int


async def select_newest(connection: Connection) -> Newest:
    row = await connection.fetchrow(
        """
        SELECT (SELECT deployment_id FROM deployments ORDER BY created_at DESC, deployment_id DESC LIMIT 1),
               (SELECT delivery_id FROM deliveries ORDER BY received_at DESC, delivery_id DESC LIMIT 1),
               (SELECT max(since) FROM observations),
               (SELECT coalesce(max(number), 0) FROM audit)
        """
    )
    return Newest(*row) if row is not None else Newest(None, None, None, 0)


async def select_audited_since(connection: Connection, number: int) -> list[str]:
    """Return the applications that a person has changed after this row of the audit."""
    rows = await connection.fetch(
        "SELECT DISTINCT application_id FROM audit WHERE number > $1 AND application_id IS NOT NULL LIMIT 1000", number
    )
    return [row["application_id"] for row in rows]


async def select_observed_since(connection: Connection, moment: datetime) -> list[str]:
    """Return the applications whose observed state has changed after this moment."""
    rows = await connection.fetch("SELECT application_id FROM observations WHERE since > $1 LIMIT 1000", moment)
    return [row["application_id"] for row in rows]
