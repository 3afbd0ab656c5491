"""Approvals and what people answered. The caller owns the transaction."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from gateway.model.api_keys import Permission
from gateway.model.approvals import AnswerKind, Approval, ApprovalAnswer, Approver
from gateway.model.deployments import Status
from gateway.model.errors import NotFound
from gateway.model.gates import Candidate
from gateway.model.reference import Digest
from gateway.store.database import Connection
from gateway.store.pagination import Page

_COLUMNS = """
    approval_id, application_id, gate_id, gate_name, deployment_id, repository, digest, spec_hash, image, serving,
    changes, fingerprint, rule, askers, created_at, deadline_at, passed_at, closed_at
"""

# A hash of the stored configuration that a deployment is made from. It also changes with the encrypted values.
_FINGERPRINT = """
    SELECT md5(jsonb_build_array(a.configuration, a.environment::text, a.files::text, a.base::text,
                                 e.variables::text, p.variables::text)::text)
      FROM applications a
      LEFT JOIN environments e USING (environment_id)
      LEFT JOIN projects p USING (project_id)
     WHERE a.application_id = $1
"""

# Who asked for a deployment `d`: a name, and the id of a key if it was one. A key `k` may stand for somebody else.
_ASKER = """
    CASE WHEN k.held_by LIKE 'cli:%' THEN substr(k.held_by, 5) ELSE d.asked_by END AS asked_by,
    CASE WHEN k.held_by LIKE 'key:%' THEN substr(k.held_by, 5) WHEN k.held_by IS NULL THEN nullif(d.asked_key, '')
         END AS asked_key
"""

_NOT_FOUND = "Approval not found"
_MAX_SUPERSEDED = 1000  # deployments that one may have superseded, one after the other, to look at
_MAX_CLOSED = 100  # of one gate of an application


@dataclass(frozen=True, slots=True)
class Question:
    """A new question: who may answer, until when, and what would change."""

    gate_id: str
    gate_name: str
    rule: Mapping[str, Any]
    deadline: timedelta
    #: who asked for the deployment, or for one that it took the place of, as `approver`
    askers: Collection[str]
    changes: Sequence[Mapping[str, Any]] = ()


async def select_time(connection: Connection) -> datetime:
    """Return the time of the database, which all gateways share."""
    at: datetime = await connection.fetchval("SELECT clock_timestamp()")
    return at


async def owns_deployment(connection: Connection, candidate: Candidate) -> bool:
    """Tell whether the deployment runs in this attempt; lock its row, so that no other attempt asks meanwhile."""
    return bool(
        await connection.fetchval(
            """
            SELECT true FROM deployments
             WHERE deployment_id = $1 AND epoch = $2 AND status = 'running'
               FOR NO KEY UPDATE
            """,
            candidate.deployment.deployment_id,
            candidate.deployment.epoch,
        )
    )


async def select_askers(connection: Connection, deployment_id: str) -> list[tuple[str, str | None]]:
    """Return who asked for the deployment and for those that it superseded: names, and ids of keys if there are."""
    rows = await connection.fetch(
        f"""
        WITH RECURSIVE line AS (
            SELECT $1::text AS deployment_id, 0 AS before
             UNION ALL
            SELECT d.deployment_id, before + 1
              FROM line JOIN deployments d ON d.superseded_by = line.deployment_id
             WHERE before < {_MAX_SUPERSEDED}
        )
        SELECT {_ASKER} FROM line JOIN deployments d USING (deployment_id) LEFT JOIN api_keys k ON k.key_id = asked_key
         WHERE asked_by IS NOT NULL
         UNION
        SELECT {_ASKER} FROM line JOIN deployment_askers d USING (deployment_id)
          LEFT JOIN api_keys k ON k.key_id = asked_key
        """,  # noqa: S608 - constants
        deployment_id,
    )
    return [(row["asked_by"], row["asked_key"]) for row in rows]


async def reuse_open(
    connection: Connection, candidate: Candidate, question: Question
) -> tuple[str | None, frozenset[str]]:
    """Reuse the open approval of the same digest and configuration for this deployment, and return its id, or None.

    An approval of an ended deployment is reused only if that was superseded. All other open approvals of the gate are
    closed. Also returns the askers of the closed ones whose deployment this one has replaced, since they count as
    askers of this deployment too.
    """
    deployment = candidate.deployment
    found = await connection.fetchval(
        f"""
        UPDATE approvals a
           SET deployment_id = $3, rule = $7, passed_at = NULL, gate_name = $8,
               fingerprint = coalesce(({_FINGERPRINT}), ''),
               askers = ARRAY(SELECT unnest(a.askers) UNION SELECT unnest($9::text[]))
          FROM deployments d
         WHERE a.application_id = $1 AND a.gate_id = $2 AND a.closed_at IS NULL
           AND a.repository = $4 AND a.digest = $5 AND a.spec_hash = $6
           AND d.deployment_id = a.deployment_id
           AND (a.deployment_id = $3 OR (d.status = 'superseded' AND a.deadline_at > now()))
        RETURNING a.approval_id
        """,  # noqa: S608 - a constant
        deployment.application_id,
        question.gate_id,
        deployment.deployment_id,
        str(candidate.reference.repository),
        candidate.digest,
        candidate.spec_hash,
        dict(question.rule),
        question.gate_name,
        list(question.askers),
    )
    closed = await connection.fetch(
        """
        UPDATE approvals a SET closed_at = now()
          FROM deployments d
         WHERE a.application_id = $1 AND a.gate_id = $2 AND a.closed_at IS NULL AND a.approval_id IS DISTINCT FROM $3
           AND d.deployment_id = a.deployment_id
        RETURNING CASE WHEN d.status IN ('queued', 'running', 'superseded') THEN a.askers ELSE '{}' END AS askers
        """,
        deployment.application_id,
        question.gate_id,
        found,
    )
    return found, frozenset(one for row in closed for one in row["askers"])


async def insert_approval(connection: Connection, candidate: Candidate, question: Question) -> str:
    """Ask anew, and return the id. The gate asks nothing else about the application."""
    deployment = candidate.deployment
    return str(
        await connection.fetchval(
            f"""
            INSERT INTO approvals (application_id, gate_id, gate_name, deployment_id, repository, digest, spec_hash,
                                   image, serving, changes, fingerprint, rule, askers, deadline_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, coalesce(({_FINGERPRINT}), ''), $11, $12, now() + $13)
            RETURNING approval_id
            """,  # noqa: S608 - a constant
            deployment.application_id,
            question.gate_id,
            question.gate_name,
            deployment.deployment_id,
            str(candidate.reference.repository),
            candidate.digest,
            candidate.spec_hash,
            str(candidate.reference),
            candidate.serving,
            list(question.changes),
            dict(question.rule),
            sorted(question.askers),
            question.deadline,
        )
    )


async def delete_surplus(connection: Connection, application_id: str, gate_id: str) -> None:
    """Delete old questions of the gate, since the tag of a waiting deployment may move very often."""
    await connection.execute(
        f"""
        DELETE FROM approvals
         WHERE approval_id IN (
               SELECT approval_id FROM approvals
                WHERE application_id = $1 AND gate_id = $2 AND closed_at IS NOT NULL
                ORDER BY closed_at DESC
               OFFSET {_MAX_CLOSED}
               )
        """,  # noqa: S608 - a constant
        application_id,
        gate_id,
    )


async def mark_passed(connection: Connection, approval_id: str) -> None:
    """Record that the gate has let the deployment pass, after which a rejection comes too late."""
    await connection.execute("UPDATE approvals SET passed_at = now() WHERE approval_id = $1", approval_id)


async def select_open(connection: Connection, candidate: Candidate, gate_id: str) -> Approval | None:
    """Return the open approval of this digest and configuration, None if nothing asked for it."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS} FROM approvals
         WHERE application_id = $1 AND gate_id = $2 AND repository = $3 AND digest = $4 AND spec_hash = $5
           AND closed_at IS NULL
        """,  # noqa: S608 - a constant
        candidate.application.application_id,
        gate_id,
        str(candidate.reference.repository),
        candidate.digest,
        candidate.spec_hash,
    )
    return next(iter(await _with_answers(connection, rows)), None)


async def select_approval(connection: Connection, approval_id: str, *, lock: bool = False) -> Approval:
    """Return an approval with its answers, and lock its row if asked to. Raises NotFound."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM approvals WHERE approval_id = $1 {'FOR UPDATE' if lock else ''}",  # noqa: S608
        approval_id,
    )
    if not rows:
        raise NotFound(_NOT_FOUND)
    return (await _with_answers(connection, rows))[0]


async def select_waiting(
    connection: Connection, page: Page, application_id: str | None = None, *, only: Collection[str] | None = None
) -> list[Approval]:
    """Return a page of the open approvals of deployments that have not ended, the newest first.

    They are of all applications, of one, or of `only` these.
    """
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS}
          FROM approvals a
         WHERE closed_at IS NULL AND (created_at, approval_id) < ($1, $2) AND ($4::text IS NULL OR application_id = $4)
           AND ($5::text[] IS NULL OR application_id = ANY($5))
           AND EXISTS (SELECT FROM deployments d
                        WHERE d.deployment_id = a.deployment_id AND d.status IN ('queued', 'running'))
         ORDER BY created_at DESC, approval_id DESC
         LIMIT $3
        """,  # noqa: S608 - a constant
        *page.bounds,
        application_id,
        None if only is None else list(only),
    )
    return await _with_answers(connection, rows)


async def _with_answers(connection: Connection, rows: Sequence[asyncpg.Record]) -> list[Approval]:
    if not rows:
        return []
    answers: dict[str, list[ApprovalAnswer]] = {row["approval_id"]: [] for row in rows}
    for row in await connection.fetch(
        """
        SELECT approval_id, approver, r.name, answer, reason, until, answered_at, permission, revoked_at,
               EXISTS (SELECT FROM oidc_people o WHERE o.key_id = k.key_id) AS chose_name
          FROM approval_answers r
          LEFT JOIN api_keys k ON r.approver = 'key:' || k.key_id
         WHERE approval_id = ANY($1)
         ORDER BY answered_at, approver
        """,
        list(answers),
    ):
        answers[row["approval_id"]].append(
            ApprovalAnswer(_approver(row), AnswerKind(row["answer"]), row["reason"], row["until"], row["answered_at"])
        )
    return [
        Approval(
            **{
                **dict(row),
                "digest": Digest(row["digest"]),
                "serving": Digest(row["serving"]) if row["serving"] else None,
                "askers": frozenset(row["askers"]),
            },
            answers=answers[row["approval_id"]],
        )
        for row in rows
    ]


def _approver(row: asyncpg.Record) -> Approver:
    """Return the person who answered, with the key's present permission: none if the key was revoked or is gone."""
    if not str(row["approver"]).startswith("key:"):
        permission = Permission.ADMIN if str(row["approver"]).startswith("cli:") else None
    else:
        valid = row["permission"] is not None and row["revoked_at"] is None
        permission = Permission[row["permission"].upper()] if valid else None
    return Approver(row["approver"], row["name"], permission, row["chose_name"])


@dataclass(frozen=True, slots=True)
class Situation:
    """The present state of what an approval is about. `now` is the time of the database."""

    now: datetime
    status: Status
    #: who asked for the deployment last, as `approver`
    asked_by: str | None
    asked_key: str | None
    #: whether the stored configuration is the one that the approval is about
    configured_alike: bool
    #: the digest that the gate asks about now, None if it asks nothing
    asked_now: str | None


async def select_situation(connection: Connection, approval: Approval) -> Situation:
    row = await connection.fetchrow(
        f"""
        SELECT clock_timestamp() AS now, d.status, {_ASKER},
               coalesce(({_FINGERPRINT}), '') = $4 AS configured_alike,
               (SELECT digest FROM approvals o
                 WHERE o.application_id = $1 AND o.gate_id = $3 AND o.closed_at IS NULL) AS asked_now
          FROM deployments d
          LEFT JOIN api_keys k ON k.key_id = d.asked_key
         WHERE d.deployment_id = $2
        """,  # noqa: S608 - constants
        approval.application_id,
        approval.deployment_id,
        approval.gate_id,
        approval.fingerprint,
    )
    if row is None:  # pragma: no cover - it is deleted with its deployment
        raise NotFound(_NOT_FOUND)
    return Situation(**{**dict(row), "status": Status(row["status"])})


async def select_holder(connection: Connection, approver: Approver) -> Approver:
    """Return the approver: for a key that `gateway open` made, the person who ran the command."""
    row = await connection.fetchrow(
        """
        SELECT k.held_by, coalesce(h.name, substr(k.held_by, 5)) AS name,
               k.held_by LIKE 'cli:%' OR (h.key_id IS NOT NULL AND h.revoked_at IS NULL) AS valid
          FROM api_keys k
          LEFT JOIN api_keys h ON k.held_by = 'key:' || h.key_id
         WHERE 'key:' || k.key_id = $1 AND k.held_by IS NOT NULL
        """,
        approver.identity,
    )
    return (
        approver
        if row is None
        else Approver(row["held_by"], row["name"], approver.permission if row["valid"] else None)
    )


async def chose_name(connection: Connection, approver: Approver) -> bool:
    """Tell whether the key belongs to a person who signs in at an identity provider, and may have chosen the name."""
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM oidc_people WHERE 'key:' || key_id = $1)", approver.identity
        )
    )


async def lock_deployment(connection: Connection, deployment_id: str) -> None:
    """Lock the row of a deployment. As in a rollout that asks, this comes before the lock of its approval."""
    await connection.execute("SELECT FROM deployments WHERE deployment_id = $1 FOR NO KEY UPDATE", deployment_id)


async def upsert_answer(connection: Connection, approval: Approval, answer: ApprovalAnswer) -> None:
    """Record the answer in place of an earlier one of the same approver."""
    await connection.execute(
        """
        INSERT INTO approval_answers (approval_id, approver, application_id, name, answer, reason, until, answered_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
            ON CONFLICT (approval_id, approver) DO UPDATE
           SET name = $4, answer = $5, reason = $6, until = $7, answered_at = $8
        """,
        approval.approval_id,
        answer.approver.identity,
        approval.application_id,
        answer.approver.name,
        answer.kind,
        answer.reason,
        answer.until,
        answer.answered_at,
    )


# -- links


async def insert_link(connection: Connection, approval: Approval, token_hash: bytes) -> None:
    """Make a link that is valid until the deadline."""
    await connection.execute(
        "INSERT INTO approval_links (token_hash, approval_id, expires_at) VALUES ($1, $2, $3)",
        token_hash,
        approval.approval_id,
        approval.deadline_at,
    )


async def select_link(connection: Connection, token_hash: bytes, *, lock: bool = False) -> tuple[str, bool] | None:
    """Return the approval of a link, and whether the link can still be used; None if there is no such link."""
    row = await connection.fetchrow(
        f"""
        SELECT approval_id, used_at IS NULL AND expires_at > clock_timestamp() AS valid
          FROM approval_links
         WHERE token_hash = $1 {"FOR UPDATE" if lock else ""}
        """,  # noqa: S608 - constants
        token_hash,
    )
    return None if row is None else (row["approval_id"], row["valid"])


async def use_link(connection: Connection, token_hash: bytes) -> None:
    await connection.execute("UPDATE approval_links SET used_at = now() WHERE token_hash = $1", token_hash)
