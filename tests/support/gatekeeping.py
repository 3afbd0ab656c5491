"""Ask the gates of claimed deployments without an engine or a registry: what happens before the pull, and after it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.config import Settings
from gateway.gates.gate import Gate, Sources
from gateway.model.deployments import Deployment, Outcome, Status
from gateway.model.errors import AtGate, Failed
from gateway.model.gates import Candidate
from gateway.model.reference import Digest, Reference
from gateway.model.registries import ANONYMOUS
from gateway.store import applications
from gateway.store.database import Pool
from gateway.store.rollout_journal import PostgresJournal
from gateway.worker import completion, retry
from gateway.worker.gates import Gatekeeper
from tests.support.api_client import VAULT
from tests.support.claiming import claim_one
from tests.support.rollout_env import RecordedAlerts

ENGINE = "gates-engine"


def digest(number: int) -> Digest:
    return Digest(f"sha256:{number:064x}")


@dataclass
class Attempts:
    """Attempts at deployments: from the claim to the gates, and to what would be pulled."""

    pool: Pool
    gates: Mapping[str, Gate]
    alerts: RecordedAlerts

    @property
    def keeper(self) -> Gatekeeper:
        registry: Any = None
        settings = Settings.from_environ({"HOME": "/"})
        return Gatekeeper(Sources(self.pool, VAULT, registry, settings), self.gates, self.alerts)

    async def claim(self, *, lease: float = 60.0, owner: str = "gateway") -> Deployment | None:
        await self.pool.execute(
            "INSERT INTO engines (engine_id, name, version, platform) VALUES ($1, '', '', '') ON CONFLICT DO NOTHING",
            ENGINE,
        )
        return await claim_one(self.pool, owner, ENGINE, lease=lease)

    async def ask(self, claimed: Deployment, resolved: Digest, spec_hash: str = "spec", **more: Any) -> str:
        async with self.pool.acquire() as connection:
            application = await applications.select_application(connection, VAULT, claimed.application_id)
        reference = (claimed.reference or Reference.parse("acme/web")).with_digest(resolved)
        return await self.keeper.ask(
            Candidate(claimed, application, reference, resolved, spec_hash, "linux/amd64", ANONYMOUS, **more)
        )

    async def run(self, resolved: Digest, *, claimed: Deployment | None = None, **more: Any) -> Deployment | None:
        """Run an attempt whose tag names this digest; return the deployment where it was let pass."""
        one = claimed or await self.claim()
        if one is None:
            return None
        journal = PostgresJournal(self.pool, VAULT, one)
        try:
            await self.ask(one, resolved, **more)
        except AtGate as error:
            await retry.postpone(self.pool, one, journal, error, deadline=60.0)
        except Failed as error:
            await self.end(one, Outcome(Status.FAILED, error.reason))
        else:
            await self.end(one, Outcome(Status.SUCCEEDED, digest=resolved))
            return one
        return None

    async def end(self, one: Deployment, outcome: Outcome) -> None:
        journal = PostgresJournal(self.pool, VAULT, one)
        await completion.complete(self.pool, VAULT, one, journal, outcome, monitor_window=0.0)
