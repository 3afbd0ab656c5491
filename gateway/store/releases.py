"""Releases and their members. A change of a release locks its row, and then the rows of its applications."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from gateway.model.deployments import Deployment, Kind, Status
from gateway.model.errors import Code, NotFound, Reason
from gateway.model.releases import ENDED, Member, MemberState, Progress, ReleaseState
from gateway.store.database import Connection
from gateway.store.pagination import FIRST, Page

CHANNEL = "gateway_releases"

_COLUMNS = """
    release_id, group_id, environment_id, name, title, state, asked_by, asked_key, created_at, cancelled_at,
    abandoned_at, finished_at, reason_code, reason_message
"""


@dataclass(frozen=True, slots=True)
class Release:
    """A row."""

    release_id: str
    group_id: str | None
    environment_id: str | None
    #: of the group or the environment, when it was created
    name: str
    title: str
    state: ReleaseState
    asked_by: str | None
    asked_key: str | None
    created_at: datetime
    cancelled_at: datetime | None
    abandoned_at: datetime | None
    finished_at: datetime | None
    reason: Reason | None

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def progress(self, members: Sequence["ReleaseMember"]) -> Progress:
        return Progress(
            self.state,
            self.reason,
            None if self.cancelled_at is None else "a person",
            self.abandoned_at is not None,
            [one.member for one in members],
        )


@dataclass(frozen=True, slots=True)
class ReleaseMember:
    """A member, with the deployments that bring it forward, put it back, or wait for the end of the release."""

    member: Member
    deployment_id: str | None
    digest: str | None
    back_id: str | None
    successor_id: str | None

    @property
    def application_id(self) -> str:
        return self.member.application_id


def _release(row: asyncpg.Record) -> Release:
    values = dict(row)
    code, message = values.pop("reason_code"), values.pop("reason_message")
    reason = None if code is None else Reason(Code.parse(code), message)
    return Release(**{**values, "state": ReleaseState(row["state"]), "reason": reason})


async def notify(connection: Connection) -> None:
    """Notify the gateways that an open release may have to be advanced."""
    await connection.execute(f"NOTIFY {CHANNEL}")


# -- releases


async def insert_release(
    connection: Connection,
    *,
    name: str,
    title: str,
    waves: Mapping[str, int],
    group_id: str | None = None,
    environment_id: str | None = None,
) -> str:
    """Insert a release of these applications and their waves; return its id. The caller holds their locks."""
    release_id = str(
        await connection.fetchval(
            """
            INSERT INTO releases (group_id, environment_id, name, title) VALUES ($1, $2, $3, $4)
            RETURNING release_id
            """,
            group_id,
            environment_id,
            name,
            title,
        )
    )
    await connection.execute(
        """
        INSERT INTO release_members (release_id, application_id, wave)
        SELECT $1, application_id, wave FROM unnest($2::text[], $3::integer[]) AS m (application_id, wave)
        """,
        release_id,
        list(waves),
        list(waves.values()),
    )
    return release_id


async def select_release(connection: Connection, release_id: str) -> Release:
    """Return a release. Raises NotFound."""
    row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM releases WHERE release_id = $1", release_id)  # noqa: S608
    if row is None:
        raise NotFound("Release not found")
    return _release(row)


async def lock_release(connection: Connection, release_id: str) -> Release:
    """Return a release and lock it. Raises NotFound."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM releases WHERE release_id = $1 FOR NO KEY UPDATE",  # noqa: S608
        release_id,
    )
    if row is None:
        raise NotFound("Release not found")
    return _release(row)


async def lock_if_open(connection: Connection, release_id: str) -> Release | None:
    """Return a release and lock it; None where it has ended, or another gateway has locked it."""
    row = await connection.fetchrow(
        f"""
        SELECT {_COLUMNS} FROM releases
         WHERE release_id = $1 AND finished_at IS NULL
           FOR NO KEY UPDATE SKIP LOCKED
        """,  # noqa: S608
        release_id,
    )
    return None if row is None else _release(row)


async def select_any(connection: Connection) -> bool:
    """Tell whether there is an open release, or a group that gathers pushes."""
    return bool(
        await connection.fetchval(
            """
            SELECT EXISTS (SELECT FROM releases WHERE finished_at IS NULL)
                OR EXISTS (SELECT FROM release_members WHERE open)
                OR EXISTS (SELECT FROM group_members WHERE gathers)
            """
        )
    )


async def select_open(connection: Connection) -> list[str]:
    """Return the releases that have not ended, the oldest first."""
    rows = await connection.fetch("SELECT release_id FROM releases WHERE finished_at IS NULL ORDER BY created_at")
    return [row["release_id"] for row in rows]


async def select_releases(
    connection: Connection, page: Page = FIRST, *, group_id: str | None = None, only: Collection[str] | None = None
) -> list[Release]:
    """Return a page of releases, newest first: of all, or of one group; with `only`, whose members are all of these."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS}
          FROM releases r
         WHERE (created_at, release_id) < ($1, $2) AND ($4::text IS NULL OR group_id = $4)
           AND ($5::text[] IS NULL OR NOT EXISTS (
                   SELECT FROM release_members m WHERE m.release_id = r.release_id AND m.application_id <> ALL($5)
               ) AND EXISTS (SELECT FROM release_members m WHERE m.release_id = r.release_id))
         ORDER BY created_at DESC, release_id DESC
         LIMIT $3
        """,  # noqa: S608
        *page.bounds,
        group_id,
        None if only is None else list(only),
    )
    return [_release(row) for row in rows]


def place(release: Release) -> tuple[datetime, str]:
    """Return the cursor of a release."""
    return release.created_at, release.release_id


async def update_state(connection: Connection, release_id: str, state: ReleaseState, reason: Reason | None) -> None:
    """Record the new state of a release. When it ends, its applications are free for other deployments."""
    await connection.execute(
        """
        UPDATE releases
           SET state = $2, reason_code = $3, reason_message = $4,
               finished_at = CASE WHEN $5 THEN clock_timestamp() END
         WHERE release_id = $1
        """,
        release_id,
        state,
        reason.code if reason else None,
        reason.message if reason else None,
        state in ENDED,
    )
    if state in ENDED:
        await connection.execute("UPDATE release_members SET open = false WHERE release_id = $1", release_id)


async def request_cancel(connection: Connection, release_id: str, *, abandon: bool) -> None:
    """Record that a person wants the release put back; with `abandon`, ended as it is."""
    await connection.execute(
        """
        UPDATE releases
           SET cancelled_at = coalesce(cancelled_at, now()),
               abandoned_at = CASE WHEN $2 THEN coalesce(abandoned_at, now()) ELSE abandoned_at END
         WHERE release_id = $1
        """,
        release_id,
        abandon,
    )


async def select_open_of(
    connection: Connection, application_ids: Collection[str], *, state: ReleaseState | None = None
) -> dict[str, str]:
    """Return the open releases of these applications, by application: all, or those in this state."""
    rows = await connection.fetch(
        """
        SELECT application_id, release_id
          FROM release_members
          JOIN releases USING (release_id)
         WHERE open AND application_id = ANY($1) AND ($2::text IS NULL OR state = $2)
        """,
        list(application_ids),
        state,
    )
    return {row["application_id"]: row["release_id"] for row in rows}


# -- members

_MEMBERS = """
    SELECT m.application_id, a.name, m.wave, m.prepared_by, m.prepared_at, m.due_at, m.trouble_code, m.trouble_message,
           f.deployment_id, f.status, f.replaced, f.digest, f.reason_code, f.reason_message,
           f.status = 'running' AND f.claimed_by IS NULL
               AND NOT EXISTS (SELECT FROM swaps w WHERE w.application_id = m.application_id) AS idle,
           f.object_id IS NOT NULL AS swapped, coalesce(b.cancelled_at, f.cancelled_at) IS NOT NULL AS cancelling,
           b.deployment_id AS back_id, b.status AS back_status, b.finished_at AS back_at,
           b.reason_code AS back_code, b.reason_message AS back_message,
           (SELECT count(*) FROM deployments n
             WHERE n.release_id = m.release_id AND n.application_id = m.application_id
               AND n.kind NOT IN ('deploy', 'redeploy')) AS times_back,
           s.deployment_id AS successor_id, s.kind AS successor,
           EXISTS (SELECT FROM watches w WHERE w.deployment_id = f.deployment_id AND w.until > now()) AS watched
      FROM release_members m
      JOIN applications a USING (application_id)
      LEFT JOIN LATERAL (
           SELECT * FROM deployments d
            WHERE d.release_id = m.release_id AND d.application_id = m.application_id
              AND d.kind IN ('deploy', 'redeploy')
            ORDER BY d.created_at DESC LIMIT 1
           ) AS f ON true
      LEFT JOIN LATERAL (
           SELECT * FROM deployments d
            WHERE d.release_id = m.release_id AND d.application_id = m.application_id
              AND d.kind NOT IN ('deploy', 'redeploy')
            ORDER BY d.created_at DESC LIMIT 1
           ) AS b ON true
      LEFT JOIN deployments s ON s.application_id = m.application_id AND s.status = 'queued'
            AND s.release_id IS DISTINCT FROM m.release_id
     WHERE m.release_id = $1
     ORDER BY m.wave, a.name, m.application_id
"""


async def select_members(connection: Connection, release_id: str) -> list[ReleaseMember]:
    """Return the members of a release as they are now, wave by wave."""
    return [_member(row) for row in await connection.fetch(_MEMBERS, release_id)]


async def select_member_ids(connection: Connection, release_id: str) -> list[str]:
    """Return the applications of a release."""
    rows = await connection.fetch("SELECT application_id FROM release_members WHERE release_id = $1", release_id)
    return [row["application_id"] for row in rows]


def _member(row: asyncpg.Record) -> ReleaseMember:
    state = _back_state(row) or _forward_state(row)
    prefix = "back" if state is MemberState.NOT_BACK else "reason"
    member = Member(
        row["application_id"],
        row["name"],
        row["wave"],
        state,
        reason=_SUPERSEDED if row["status"] == Status.SUPERSEDED else _reason(row, prefix),
        cancelling=row["cancelling"],
        idle=bool(row["idle"]),
        moving_since=row["due_at"],
        prepared_at=row["prepared_at"],
        trouble=_reason(row, "trouble"),
        watched=row["watched"],
        successor=None if row["successor"] is None else Kind(row["successor"]),
        failures=row["times_back"],
        failed_at=row["back_at"],
    )
    return ReleaseMember(member, row["deployment_id"], row["digest"], row["back_id"], row["successor_id"])


def _reason(row: asyncpg.Record, prefix: str) -> Reason | None:
    code = row[f"{prefix}_code"]
    return None if code is None else Reason(Code.parse(code), row[f"{prefix}_message"] or "")


_SUPERSEDED = Reason(Code.RELEASE_FAILED, "a newer request took the place of its deployment")
_IN_PROGRESS = frozenset({Status.QUEUED, Status.RUNNING})
_BACK = frozenset({Status.SUCCEEDED, Status.UNCHANGED})


def _back_state(row: asyncpg.Record) -> MemberState | None:
    if row["back_id"] is None:
        return None
    if row["back_status"] in _IN_PROGRESS:
        return MemberState.GOING_BACK
    return MemberState.BACK if row["back_status"] in _BACK else MemberState.NOT_BACK


def _forward_state(row: asyncpg.Record) -> MemberState:
    status = None if row["status"] is None else Status(row["status"])
    if status in _IN_PROGRESS:
        if row["due_at"] is not None:
            return MemberState.MOVING
        prepared = status is Status.RUNNING and row["prepared_by"] == row["deployment_id"]
        return MemberState.PREPARED if prepared else MemberState.PREPARING
    if status is Status.SUCCEEDED and row["replaced"]:
        return MemberState.MOVED
    if status in _BACK:
        return MemberState.UNCHANGED
    return MemberState.UNKNOWN if status is Status.FAILED and row["swapped"] else MemberState.OLD


async def report_trouble(connection: Connection, deployment: Deployment, reason: Reason) -> bool:
    """Record that a member has trouble in its monitor window; return False where its release has ended."""
    done = await connection.execute(
        """
        UPDATE release_members SET trouble_code = $3, trouble_message = $4
         WHERE release_id = $1 AND application_id = $2 AND open
        """,
        deployment.release_id,
        deployment.application_id,
        reason.code,
        reason.message,
    )
    return bool(done == "UPDATE 1")


async def delete_old(connection: Connection, most: int) -> None:
    """Delete releases that ended over a day ago, and have no deployment left or are beyond `most` of their name."""
    await connection.execute(
        """
        DELETE FROM releases r
         WHERE finished_at < now() - interval '1 day'
           AND (
                  NOT EXISTS (SELECT FROM deployments d WHERE d.release_id = r.release_id)
               OR release_id IN (
                      SELECT release_id
                        FROM (SELECT release_id, row_number() OVER (PARTITION BY name ORDER BY created_at DESC) AS n
                                FROM releases) AS numbered
                       WHERE n > $1
                  )
               )
        """,
        most,
    )
