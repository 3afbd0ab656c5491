"""A gate that asks people, without an engine: what a rollout does between resolve and pull."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from gateway.config import Settings
from gateway.gates import approval
from gateway.gates.approval import Rule
from gateway.gates.gate import Sources
from gateway.model.api_keys import Grants, Permission
from gateway.model.gates import Candidate, Decision, GateSetting, Level, Verdict
from gateway.model.reference import Digest, Reference
from gateway.model.registries import ANONYMOUS
from gateway.registry.client import RegistryClient
from gateway.store import api_keys, applications, deployments
from gateway.store.database import Pool, transaction
from tests.support.api_client import VAULT


def digest(letter: str) -> Digest:
    return Digest(f"sha256:{letter * 64}")


@dataclass
class Asking:
    """An application with the gate, and what a registry and its configuration make of its next deployment."""

    pool: Pool
    rule: Mapping[str, Any]
    application_id: str = "app"
    digest: Digest = field(default_factory=lambda: digest("a"))
    spec_hash: str = "s1"
    gate_id: str = "g1"
    settings: Mapping[str, str] = field(default_factory=lambda: {"GATEWAY_PUBLIC_URL": "https://gateway.example.com"})

    @property
    def setting(self) -> GateSetting:
        return GateSetting(
            self.gate_id,
            Level.APPLICATION,
            self.application_id,
            "approval",
            "two-people",
            self.rule,
            enabled=True,
            required=False,
            created_at=datetime(2026, 12, 1, tzinfo=UTC),
        )

    @property
    def sources(self) -> Sources:
        settings = Settings.from_environ({"HOME": "/", **self.settings})
        return Sources(self.pool, VAULT, cast(RegistryClient, None), settings)

    async def candidate(self) -> Candidate:
        """Return what the application's newest deployment brings."""
        async with self.pool.acquire() as connection:
            application = await applications.select_application(connection, VAULT, self.application_id)
            newest = await connection.fetchval(
                "SELECT deployment_id FROM deployments WHERE application_id = $1 ORDER BY created_at DESC LIMIT 1",
                self.application_id,
            )
            deployment = await deployments.select_deployment(connection, newest)
        reference = application.reference or Reference.parse("docker.io/acme/web")
        return Candidate(
            deployment,
            application,
            reference.with_digest(self.digest),
            self.digest,
            self.spec_hash,
            "linux/amd64",
            ANONYMOUS,
        )

    async def claim(self) -> Candidate:
        """Let the queued deployment run, as a worker does."""
        await self.pool.execute(
            "UPDATE deployments SET status = 'running', epoch = epoch + 1, lease_until = now() + interval '1 hour'"
            " WHERE application_id = $1 AND status = 'queued'",
            self.application_id,
        )
        return await self.candidate()

    async def ask(self) -> Decision:
        """Ask the gate in an attempt of the queued deployment, and let the attempt end as the gate decides."""
        candidate = await self.claim()
        decision = await self.decide(candidate)
        ended = {Verdict.PASSED: "succeeded", Verdict.REFUSED: "failed"}.get(decision.verdict)
        await self.pool.execute(
            "UPDATE deployments SET status = coalesce($2, 'queued')::status, lease_until = NULL, digest = $3,"
            " finished_at = CASE WHEN $2 IS NOT NULL THEN now() END, next_attempt_at = now() + interval '1 day'"
            " WHERE deployment_id = $1",
            candidate.deployment.deployment_id,
            ended,
            candidate.digest,
        )
        return decision

    async def decide(self, candidate: Candidate) -> Decision:
        rule = Rule.model_validate(self.rule)
        facts = await approval.gather(self.sources, self.setting, rule, candidate)
        return approval.decide(rule, facts, candidate, facts.now)

    async def invite(self) -> str:
        """Return what the alert says."""
        rule = Rule.model_validate(self.rule)
        return await approval.invite(self.sources, self.setting, rule, await self.candidate())

    async def open_id(self) -> str:
        """Return the approval that is asked for now."""
        found: str = await self.pool.fetchval(
            "SELECT approval_id FROM approvals WHERE application_id = $1 AND closed_at IS NULL", self.application_id
        )
        return found


async def a_key(
    pool: Pool, name: str, permission: Permission = Permission.ADMIN, *, only: frozenset[str] | None = None
) -> tuple[str, str]:
    """Make an API key, restricted to `only` these applications if they are given; return it and its id."""
    async with transaction(pool) as connection:
        grants = None if only is None else Grants(applications=only)
        key, row = await api_keys.insert_key(connection, name, permission=permission, grants=grants)
    return key, row.key_id
