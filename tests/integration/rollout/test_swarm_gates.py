"""Gates of an application that runs as a service of a real Swarm."""

from pathlib import Path

import aiohttp
import pytest

from gateway.admin import gate_overrides
from gateway.admin import gates as admin
from gateway.cli.demo.process import until
from gateway.docker.engine.labels import DIGEST
from gateway.model.deployments import Deployment, Kind, Status, Step
from gateway.model.errors import Code
from gateway.model.gates import Level, Verdict
from gateway.model.reference import Reference
from gateway.queue import enqueue
from gateway.store import applications, deployments, gate_verdicts
from gateway.store.gates import Owner
from tests.support.attaching import Signable
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, DeployedApp
from tests.support.signing import SigningKey, simple_payload
from tests.support.swarm_application import app, pushes, running, service_of, supervised_swarm

__all__ = ["app", "pushes", "supervised_swarm"]  # fixtures

pytestmark = pytest.mark.long


async def gate(app: DeployedApp, kind: str, **rule: object) -> None:
    owner = Owner(Level.APPLICATION, app.application_id)
    await admin.create(app.pool, VAULT, owner, kind=kind, rule=rule)


async def digests(app: DeployedApp) -> list[str]:
    """Return what the tasks run."""
    return [task.labels[DIGEST] for task in await running(app)]


async def test_a_service_gets_what_was_signed_and_is_not_touched_for_what_was_not(
    app: DeployedApp, pushes: Pushes, tmp_path: Path
) -> None:
    key = SigningKey.generate(tmp_path)
    await gate(app, "signature", keys=[key.public], wait=1)
    async with aiohttp.ClientSession() as session:

        async def sign(digest: object) -> None:
            signed = Signable(session, Reference.parse(f"{pushes.name()}@{digest}"))
            content = simple_payload(signed.digest)
            await signed.sign(content, key.sign(content))

        first = await pushes("v1")
        await sign(first)
        done = await app.ask(Kind.DEPLOY)
        assert (done.status, await digests(app)) == (Status.SUCCEEDED, [first]), done.reason
        before, tasks = await service_of(app), [one.task_id for one in await running(app)]

        second = await pushes("v2")
        refused = await app.ask(Kind.DEPLOY)
        assert refused.reason is not None
        assert (refused.status, refused.reason.code) == (Status.FAILED, Code.UNSIGNED)
        assert Step.PULL not in await app.steps(refused)
        assert (await service_of(app)).spec == before.spec
        assert [one.task_id for one in await running(app)] == tasks

        await sign(second)
        done = await app.ask(Kind.DEPLOY)
    assert (done.status, await digests(app)) == (Status.SUCCEEDED, [second]), done.reason
    assert (await service_of(app)).spec["TaskTemplate"]["ContainerSpec"]["Image"] == f"{pushes.name()}@{second}"


async def test_a_service_waits_at_a_gate_until_a_person_lets_it_pass_and_is_rolled_back_past_it(
    app: DeployedApp, pushes: Pushes
) -> None:
    first = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await gate(app, "maturity", age="3d")
    second = await pushes("v2")
    async with app.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, app.application_id)
    queued = await enqueue.request_deployment(app.pool, application, Kind.DEPLOY, title="asked")

    async def waits() -> Deployment | None:
        async with app.pool.acquire() as connection:
            found = await deployments.select_deployment(connection, queued)
        return found if found.status is Status.QUEUED and found.reason is not None else None

    waiting = await until(waits)
    assert waiting.reason is not None
    assert (waiting.reason.code, await digests(app)) == (Code.TOO_NEW, [first])
    assert await gate_overrides.override(app.pool, VAULT, queued, "maturity", "it is urgent") == queued
    assert (await app.ended(queued)).status is Status.SUCCEEDED
    assert await digests(app) == [second]

    back = await app.roll_back()
    assert (back.status, await digests(app)) == (Status.SUCCEEDED, [first]), back.reason
    async with app.pool.acquire() as connection:
        (verdict,) = await gate_verdicts.select_verdicts(connection, back.deployment_id)
    assert (verdict.verdict, verdict.evidence) == (Verdict.PASSED, {"asked": False})
