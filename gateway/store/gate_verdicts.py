"""The answers of gates about deployments, and the overrides by people. A write changes nothing for a stale owner."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg
import orjson

from gateway.model.deployments import Deployment
from gateway.model.errors import Code, Reason
from gateway.model.gates import Candidate, Decision, GateSetting, Verdict
from gateway.store import applications, queue
from gateway.store.database import Connection
from gateway.store.gates import Owner

_MAX_EVIDENCE = 100_000  # characters
_MAX_SUPERSEDED = 1000  # deployments that one may have superseded, one after the other, to look at


@dataclass(frozen=True, slots=True)
class Override:
    """A person let a deployment pass a gate with this image, and with the configuration that it had."""

    gate_id: str
    name: str
    digest: str
    reason: str
    overridden_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """The last answer of a gate of a deployment."""

    deployment_id: str
    gate_id: str
    name: str
    kind: str
    rule_hash: str
    digest: str
    spec_hash: str
    verdict: Verdict
    reason: Reason
    evidence: Mapping[str, Any] = field(repr=False)
    first_asked_at: datetime
    asked_at: datetime
    ask_again_at: datetime | None
    true_until: datetime | None
    notified: bool

    @property
    def decision(self) -> Decision:
        return Decision(
            self.verdict,
            self.reason.code,
            self.reason.message,
            self.evidence,
            ask_again_at=self.ask_again_at,
            true_until=self.true_until,
        )


@dataclass(frozen=True, slots=True)
class Known:
    """What is known about a candidate before its gates are asked; all by gate. `now` is the database's time."""

    now: datetime
    #: since when the gate has been asked about this digest
    first_asked: Mapping[str, datetime]
    #: recorded answers about this digest and configuration that passed and still hold, so that the gate is not asked
    kept: Mapping[str, GateVerdict]
    overrides: Mapping[str, Override]
    #: the gates that a person was invited to answer for, with this digest and configuration
    invited: Collection[str]
    #: whether this version has served
    served_before: bool


# Whether an override `o` is for this configuration: no recorded answer is about another configuration.
_ABOUT = """
    NOT EXISTS (SELECT FROM gate_verdicts v WHERE v.deployment_id = o.deployment_id AND v.spec_hash <> {})
"""

_COLUMNS = """
    deployment_id, gate_id, name, kind, rule_hash, digest, spec_hash, verdict, code, message, evidence, first_asked_at,
    asked_at, ask_again_at, true_until, told_at IS NOT NULL AS notified
"""


def _from_row(row: asyncpg.Record) -> GateVerdict:
    values = dict(row) | {
        "verdict": Verdict(row["verdict"]),
        "reason": Reason(Code.parse(row["code"]), row["message"]),
    }
    del values["code"], values["message"]
    return GateVerdict(**values)


async def select_verdicts(connection: Connection, deployment_id: str) -> list[GateVerdict]:
    """Return the last answers of the gates of a deployment, by name."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM gate_verdicts WHERE deployment_id = $1 ORDER BY name, gate_id",  # noqa: S608
        deployment_id,
    )
    return [_from_row(row) for row in rows]


async def select_evidence(connection: Connection, candidate: Candidate, setting: GateSetting) -> Mapping[str, Any]:
    """Return the evidence of the gate's last answer about this deployment and digest, empty if it has given none."""
    found = await connection.fetchval(
        "SELECT evidence FROM gate_verdicts WHERE deployment_id = $1 AND gate_id = $2 AND digest = $3",
        candidate.deployment.deployment_id,
        setting.gate_id,
        candidate.digest,
    )
    return found if isinstance(found, dict) else {}


async def select_known(connection: Connection, candidate: Candidate, settings: Sequence[GateSetting]) -> Known:
    """Return what is known about the candidate, by gate.

    The first time that a gate was asked about the digest may belong to a deployment that this one superseded, directly
    or through others. If the clock was set back since a gate answered, the answer does not count as still holding.
    """
    deployment, repository = candidate.deployment, str(candidate.reference.repository)
    (facts,) = await connection.fetch(
        """
        SELECT now() AS now,
               EXISTS (
                   SELECT FROM deployments
                    WHERE application_id = $1 AND status = 'succeeded' AND replaced AND digest = $2 AND spec_hash = $3
               ) AS served
        """,
        deployment.application_id,
        candidate.digest,
        candidate.spec_hash,
    )
    rows = await connection.fetch(
        """
        WITH RECURSIVE line AS (
            SELECT $1::text AS deployment_id, 0 AS before
             UNION ALL
            SELECT d.deployment_id, before + 1
              FROM line JOIN deployments d ON d.superseded_by = line.deployment_id
             WHERE before < $5
        )
        SELECT v.gate_id, least(min(v.first_asked_at), now()) AS since,
               bool_or(v.told_at IS NOT NULL AND v.deployment_id = $1 AND v.spec_hash = $6) AS invited
          FROM line JOIN gate_verdicts v USING (deployment_id)
         WHERE v.digest = $2 AND v.repository = $3 AND v.gate_id = ANY($4)
         GROUP BY v.gate_id
        """,
        deployment.deployment_id,
        candidate.digest,
        repository,
        [one.gate_id for one in settings],
        _MAX_SUPERSEDED,
        candidate.spec_hash,
    )
    kept = await connection.fetch(
        f"""
        SELECT DISTINCT ON (v.gate_id) {", ".join("v." + column.strip() for column in _COLUMNS.split(","))}
          FROM unnest($1::text[], $2::text[]) AS wanted (gate_id, rule_hash)
          JOIN gate_verdicts v USING (gate_id, rule_hash)
          JOIN deployments d USING (deployment_id)
         WHERE v.digest = $3 AND v.repository = $4 AND v.spec_hash = $5 AND d.application_id = $6
           AND v.verdict = 'passed' AND v.true_until > now() AND v.asked_at <= now()
         ORDER BY v.gate_id, v.asked_at DESC
        """,  # noqa: S608 - constants
        [one.gate_id for one in settings],
        [one.rule_hash for one in settings],
        candidate.digest,
        repository,
        candidate.spec_hash,
        deployment.application_id,
    )
    overrides = await select_overrides(connection, deployment.deployment_id, spec_hash=candidate.spec_hash)
    return Known(
        now=facts["now"],
        first_asked={row["gate_id"]: row["since"] for row in rows},
        kept={row["gate_id"]: _from_row(row) for row in kept},
        overrides={one.gate_id: one for one in overrides if one.digest == candidate.digest},
        invited={row["gate_id"] for row in rows if row["invited"]},
        served_before=facts["served"],
    )


async def upsert_verdicts(
    connection: Connection,
    candidate: Candidate,
    decisions: Sequence[tuple[GateSetting, Decision]],
    first_asked: Mapping[str, datetime],
    *,
    invited: Collection[str] = (),
) -> bool:
    """Record the last answers of all gates of a deployment; return False for a stale owner.

    Deletes answers of gates that no longer apply, and overrides that were for another configuration. If no answer is
    unknown any more, the deadline for retries begins anew.
    """
    deployment = candidate.deployment
    passes = all(decision.verdict is Verdict.PASSED for _, decision in decisions)
    owner = await connection.fetchval(
        """
        UPDATE deployments d
           SET passed_gates_at = CASE WHEN $3 AND EXISTS (SELECT FROM gate_verdicts v
                                                           WHERE v.deployment_id = $1 AND v.verdict = 'unknown')
                                      THEN now() ELSE passed_gates_at END
         WHERE d.deployment_id = $1 AND d.epoch = $2 AND d.status = 'running'
        RETURNING true
        """,
        deployment.deployment_id,
        deployment.epoch,
        passes,
    )
    if owner is None:
        return False
    await connection.execute(
        f"DELETE FROM gate_overrides o WHERE deployment_id = $1 AND NOT {_ABOUT.format('$2')}",  # noqa: S608
        deployment.deployment_id,
        candidate.spec_hash,
    )
    await connection.execute(
        "DELETE FROM gate_verdicts WHERE deployment_id = $1 AND gate_id <> ALL($2::text[])",
        deployment.deployment_id,
        [setting.gate_id for setting, _ in decisions],
    )
    await connection.executemany(
        """
        INSERT INTO gate_verdicts (deployment_id, gate_id, name, kind, rule_hash, repository, digest, spec_hash,
                                   verdict, code, message, evidence, first_asked_at, asked_at, ask_again_at,
                                   true_until, told_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, clock_timestamp(), $14, $15,
                CASE WHEN $16 THEN now() END)
            ON CONFLICT (deployment_id, gate_id) DO UPDATE
           SET name = $3, kind = $4, rule_hash = $5, repository = $6, digest = $7, spec_hash = $8, verdict = $9,
               code = $10, message = $11, evidence = $12, first_asked_at = $13, asked_at = clock_timestamp(),
               ask_again_at = $14, true_until = $15,
               told_at = CASE WHEN $16 THEN coalesce(gate_verdicts.told_at, now()) END
        """,
        [
            (
                deployment.deployment_id,
                setting.gate_id,
                setting.name,
                setting.kind,
                setting.rule_hash,
                str(candidate.reference.repository),
                candidate.digest,
                candidate.spec_hash,
                decision.verdict,
                decision.code,
                decision.reason.message,
                storable(decision.evidence),
                first_asked[setting.gate_id],
                decision.ask_again_at,
                decision.true_until,
                setting.gate_id in invited,
            )
            for setting, decision in decisions
        ],
    )
    return True


def storable(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Return the evidence as JSON that PostgreSQL stores; what is too long is left out."""
    try:
        text = orjson.dumps(dict(evidence), default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except (TypeError, ValueError) as error:
        return {"omitted": f"the evidence is no JSON: {error}"}
    if len(text) > _MAX_EVIDENCE:
        return {"omitted": f"the evidence has {len(text)} characters; at most {_MAX_EVIDENCE} are kept"}
    found: dict[str, Any] = orjson.loads(text.replace("\\u0000", "\\ufffd"))
    return found


# -- overrides


async def select_overrides(
    connection: Connection, deployment_id: str, *, spec_hash: str | None = None
) -> list[Override]:
    """Return the overrides of a deployment: all, or those for this configuration."""
    rows = await connection.fetch(
        f"""
        SELECT gate_id, name, digest, reason, overridden_by, created_at
          FROM gate_overrides o
         WHERE deployment_id = $1 AND ($2::text IS NULL OR {_ABOUT.format("$2")})
         ORDER BY created_at, gate_id
        """,  # noqa: S608 - a constant
        deployment_id,
        spec_hash,
    )
    return [Override(**row) for row in rows]


async def insert_override(
    connection: Connection, deployment: Deployment, verdicts: Collection[GateVerdict], reason: str
) -> None:
    """Let a deployment pass the gates of these verdicts with the image that they are about. Earlier overrides stay."""
    await connection.execute(
        """
        INSERT INTO gate_overrides (deployment_id, application_id, gate_id, digest, name, reason)
        SELECT $1, $2, gate_id, digest, name, $6
          FROM unnest($3::text[], $4::text[], $5::text[]) AS passed (gate_id, digest, name)
            ON CONFLICT DO NOTHING
        """,
        deployment.deployment_id,
        deployment.application_id,
        [one.gate_id for one in verdicts],
        [one.digest for one in verdicts],
        [one.name for one in verdicts],
        reason,
    )


async def copy_overrides(connection: Connection, ended: str, deployment_id: str) -> None:
    """Copy the overrides of an ended deployment to another deployment of the same image."""
    await connection.execute(
        """
        INSERT INTO gate_overrides (deployment_id, application_id, gate_id, digest, name, reason, overridden_by)
        SELECT $2, application_id, gate_id, digest, name, reason, overridden_by
          FROM gate_overrides
         WHERE deployment_id = $1
            ON CONFLICT DO NOTHING
        """,
        ended,
        deployment_id,
    )


# -- waiting


async def wake(connection: Connection, deployment_ids: Collection[str]) -> None:
    """Make these deployments ask their gates again at once, both those that wait at a gate and those that ask now."""
    await connection.execute(
        """
        UPDATE deployments
           SET wakes = wakes + 1,
               next_attempt_at = CASE WHEN status = 'queued' THEN least(next_attempt_at, now()) ELSE next_attempt_at END
         WHERE deployment_id IN (SELECT deployment_id FROM deployments
                                  WHERE deployment_id = ANY($1) AND status IN ('queued', 'running')
                                  ORDER BY application_id, deployment_id
                                    FOR NO KEY UPDATE)
        """,
        list(deployment_ids),
    )
    await queue.notify(connection)


async def wake_owned(connection: Connection, owner: Owner) -> None:
    """Wake the deployments that wait at a gate, of the applications that have the gates of this owner.

    Running deployments are woken too: they may have read the gates already, and wait at one in a moment. Locks the
    applications before their deployments, as everywhere. Call this before approvals or gates are changed, since an
    approval is locked after its deployment.
    """
    rows = await connection.fetch(
        """
        SELECT d.deployment_id, d.application_id
          FROM deployments d
          JOIN applications a USING (application_id)
          LEFT JOIN environments e USING (environment_id)
         WHERE d.status IN ('queued', 'running')
           AND CASE $1 WHEN 'application' THEN a.application_id WHEN 'environment' THEN a.environment_id
                       ELSE e.project_id END = $2
           AND (d.status = 'running' OR EXISTS (
                   SELECT FROM gate_verdicts v WHERE v.deployment_id = d.deployment_id AND v.verdict = 'unknown'
               ))
        """,
        owner.level,
        owner.owner_id,
    )
    if rows:
        await applications.lock_all(connection, {row["application_id"] for row in rows})
        await wake(connection, [row["deployment_id"] for row in rows])


async def select_wakes(connection: Connection, deployment_id: str) -> int:
    """Return how often the deployment has been woken."""
    return int(await connection.fetchval("SELECT wakes FROM deployments WHERE deployment_id = $1", deployment_id))


async def was_woken(connection: Connection, deployment: Deployment, wakes: int) -> bool:
    """Return whether the deployment was woken since `select_wakes` returned `wakes`, and lock its row.

    Because of the lock, nobody can wake it between this answer and the write that follows from it.
    """
    return bool(
        await connection.fetchval(
            "SELECT wakes <> $2 FROM deployments WHERE deployment_id = $1 FOR NO KEY UPDATE",
            deployment.deployment_id,
            wakes,
        )
    )


async def delete_steps_of_waits(connection: Connection, deployment: Deployment) -> None:
    """Delete the steps of earlier attempts that ended at a gate: there may be very many."""
    await connection.execute(
        """
        DELETE FROM steps s
         USING (SELECT DISTINCT ON (epoch) epoch, step FROM steps
                 WHERE deployment_id = $1 AND epoch < $2
                 ORDER BY epoch, number DESC) AS last
         WHERE s.deployment_id = $1 AND s.epoch = last.epoch AND last.step = 'gates'
        """,
        deployment.deployment_id,
        deployment.epoch,
    )


async def count_waiting(connection: Connection) -> dict[str, int]:
    """Return how many deployments wait at gates of each kind."""
    rows = await connection.fetch(
        """
        SELECT v.kind, count(DISTINCT v.deployment_id) AS waiting
          FROM gate_verdicts v
          JOIN deployments d USING (deployment_id)
         WHERE v.verdict = 'unknown' AND d.status = 'queued' AND d.reason_code IS NOT NULL
         GROUP BY v.kind
        """
    )
    return {row["kind"]: row["waiting"] for row in rows}
