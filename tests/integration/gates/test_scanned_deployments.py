"""Deployments that wait for a scanner or a hook, go on once it answers, and fail where it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.admin import gates as admin
from gateway.cli.demo.process import until
from gateway.model.deployments import Deployment, Kind, Status
from gateway.model.errors import Code
from gateway.model.gates import Level, Verdict
from gateway.queue import enqueue
from gateway.store import applications, deployments, gate_verdicts
from gateway.store.gates import Owner
from gateway.worker.supervisor import Supervisor
from tests.integration.gates.test_vulnerabilities import PLANTED, TRIVY, real_trivy
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, DeployedApp
from tests.support.scanned_images import alpine, push_files
from tests.support.token_registries import served
from tests.support.trivy_database import write_database


async def gated(app: DeployedApp, kind: str, **rule: Any) -> None:
    await admin.create(app.pool, VAULT, Owner(Level.APPLICATION, app.application_id), kind=kind, rule=rule)


async def asked(app: DeployedApp) -> str:
    async with app.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, app.application_id)
    return await enqueue.request_deployment(app.pool, application, Kind.DEPLOY, title="asked")


async def waits(app: DeployedApp, deployment_id: str) -> Deployment:
    """Wait until the deployment waits at a gate."""

    async def look() -> Deployment | None:
        async with app.pool.acquire() as connection:
            found = await deployments.select_deployment(connection, deployment_id)
        return found if found.status is Status.QUEUED and found.reason is not None else None

    return await until(look)


async def verdict(app: DeployedApp, deployment_id: str) -> gate_verdicts.GateVerdict:
    async with app.pool.acquire() as connection:
        (one,) = await gate_verdicts.select_verdicts(connection, deployment_id)
    return one


@real_trivy
async def test_a_deployment_waits_for_the_scanner_goes_on_and_fails_on_a_planted_flaw(
    app: DeployedApp, pushes: Pushes, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = supervisor.context.settings.model_copy(update={"trivy": str(TRIVY), "data_dir": tmp_path})
    monkeypatch.setattr(supervisor.context, "settings", settings)
    await gated(app, "vulnerabilities")
    await pushes("v1")
    deployment_id = await asked(app)
    waiting = await waits(app, deployment_id)
    assert waiting.reason is not None
    assert waiting.reason.code is Code.GATE_UNANSWERED
    assert "gate vulnerabilities: Trivy has no database" in waiting.reason.message
    write_database(tmp_path / "trivy", PLANTED)
    done = await app.ended(deployment_id)
    assert done.status is Status.SUCCEEDED
    assert (await verdict(app, deployment_id)).decision.verdict is Verdict.PASSED
    before = await app.serving()

    await push_files(pushes.address, pushes.path, alpine(openssl="3.1.4-r0"))
    failed = await app.ended(await asked(app))
    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == (Status.FAILED, Code.VULNERABLE)
    assert "CVE-2026-1 in openssl 3.1.4-r0, fixed in 3.1.5-r0" in failed.reason.message
    assert (await verdict(app, failed.deployment_id)).decision.evidence["counts"]["critical"] == 1
    assert (await app.serving()).container_id == before.container_id


async def test_a_deployment_waits_for_a_hook_that_says_later_and_fails_when_it_refuses(
    app: DeployedApp, pushes: Pushes
) -> None:
    says: dict[str, Any] = {"verdict": "later", "message": "the board meets at ten", "retryAfter": 1}
    told: list[dict[str, Any]] = []

    async def hook(request: web.Request) -> web.Response:
        told.append(json.loads(await request.read()))
        return web.json_response(says)

    async with served(hook) as address:
        await gated(app, "external", url=f"http://{address}/")
        digest = await pushes("v1")
        deployment_id = await asked(app)
        waiting = await waits(app, deployment_id)
        assert waiting.reason is not None
        assert waiting.reason.message == "gate external: the hook says: the board meets at ten"
        says = {"verdict": "pass"}
        assert (await app.ended(deployment_id)).status is Status.SUCCEEDED
        assert {one["digest"] for one in told} == {digest}
        assert told[0]["deploymentId"] == deployment_id
        says = {"verdict": "refuse", "message": "frozen"}
        await pushes("v2")
        failed = await app.ended(await asked(app))
    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == (Status.FAILED, Code.GATE_REFUSED)
    assert failed.reason.message == "gate external: the hook says: frozen"
    assert told[-1]["servingDigest"] == digest
