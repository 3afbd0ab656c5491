"""Two applications, one that follows the other, on a real PostgreSQL; engines and the clock are simulated.

The followed one is called staging, the follower production. What really happened on staging is written down apart from
the gateway's own rows, and tells what production may run.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

from gateway.config import Settings
from gateway.docker.runtime import Timeouts
from gateway.gates import promotion as gate
from gateway.gates.gate import Sources
from gateway.gates.promotion import PromotionRule
from gateway.model.applications import Desired
from gateway.model.deployments import Deployment, Kind, MonitorWindow, Outcome, Status
from gateway.model.errors import Code, Conflict, Reason
from gateway.model.gates import Decision, GateSetting, Level, Verdict
from gateway.model.promotions import Promotion
from gateway.model.reference import Digest, Reference
from gateway.queue import cancel, enqueue
from gateway.store import applications, deployments, promotions, queue, soaks, watches
from gateway.store.database import Pool, transaction
from gateway.store.rollout_journal import PostgresJournal
from gateway.store.soaks import Sighting
from gateway.worker import completion
from gateway.worker.promoter import Promoter
from gateway.worker.rollout_monitor import RolloutMonitor, _Monitored
from tests.support.api_client import VAULT, Web
from tests.support.candidates import a_candidate
from tests.support.rollout_env import RecordedAlerts

STAGING, PRODUCTION = "staging", "production"
SOAK, WINDOW = timedelta(minutes=10), timedelta(minutes=3)
MINUTE = timedelta(minutes=1)
TIMEOUTS = Timeouts(stable_window=0.1, health_deadline=1, pull_stall=1, call_margin=1, kept_for=1)


def a_digest(number: int | Digest) -> Digest:
    return Digest(f"sha256:{number:064x}") if isinstance(number, int) else number


@dataclass
class HoldingRegistry:
    """Has every digest, except those that it lacks; `down` is raised instead of an answer."""

    lacks: set[Digest] = field(default_factory=set)
    down: Exception | None = None
    asked: list[str] = field(default_factory=list)

    async def has(self, reference: Reference, _login: object) -> bool:
        self.asked.append(str(reference))
        if self.down is not None:
            raise self.down
        return reference.digest not in self.lacks


@dataclass
class Truth:
    """What staging really ran, and for how long somebody saw it run well, without a break."""

    digest: Digest | None = None
    run: str | None = None
    well: bool = False
    window_until: datetime | None = None
    seen: timedelta | None = None  # None: it was not seen well since its run began
    proven: set[Digest] = field(default_factory=set)

    def interrupt(self) -> None:
        self.seen = None


@dataclass
class PromotionWorld:
    """Staging, production, their simulated engine, and a clock that is set by hand."""

    pool: Pool
    now: datetime
    registry: HoldingRegistry = field(default_factory=HoldingRegistry)
    alerts: RecordedAlerts = field(default_factory=RecordedAlerts)
    truth: Truth = field(default_factory=Truth)
    #: what production has run, in order
    ran: list[Digest] = field(default_factory=list)
    runs: Any = field(default_factory=lambda: (f"run-{number}" for number in itertools.count()))

    @classmethod
    async def create(cls, web: Web, **rule: object) -> "PromotionWorld":
        for name in (STAGING, PRODUCTION):
            await web.mutate("application.create", name=name, applicationId=name, dockerImage=f"acme/{name}")
        world = cls(web.pool, await web.pool.fetchval("SELECT now()"))
        await world.follow(PRODUCTION, STAGING, **rule)
        return world

    async def follow(self, application_id: str = PRODUCTION, follows: object = STAGING, **rule: object) -> None:
        """Set the gate anew."""
        await self.pool.execute("DELETE FROM gates WHERE application_id = $1 AND kind = 'promotion'", application_id)
        await self.pool.execute(
            "INSERT INTO gates (application_id, kind, name, rule) VALUES ($1, 'promotion', 'promotion', $2)",
            application_id,
            {"follows": follows, "soak": "10m", **rule},
        )

    def promoter(self, pool: Pool | None = None) -> Promoter:
        """Return the promoter of a gateway."""
        return Promoter(pool or self.pool, VAULT, cast(Any, self.registry), self.alerts)

    async def promote(self) -> None:
        await self.promoter().promote_once(self.now)

    # -- time

    async def advance(self, by: timedelta, *, observed: bool = True) -> None:
        """Let time pass, with an observation every two minutes, or with none but the last."""
        step = 2 * MINUTE if observed else by
        while by > timedelta():
            part = min(step, by)
            self.now += part
            by -= part
            if self.truth.seen is not None and part <= 5 * MINUTE:
                self.truth.seen += part
            await self.look()

    async def look(self) -> None:
        """Observe staging, as the state monitor does after every event and now and then."""
        truth = self.truth
        if await self.pool.fetchval(
            "SELECT EXISTS (SELECT FROM deployments WHERE application_id = 'staging' AND status = 'running')"
        ):
            return
        well = truth.well and truth.digest is not None
        if not well:
            truth.interrupt()
        elif truth.seen is None:
            truth.seen = timedelta()
        if well and (truth.window_until is None or truth.window_until <= self.now) and truth.seen is not None:
            truth.proven |= {truth.digest} if truth.seen >= SOAK and truth.digest is not None else set()
        if truth.digest is not None:
            async with transaction(self.pool) as connection:
                seen = {STAGING: Sighting(truth.digest, truth.run if well else None)}
                await soaks.record_sightings(connection, seen, self.now)

    # -- staging

    async def deploy_staging(
        self, number: int | Digest, status: Status = Status.SUCCEEDED, *, window: timedelta = timedelta()
    ) -> Deployment:
        """Let a person deploy this digest, or the one with this number, to staging, and the deployment end so."""
        digest = a_digest(number)
        async with transaction(self.pool) as connection:
            await applications.lock_application(connection, STAGING)
            await applications.update_desired(connection, STAGING, Desired.RUNNING)
            queued = await queue.select_queued(connection, STAGING)
            await enqueue.enqueue_promoted(
                connection,
                STAGING,
                queued,
                Reference.parse(f"acme/staging@{digest}"),
                title="Deployed",
                description="",
                forced=True,
            )
        return await self.conclude_staging(status, window=window)

    async def conclude_staging(
        self, status: Status = Status.SUCCEEDED, *, window: timedelta = timedelta()
    ) -> Deployment:
        """Let what is queued on staging run and end so."""
        one = await begin(self.pool, STAGING)
        assert one is not None
        if status is Status.ROLLED_BACK:
            self.truth.interrupt()
            self.truth.run = next(self.runs)  # the old one was stopped, and started again
        elif status is Status.SUCCEEDED:
            self.truth.interrupt()
            self.truth.run = next(self.runs)
            self.truth.well = one.kind is not Kind.STOP
            self.truth.window_until = None
        digest = await self._brought(one)
        if status is Status.SUCCEEDED and digest is not None:
            if one.kind is Kind.ROLLBACK and digest != self.truth.digest and self.truth.digest is not None:
                self.truth.proven.discard(self.truth.digest)
            self.truth.digest = digest
        await finish(self.pool, one, status, digest, object_id="c" * 64)
        if status is Status.SUCCEEDED and window and digest is not None:
            self.truth.window_until = self.now + window
            async with transaction(self.pool) as connection:
                await connection.execute("DELETE FROM watches WHERE application_id = $1", STAGING)
                await watches.insert_watch(connection, one, "c" * 64, 0, window)
                await connection.execute(
                    "UPDATE watches SET until = $1 WHERE application_id = 'staging'", self.truth.window_until
                )
        await self.look()
        return one

    async def _brought(self, one: Deployment) -> Digest | None:
        if one.kind is Kind.ROLLBACK:
            found = await self.pool.fetchval(
                "SELECT digest FROM deployments WHERE deployment_id = $1", one.rolls_back_to
            )
            return None if found is None else Digest(found)
        return one.reference.digest if one.reference else None

    async def roll_back_staging(self) -> bool:
        """Ask for a rollback of staging; return False if there is no earlier version."""
        async with self.pool.acquire() as connection:
            application = await applications.select_application(connection, VAULT, STAGING)
        try:
            await enqueue.request_rollback(self.pool, VAULT, application, to=None, title="asked")
        except Conflict:
            return False
        return True

    async def trouble(self) -> bool:
        """Let the monitor see trouble in staging's window, if one is open; return whether one was."""
        async with self.pool.acquire() as connection:
            row = await connection.fetchrow(
                "SELECT w.*, d.kind FROM watches w JOIN deployments d USING (deployment_id)"
                " WHERE w.application_id = 'staging' AND w.until > $1",
                self.now,
            )
            busy = await queue.select_queued(connection, STAGING)
            application = await applications.select_application(connection, VAULT, STAGING)
        if row is None or busy is not None:
            return False
        fields = ("application_id", "deployment_id", "object_id", "restarts", "until")
        window = MonitorWindow(kind=Kind(row["kind"]), **{name: row[name] for name in fields})
        monitor = RolloutMonitor(self.pool, VAULT, TIMEOUTS, self.alerts)
        await monitor._handle_trouble(_Monitored(window, application), Reason(Code.EXITED, "it exited"))  # noqa: SLF001
        self.truth.interrupt()
        self.truth.window_until = None
        if self.truth.digest is not None:
            self.truth.proven.discard(self.truth.digest)
        return True

    async def ask_staging(self, kind: Kind) -> None:
        async with self.pool.acquire() as connection:
            application = await applications.select_application(connection, VAULT, STAGING)
        await enqueue.request_state(self.pool, application, kind, title="asked")

    async def crash(self) -> None:
        """Let staging's process end and start again."""
        self.truth.run = next(self.runs)
        self.truth.interrupt()

    # -- production

    async def deploy_production(self, number: int, *, forced: bool) -> None:
        """Let a person, or a push, ask for this digest."""
        async with transaction(self.pool) as connection:
            await applications.lock_application(connection, PRODUCTION)
            queued = await queue.select_queued(connection, PRODUCTION)
            reference = Reference.parse(f"acme/production@{a_digest(number)}")
            if not forced and enqueue.ignore_reason(queued, reference):
                return
            await enqueue.enqueue_promoted(
                connection, PRODUCTION, queued, reference, title="By hand", description="", forced=forced
            )

    async def cancel_production(self) -> None:
        await cancel.cancel_deployments(self.pool, PRODUCTION, running=False)

    async def ask_gate(self, digest: Digest) -> Decision:
        """Ask production's gate, as a rollout does."""
        rule = PromotionRule.model_validate({"follows": STAGING, "soak": "10m"})
        setting = GateSetting("g", Level.APPLICATION, PRODUCTION, "promotion", "p", {}, True, False, self.now)
        sources = Sources(self.pool, VAULT, cast(Any, self.registry), Settings.from_environ({"HOME": "/"}))
        candidate = a_candidate(digest, application_id=PRODUCTION)
        return gate.decide(rule, await gate.gather(sources, setting, rule, candidate), candidate, self.now)

    async def work(self, allowed: Callable[[Digest], None] | None = None) -> Decision | None:
        """Let production's rollout run up to its end: it passes the gate, waits at it, or fails there."""
        one = await begin(self.pool, PRODUCTION)
        if one is None:
            return None
        if one.kind is not Kind.DEPLOY:
            digest = await self._brought(one)
            await finish(self.pool, one, Status.SUCCEEDED, digest)
            self.ran += [digest] if digest else []
            return None
        assert one.reference is not None
        assert one.reference.digest is not None
        decision = await self.ask_gate(one.reference.digest)
        if decision.verdict is Verdict.PASSED:
            if allowed is not None:
                allowed(one.reference.digest)
            self.ran.append(one.reference.digest)
            await finish(self.pool, one, Status.SUCCEEDED, one.reference.digest)
        elif decision.verdict is Verdict.REFUSED:
            await finish(self.pool, one, Status.FAILED, one.reference.digest, decision.reason)
        else:
            await self.pool.execute(
                "UPDATE deployments SET status = 'queued', lease_until = NULL WHERE deployment_id = $1",
                one.deployment_id,
            )
        return decision

    async def promotion(self, number: int) -> Promotion | None:
        async with self.pool.acquire() as connection:
            return await promotions.select_promotion(connection, PRODUCTION, a_digest(number))

    async def queued(self) -> Deployment | None:
        async with self.pool.acquire() as connection:
            return await queue.select_queued(connection, PRODUCTION)


async def begin(pool: Pool, application_id: str) -> Deployment | None:
    """Claim the queued deployment of an application."""
    async with pool.acquire() as connection:
        claimed = await connection.fetchval(
            """
            UPDATE deployments SET status = 'running', started_at = now(), claimed_by = 'g', lease_until = now()
             WHERE application_id = $1 AND status = 'queued'
            RETURNING deployment_id
            """,
            application_id,
        )
        return None if claimed is None else await deployments.select_deployment(connection, claimed)


async def finish(
    pool: Pool,
    one: Deployment,
    status: Status,
    digest: Digest | None,
    reason: Reason | None = None,
    *,
    object_id: str | None = None,
) -> None:
    """Complete a running deployment."""
    async with pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, one.application_id)
    replaces = status is Status.SUCCEEDED and one.kind in {Kind.DEPLOY, Kind.ROLLBACK}
    outcome = Outcome(
        status, reason, digest=digest, spec_hash="s", ran=application if replaces else None, object_id=object_id
    )
    assert await completion.complete(pool, VAULT, one, PostgresJournal(pool, VAULT, one), outcome, monitor_window=0.0)
