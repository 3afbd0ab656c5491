"""Gates: what a deployment must pass before its image is pulled."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from gateway.admin import gates as admin
from gateway.cli.demo.process import until
from gateway.docker.engine import containers
from gateway.gates import catalog
from gateway.model.deployments import Deployment, Kind, Status, Step
from gateway.model.errors import Code
from gateway.model.gates import Level, unknown
from gateway.queue import cancel, enqueue
from gateway.store import applications, deployments, gate_verdicts, queue_position
from gateway.store.gates import Owner
from gateway.worker.supervisor import Supervisor
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, DeployedApp
from tests.support.told_gate import PASSES, REFUSES, Told


@pytest.fixture
def told(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()
    kinds = {"told": told.gate(), "frozen": told.gate(lets_rollbacks_pass=True)}
    monkeypatch.setattr(supervisor.context, "gates", kinds)
    monkeypatch.setattr(catalog, "GATES", kinds)
    return told


async def gate(app: DeployedApp, kind: str = "told", **rule: object) -> str:
    owner = Owner(Level.APPLICATION, app.application_id)
    return (await admin.create(app.pool, VAULT, owner, kind=kind, rule=rule)).gate_id


async def asked(app: DeployedApp, kind: Kind = Kind.DEPLOY) -> str:
    async with app.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, app.application_id)
    return await enqueue.request_deployment(app.pool, application, kind, title="asked")


async def waiting(app: DeployedApp, deployment_id: str) -> Deployment:
    """Wait until the deployment waits at a gate."""

    async def look() -> Deployment | None:
        async with app.pool.acquire() as connection:
            found = await deployments.select_deployment(connection, deployment_id)
        return found if found.status is Status.QUEUED and found.reason is not None else None

    return await until(look)


async def verdicts(app: DeployedApp, deployment_id: str) -> list[gate_verdicts.GateVerdict]:
    async with app.pool.acquire() as connection:
        return await gate_verdicts.select_verdicts(connection, deployment_id)


async def test_a_gate_is_asked_about_the_digest_that_then_runs(app: DeployedApp, pushes: Pushes, told: Told) -> None:
    await gate(app)
    digest = await pushes("v1")
    done = await app.ask(Kind.DEPLOY)
    assert done.status is Status.SUCCEEDED
    (candidate,) = told.asked
    assert candidate.digest == candidate.reference.digest == digest == done.digest
    assert (await app.steps(done))[:3] == [Step.RESOLVE, Step.GATES, Step.PULL]


async def test_a_refusal_ends_the_deployment_and_touches_nothing(app: DeployedApp, pushes: Pushes, told: Told) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    before = await app.serving()
    await gate(app)
    told.answers["it"] = REFUSES
    await pushes("v2")
    failed = await app.ask(Kind.DEPLOY)
    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == (Status.FAILED, Code.GATE_REFUSED)
    assert failed.reason.message == "gate told: it may not"
    assert Step.PULL not in await app.steps(failed)
    assert [one.container_id for one in await app.containers()] == [before.container_id]


async def test_an_unknown_verdict_waits_without_a_slot_and_counts_as_no_attempt(
    app: DeployedApp, pushes: Pushes, told: Told, supervisor: Supervisor
) -> None:
    gate_id = await gate(app)
    told.answers["it"] = unknown(
        Code.TOO_NEW, "not yet", {"a": "\0b"}, ask_again_at=datetime.now(UTC) + timedelta(days=3)
    )
    await pushes("v1")
    deployment_id = await asked(app)
    waits = await waiting(app, deployment_id)
    assert waits.reason is not None
    assert (waits.attempts, waits.reason.code, waits.reason.message) == (0, Code.TOO_NEW, "gate told: not yet")
    assert all(engine.running == 0 for engine in supervisor.engines)
    (verdict,) = await verdicts(app, deployment_id)
    assert (verdict.gate_id, verdict.reason.message, verdict.evidence) == (gate_id, "not yet", {"a": "\ufffdb"})
    async with app.pool.acquire() as connection:
        wait = await queue_position.select_wait(connection, waits)
        counted = await gate_verdicts.count_waiting(connection)
        # It may wait for longer than a deployment may be retried.
        await connection.execute(
            "UPDATE deployments SET requested_at = now() - interval '9 days' WHERE deployment_id = $1", deployment_id
        )
    assert wait is not None
    assert wait.waits_for.startswith("the gate told, which is asked again at the latest at ")
    assert counted["told"] >= 1
    told.answers["it"] = PASSES
    async with app.pool.acquire() as connection:
        await gate_verdicts.wake(connection, [deployment_id])
    done = await app.ended(deployment_id)
    assert (done.status, done.attempts) == (Status.SUCCEEDED, 1)


@pytest.mark.long
async def test_a_wait_that_asks_again_and_again_keeps_the_steps_of_one_attempt(
    app: DeployedApp, pushes: Pushes, told: Told
) -> None:
    await gate(app)
    told.answers["it"] = unknown(Code.TOO_NEW, "not yet", ask_again_at=datetime.now(UTC) + timedelta(days=3))
    await pushes("v1")
    deployment_id = await asked(app)
    for times in range(1, 4):
        waits = await waiting(app, deployment_id)
        assert await app.steps(waits) == [Step.RESOLVE, Step.GATES]
        assert len(told.asked) == times
        async with app.pool.acquire() as connection:
            await gate_verdicts.wake(connection, [deployment_id])

        async def asked_again(so_far: int = times) -> bool | None:
            return True if len(told.asked) > so_far else None

        await until(asked_again)
    await waiting(app, deployment_id)
    await cancel.cancel_deployment(app.pool, deployment_id)
    assert (await app.ended(deployment_id)).status is Status.CANCELLED


@pytest.mark.long
async def test_a_deployment_is_cancelled_while_its_gates_are_asked(
    app: DeployedApp, pushes: Pushes, told: Told
) -> None:
    await gate(app)
    asks = asyncio.Event()

    async def hang() -> None:
        asks.set()
        await asyncio.Event().wait()

    told.meanwhile = hang
    await pushes("v1")
    deployment_id = await asked(app)
    await asks.wait()
    await cancel.cancel_deployment(app.pool, deployment_id)
    assert (await app.ended(deployment_id)).status is Status.CANCELLED
    assert await app.containers() == []


async def test_what_wakes_a_deployment_while_it_asks_lets_it_ask_again(
    app: DeployedApp, pushes: Pushes, told: Told
) -> None:
    await gate(app)

    async def wake() -> None:
        told.answers["it"] = PASSES
        async with app.pool.acquire() as connection:
            await gate_verdicts.wake(connection, [deployment_id])

    told.meanwhile = wake
    told.answers["it"] = unknown(Code.TOO_NEW, "not yet", ask_again_at=datetime.now(UTC) + timedelta(days=3))
    await pushes("v1")
    deployment_id = await asked(app)
    assert (await app.ended(deployment_id)).status is Status.SUCCEEDED


async def test_a_rollback_to_a_kept_container_passes_a_freeze_and_is_asked_about_its_image(
    app: DeployedApp, pushes: Pushes, told: Told
) -> None:
    first = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await pushes("v2")
    await app.ask(Kind.DEPLOY)
    await gate(app, "frozen", key="freeze")
    await gate(app, "told")
    told.answers["freeze"] = REFUSES
    told.answers["it"] = REFUSES
    refused = await app.roll_back()
    assert refused.reason is not None
    assert (refused.status, refused.reason.code) == (Status.FAILED, Code.GATE_REFUSED)
    assert told.asked[-1].digest == first
    told.answers["it"] = PASSES
    back = await app.roll_back()
    assert (back.status, back.digest) == (Status.SUCCEEDED, first)
    assert Step.GATES in await app.steps(back)
    assert Step.PULL not in await app.steps(back)
    frozen, _ = await verdicts(app, back.deployment_id)
    assert frozen.reason.message.startswith("not asked: this version has served before")


@pytest.mark.long
async def test_a_start_of_what_was_removed_is_asked_and_a_start_of_what_was_stopped_is_not(
    app: DeployedApp, pushes: Pushes, told: Told
) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await gate(app)
    told.answers["it"] = REFUSES
    await app.ask(Kind.STOP)
    assert (await app.ask(Kind.START)).status is Status.SUCCEEDED
    await app.ask(Kind.STOP)
    await containers.remove(app.engine, (await app.serving()).container_id)
    refused = await app.ask(Kind.START)
    assert refused.reason is not None
    assert refused.reason.code is Code.GATE_REFUSED
    await app.set(environment="A=1")
    await app.ask(Kind.START)
    assert [one.rolls_back for one in told.asked] == [True, False]  # with this configuration it never served


async def test_without_gates_nothing_asks_the_database_about_them(
    app: DeployedApp, pushes: Pushes, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement that loads the application, which there was before, says that there are none."""
    _ = told
    said: list[str] = []
    kind: Any = asyncpg.Connection
    execute = kind._execute  # noqa: SLF001 - every statement that returns rows goes through it

    async def heard(self: Any, query: str, *arguments: Any, **options: Any) -> Any:
        said.append(query)
        return await execute(self, query, *arguments, **options)

    async def statements(version: str) -> tuple[int, int]:
        """Deploy, and return how many statements asked which gates there are, and how many asked for verdicts."""
        await pushes(version)
        said.clear()
        assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
        assert any("AS gated FROM applications WHERE application_id = $1" in one for one in said)
        gates = [one for one in said if "JOIN gates g" in one]
        verdicts = [one for one in said if re.search(r"(FROM|JOIN) gate_verdicts v USING|gate_overrides", one)]
        return len(gates), len(verdicts)

    monkeypatch.setattr(kind, "_execute", heard)
    assert await statements("v1") == (0, 0)
    await gate(app, "told")
    assert min(await statements("v2")) > 0
