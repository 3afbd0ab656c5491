"""Tests alerts and retries while an application serves nothing, and engines that recover."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.background import BackgroundTasks
from gateway.cli.demo.process import until
from gateway.docker.engine import containers, events
from gateway.docker.engine.client import EngineIdentity, ReachedEngine
from gateway.model.configuration import Order
from gateway.model.deployments import Deployment, Kind, Status, Swap
from gateway.model.errors import Code, DatabaseUnavailable, Failed, Postponed
from gateway.rollout.swap import MAX_SWAP_DEFECTS, MAX_SWAP_RESUMPTIONS
from gateway.store import deployments, swaps
from gateway.store.engines import Seen
from gateway.store.rollout_journal import PostgresJournal
from gateway.worker import retry
from gateway.worker.engine_worker import EngineWorker, PeriodicTask
from gateway.worker.recorder import Recorder
from gateway.worker.supervisor import Supervisor
from tests.integration.store.test_leases import ENGINE, claim
from tests.support.api_client import VAULT, Web
from tests.support.real_parts import Pushes
from tests.support.rollout_env import DeployedApp, RecordedAlerts


async def _claimed(web: Web, *, order: Order | None, attempts: int) -> Deployment:
    """A deployment that is claimed for so many times, with a swap open where there is an order."""
    await web.pool.execute(
        "INSERT INTO engines (engine_id, name, version, platform) VALUES ($1, '', '', '') ON CONFLICT DO NOTHING",
        ENGINE,
    )
    await web.mutate("application.create", name="Web", applicationId="app", dockerImage="acme/web")
    await web.mutate("application.deploy", applicationId="app")
    await web.pool.execute("UPDATE deployments SET attempts = $1", attempts - 1)
    claimed = await claim(web, "first", lease=60)
    assert claimed is not None
    if order is not None:
        swap = Swap(
            application_id="app",
            deployment_id=claimed.deployment_id,
            serving_name="web",
            order=order,
            old="old",
            old_restart_policy={},
            new="new",
        )
        async with web.pool.acquire() as connection:
            await swaps.insert_swap(connection, swap, claimed.epoch, 0, None)
    return claimed


async def _postponed(web: Web, claimed: Deployment, code: Code = Code.PORT_TAKEN) -> tuple[retry.Postponement, float]:
    """Return what it is, and the seconds it waits."""
    error = Postponed(code, "it cannot be put back yet")
    later = await retry.postpone(web.pool, claimed, PostgresJournal(web.pool, VAULT, claimed), error, deadline=9)
    wait = await web.pool.fetchval("SELECT extract(epoch FROM next_attempt_at - now())::float8 FROM deployments")
    return later, float(wait)


@pytest.mark.parametrize("attempts", [1, 9, 2000])
async def test_an_unserved_application_is_retried_often_and_alerted_once(web: Web, attempts: int) -> None:
    claimed = await _claimed(web, order=Order.STOP_FIRST, attempts=attempts)
    later, wait = await _postponed(web, claimed)
    assert (later.status, later.unserved) == (Status.QUEUED, True)
    assert wait <= 8
    row = await web.query("deployment.one", deploymentId=claimed.deployment_id)
    assert (row["reason"]["code"], "may serve nothing" in row["reason"]["message"]) == ("port_taken", True)
    await web.pool.execute("UPDATE deployments SET next_attempt_at = now()")
    again = await claim(web, "second", lease=60)
    assert again is not None
    assert not (await _postponed(web, again))[0].unserved
    async with web.client.get("/metrics") as answer:
        assert "gateway_applications_unserved 1.0" in await answer.text()


@pytest.mark.parametrize(
    ("order", "code"),
    [(Order.START_FIRST, Code.PORT_TAKEN), (Order.STOP_FIRST, Code.GATEWAY_STOPPED), (None, Code.PORT_TAKEN)],
)
async def test_no_alert_while_something_serves(web: Web, order: Order | None, code: Code) -> None:
    later, _ = await _postponed(web, await _claimed(web, order=order, attempts=1), code)
    assert (later.unserved, "serve nothing" in later.reason.message) == (False, False)


@pytest.mark.parametrize(
    ("code", "defect", "status"),
    [
        (Code.INTERNAL, False, Status.FAILED),
        (Code.INTERNAL, True, Status.FAILED),
        (Code.ENGINE_UNREACHABLE, False, Status.QUEUED),
    ],
)
async def test_a_swap_that_cannot_be_observed_is_closed(web: Web, code: Code, defect: bool, status: Status) -> None:
    claimed = await _claimed(web, order=Order.STOP_FIRST, attempts=1)
    await web.pool.execute(
        "UPDATE swaps SET settlings = $1, defects = $2", MAX_SWAP_RESUMPTIONS + 2, MAX_SWAP_DEFECTS + 2
    )
    error = Postponed(code, "it cannot be read")
    journal = PostgresJournal(web.pool, VAULT, claimed)
    later = await retry.postpone(web.pool, claimed, journal, error, deadline=9, defect=defect)
    assert later.status is status
    assert await web.pool.fetchval("SELECT count(*) FROM swaps") == (0 if status is Status.FAILED else 1)
    found = await web.query("deployment.one", deploymentId=claimed.deployment_id)
    assert found["state"] == status
    assert ("what serves is unknown" in found["reason"]["message"]) is (status is Status.FAILED)


async def test_retry_delays_grow_without_an_open_swap(web: Web) -> None:
    _, wait = await _postponed(web, await _claimed(web, order=None, attempts=7), Code.REGISTRY_UNREACHABLE)
    assert wait > 8


# -- on a real engine


async def test_a_stuck_swap_alerts_and_serves_once_it_can(
    app: DeployedApp, pushes: Pushes, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = RecordedAlerts()
    monkeypatch.setattr(supervisor.context, "alerts", told)
    await app.set(configuration={"order": "stop-first"})
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await pushes("v2")
    start, refused = containers.start, 0

    async def refuse(*given: Any, **more: Any) -> None:
        nonlocal refused
        refused += 1
        raise Failed(Code.PORT_TAKEN, "port 8080/tcp is published by somebody else")

    with monkeypatch.context() as patched:
        patched.setattr(containers, "start", refuse)
        receipt = await app.pushed(pushes.name(), b"v2")
        deployment_id = receipt.deployments[0].deployment_id

        async def tried_again() -> bool | None:
            return (refused >= 4 and bool(told)) or None  # forward and back, and written down

        await until(tried_again, within=30)
        async with app.pool.acquire() as connection:
            waits = await deployments.select_deployment(connection, deployment_id)
    assert waits.status in {Status.QUEUED, Status.RUNNING}
    assert [alert.title for alert in told] == [f"{app.application_id}: it may serve nothing"]
    assert "published by somebody else" in told[0].body
    assert containers.start is start
    await app.ended(deployment_id, within=30)
    assert (await app.serving()).running


# -- an engine that recovers


@dataclass
class _Engine:
    """Answers when it is told to."""

    answers: asyncio.Event = field(default_factory=asyncio.Event)
    run: str = "1"
    known: str = ""
    manages: bool = False

    async def identify(self, *, same_run: bool) -> EngineIdentity:
        if not self.answers.is_set():
            raise Postponed(Code.ENGINE_UNREACHABLE, "it is away")
        self.known = self.known if same_run else self.run
        return EngineIdentity(ENGINE, "n", "20.10", "linux/amd64", run=self.known, swarm_manager=self.manages)


async def _nothing(_reached: ReachedEngine) -> float | None:
    return None


class _Alone:
    """A pool of one engine, which claims nothing."""

    periodic_tasks: Sequence[PeriodicTask] = (PeriodicTask("nothing", 60, _nothing, on_events=True),)
    spread = 0.0

    def __init__(self, web: Web) -> None:
        self.background_tasks, self.runs = BackgroundTasks(), asyncio.Semaphore()
        self._recorder = Recorder(web.pool)
        #: how often what answers cannot be recorded
        self.failures = 0

    def servers_claimed_by(self, _host: EngineWorker) -> list[str | None]:
        return [None]

    def reaches(self, _identity: EngineIdentity) -> bool:
        return False

    def watches(self, _host: EngineWorker) -> bool:
        return True

    def check_slot(self, _host: EngineWorker) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    def check_interval(self, _host: EngineWorker) -> float:
        return 0.02

    def changed(self, host: EngineWorker, _before: EngineIdentity | None) -> None:
        host.watch_or_leave()

    async def record_now(self, seen: Seen) -> None:
        if self.failures:
            self.failures -= 1
            raise DatabaseUnavailable("it restarts")
        await self._recorder.write([seen])

    def record(self, seen: Seen) -> None:
        """It answers as it did before."""

    def make_room(self) -> None:
        """There is nothing to claim."""


async def _waits_until(web: Web, code: str) -> bool:
    """Tell whether what waited with this code, of the application of this name, is to be tried now."""
    return bool(
        await web.pool.fetchval("SELECT next_attempt_at <= now() FROM deployments WHERE application_id = $1", code)
    )


def hear(monkeypatch: pytest.MonkeyPatch, ours: _Engine, follow: Callable[[], AsyncGenerator[None, None]]) -> None:
    """Let this one's events be these; other gateways of the process go on hearing theirs."""
    real = events.follow
    monkeypatch.setattr(events, "follow", lambda engine: follow() if engine is ours else real(engine))


@pytest.mark.parametrize("failures", [0, 1])
@pytest.mark.parametrize("restarted", ["", "another run", "its events ended"])
async def test_a_recovered_engine_wakes_its_deployments_although_that_cannot_be_recorded_at_first(
    web: Web, monkeypatch: pytest.MonkeyPatch, restarted: str, failures: int
) -> None:
    monkeypatch.setattr("gateway.worker.engine_worker.POLL_INTERVAL", 0.02)
    breaks = asyncio.Event()

    engine: Any = _Engine()

    async def follow() -> AsyncGenerator[None, None]:
        if restarted == "another run":
            await asyncio.Event().wait()  # its events are not followed yet
        yield
        await breaks.wait()
        breaks.clear()

    hear(monkeypatch, engine, follow)
    codes = ("engine_unreachable", "engine_refused", "registry_unreachable", "port_taken")
    for code in codes:
        await web.mutate("application.create", name=code, applicationId=code, dockerImage="acme/web")
        await web.mutate("application.deploy", applicationId=code)

    async def wait_long() -> None:
        await web.pool.execute(
            "UPDATE deployments SET next_attempt_at = now() + interval '5 minutes', reason_code = application_id,"
            " reason_message = '', wait_length = '5 minutes'"
        )

    await wait_long()
    await web.pool.execute(
        "INSERT INTO swaps (application_id, deployment_id, serving_name, new)"
        " SELECT application_id, deployment_id, 'web', 'c' FROM deployments WHERE application_id = 'port_taken'"
    )
    alone: Any = _Alone(web)
    alone.failures = 0 if restarted else failures
    host = EngineWorker(web.pool, alone, engine, "unix:///engine")
    life = asyncio.create_task(host.run())
    try:
        engine.answers.set()
        await until(lambda: _now(web, "engine_refused"))
        alone.failures = failures
        if restarted == "another run":
            await wait_long()
            engine.run = "2"
            await until(lambda: _now(web, "engine_refused"))
        if restarted == "its events ended":
            await wait_long()
            breaks.set()
            await until(lambda: _now(web, "engine_refused"))
        assert [await _waits_until(web, code) for code in codes] == [True, True, False, True]
        reasons = await web.pool.fetch("SELECT reason_code FROM deployments ORDER BY reason_code")
        assert [row["reason_code"] for row in reasons] == ["engine_refused", "port_taken", "registry_unreachable", None]
    finally:
        host.retire()
        await life
    assert datetime.now(UTC) > (await web.pool.fetchval("SELECT min(next_attempt_at) FROM deployments"))


async def _now(web: Web, code: str) -> bool | None:
    return await _waits_until(web, code) or None


async def test_a_restarted_manager_may_take_a_while_to_start_its_swarm(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = _Engine(manages=True)

    async def silent() -> AsyncGenerator[None, None]:
        await asyncio.Event().wait()
        yield

    hear(monkeypatch, engine, silent)
    alone: Any = _Alone(web)
    host = EngineWorker(web.pool, alone, engine, "unix:///engine")

    async def seen(*states: bool) -> None:
        async def look() -> bool | None:
            one = host.identity
            return (one is not None and (one.swarm_manager, one.swarm_starting) == states) or None

        await until(look)

    life = asyncio.create_task(host.run())
    try:
        engine.answers.set()
        await seen(True, False)
        engine.manages = False
        await seen(False, True)
        engine.manages = True
        await seen(True, False)
        monkeypatch.setattr("gateway.worker.engine_worker._SWARM_START_TIME", 0.0)
        engine.manages = False  # for good, as after docker swarm leave
        await seen(False, False)
    finally:
        host.retire()
        await life
