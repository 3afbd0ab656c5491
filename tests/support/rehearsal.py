"""Releases without an engine: a worker that does with each deployment what it is told, and knows what serves then."""

import hashlib
import random
from dataclasses import dataclass, field
from typing import Any

from gateway.model.deployments import Deployment, Kind, Outcome, Status
from gateway.model.errors import Code, Postponed, Prepared, Reason
from gateway.model.reference import Digest
from gateway.queue import release
from gateway.store import applications, deployments, releases
from gateway.store.release_deployments import select_part
from gateway.store.rollout_journal import PostgresJournal
from gateway.worker import completion, retry
from tests.support.api_client import VAULT, Web
from tests.support.claiming import claim_one

ENGINE = "release-engine"
PREPARED = Prepared("h")
AWAY = Postponed(Code.REGISTRY_UNREACHABLE, "it does not answer")
EXITED = Reason(Code.EXITED, "exit code 3")


@dataclass
class Rehearsal:
    """Applications by name, each of which served a first version. `serves` is the deployment whose version serves."""

    web: Web
    chance: random.Random
    serves: dict[str, str | None] = field(default_factory=dict)
    number: int = 0
    #: seconds for which a new version is monitored
    window: float = 0.0

    async def begin(self, *names: str, served: bool = True) -> None:
        async with self.web.pool.acquire() as connection:
            await connection.execute(
                "INSERT INTO engines (engine_id, name, version, platform) VALUES ($1, '', '', '')"
                " ON CONFLICT DO NOTHING",
                ENGINE,
            )
        for name in names:
            await self.web.mutate("application.create", name=name, applicationId=name, dockerImage=f"acme/{name}:v1")
            self.serves[name] = None
            if served:
                await self.web.mutate("application.deploy", applicationId=name)
                await self.work_until_idle()

    async def group(self, waves: dict[str, int], **more: Any) -> str:
        members = [{"applicationId": name, "wave": wave} for name, wave in waves.items()]
        made = await self.web.mutate("group.create", name=f"group {len(waves)}", members=members, **more)
        return str(made["groupId"])

    async def release(self, group_id: str, **more: Any) -> dict[str, Any]:
        begun: dict[str, Any] = await self.web.mutate("release.create", groupId=group_id, **more)
        return begun

    async def one(self, release_id: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.web.query("release.one", releaseId=release_id)
        return found

    async def advance(self) -> None:
        """Do as a gateway does when it looks at the releases."""
        async with self.web.pool.acquire() as connection:
            found = await releases.select_open(connection)
        for release_id in found:
            while (step := await release.advance(self.web.pool, release_id)) is not None and step.changed:
                pass

    # -- the worker

    async def claim(self) -> Deployment | None:
        return await claim_one(self.web.pool, "worker", ENGINE, lease=3600)

    async def work(self, one: Deployment, *, fails: bool = False, away: bool = False) -> None:
        """Do what the deployment asks for: prepare, move, put back, or let it fail."""
        async with self.web.pool.acquire() as connection:
            part = await select_part(connection, one)
            current = await deployments.select_deployment(connection, one.deployment_id)
        if current.cancelled_at is not None:
            await self.end(one, Outcome(Status.CANCELLED, Reason(Code.CANCELLED, "cancelled")))
        elif away:
            await self.postpone(one, AWAY)
        elif part is not None and not part.moves and not fails:
            await self.postpone(one, PREPARED)
        elif fails and one.kind not in {Kind.STOP, Kind.DELETE}:
            moves = part is None or part.moves
            await self.end(one, Outcome(Status.ROLLED_BACK if moves else Status.FAILED, EXITED))
        elif one.kind is Kind.STOP:
            self.serves[one.application_id] = None
            await self.end(one, Outcome(Status.SUCCEEDED))
        elif one.kind is Kind.DELETE:
            del self.serves[one.application_id]
            await self.end(one, Outcome(Status.SUCCEEDED))
        else:
            await self.succeed(one)

    async def work_one(self, name: str, *, fails: bool = False) -> None:
        """Let the application's next deployment end, and whatever is to be done before it succeed."""
        while True:
            one = await self.claim()
            assert one is not None, f"nothing of {name} is due"
            await self.work(one, fails=fails and one.application_id == name)
            if one.application_id == name:
                return

    async def succeed(self, one: Deployment) -> None:
        self.serves[one.application_id] = one.rolls_back_to or one.deployment_id
        async with self.web.pool.acquire() as connection:
            application = await applications.select_application(connection, VAULT, one.application_id)
        self.number += 1
        digest = Digest(f"sha256:{hashlib.sha256(str(self.number).encode()).hexdigest()}")
        await self.end(
            one,
            Outcome(Status.SUCCEEDED, digest=digest, spec_hash="h", ran=application, object_id=f"{self.number:064x}"),
        )

    async def end(self, one: Deployment, outcome: Outcome) -> None:
        journal = PostgresJournal(self.web.pool, VAULT, one)
        assert await completion.complete(self.web.pool, VAULT, one, journal, outcome, monitor_window=self.window)

    async def postpone(self, one: Deployment, error: Postponed) -> None:
        await retry.postpone(self.web.pool, one, PostgresJournal(self.web.pool, VAULT, one), error, deadline=1e9)

    async def work_until_idle(self) -> None:
        """Let everything succeed that can be claimed."""
        while (one := await self.claim()) is not None:
            await self.work(one)
            await self.advance()
