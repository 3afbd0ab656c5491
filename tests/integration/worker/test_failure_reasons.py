"""Tests that a failure has one reason: the same in API, command line, log and alert."""

from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import AsyncMock, MagicMock

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.images import Behaviour
from gateway.cli.demo.process import GatewayProcess, until
from gateway.docker import runtime_factory
from gateway.docker.container import readiness
from gateway.docker.engine import containers, images
from gateway.docker.engine.client import Engine
from gateway.docker.engine.labels import DIGEST
from gateway.docker.runtime import Timeouts
from gateway.model.applications import Application
from gateway.model.configuration import Configuration
from gateway.model.deployments import Deployment, Kind, Status
from gateway.model.errors import Code, Failed, Postponed
from gateway.model.reference import Reference
from gateway.model.registries import ANONYMOUS
from gateway.rollout import attempt, recipes
from gateway.store import deployments
from gateway.store.rollout_journal import PostgresJournal
from gateway.worker import execution, retry
from tests.support.api_client import VAULT, Web
from tests.support.claiming import claim_one
from tests.support.command_line import gateway_process
from tests.support.databases import database_settings
from tests.support.real_parts import Pushes
from tests.support.rollout_env import DeployedApp

ENGINE = "reasons-engine"


# -- one reason, everywhere


@pytest.fixture
async def heard(
    tmp_path: Path, dockerd: PrivateEngine, postgres_server: str
) -> AsyncIterator[tuple[GatewayProcess, list[str]]]:
    """A gateway, and what people are told by it."""
    alerts: list[str] = []

    async def hear(request: web.Request) -> web.Response:
        alerts.append((await request.json())["message"])
        return web.Response()

    application = web.Application()
    application.router.add_post("/", hear)
    async with TestServer(application) as server:
        settings = {"GATEWAY_ALERT_URLS": f"json://127.0.0.1:{server.port}/", "GATEWAY_LOG_FORMAT": "json"}
        settings |= await database_settings(postgres_server, "heard")
        async with gateway_process(tmp_path / "gateway", dockerd.host, settings) as gateway:
            yield gateway, alerts


async def test_code_message_and_remedy_are_the_same_everywhere(
    heard: tuple[GatewayProcess, list[str]], pushes: Pushes
) -> None:
    gateway, alerts = heard
    await pushes("v1", behaviour=Behaviour.EXITS)
    await gateway.mutate("application.create", {"name": "a", "applicationId": "a", "dockerImage": pushes.name()})
    await gateway.mutate("application.deploy", {"applicationId": "a"})
    failed = await gateway.settled("a")
    reason = failed["reason"]
    assert reason["code"] == Code.EXITED
    assert "code 3" in reason["message"]

    shown = await gateway.cli("deployments", "show", failed["deploymentId"])
    assert all(word in shown for word in [*reason.values(), "boom: cannot reach the database"])

    async def told() -> str | None:
        return alerts[0] if alerts else None

    assert {reason["message"], reason["remedy"], f"Code: {reason['code']}"} <= set((await until(told)).splitlines())
    lines = [orjson.loads(line) for line in gateway.log.read_text().splitlines() if '"Rolled out"' in line]
    assert [(line["code"], line["reason"], line["remedy"]) for line in lines] == [
        (reason["code"], reason["message"], reason["remedy"])
    ]


# -- reasons of the gateway's own


def _recipe(kind: Kind, reference: Reference | None) -> attempt.Task:
    deployment = MagicMock(kind=kind, reference=reference, deployment_id="d", epoch=1, cancelled_at=None)
    application = MagicMock(spec=Application, configuration=Configuration(), adopted_spec=None, restored_at=None)
    application.name = "web"
    return attempt.Task(deployment, application, ANONYMOUS, AsyncMock())


@pytest.mark.parametrize(
    ("kind", "code"), [(Kind.DEPLOY, Code.NO_IMAGE), (Kind.ROLLBACK, Code.NOTHING_KEPT)], ids=["no image", "no version"]
)
async def test_a_deployment_without_an_image_fails(monkeypatch: pytest.MonkeyPatch, kind: Kind, code: Code) -> None:
    monkeypatch.setattr(runtime_factory, "open_runtime", AsyncMock())
    context = attempt.RolloutContext(MagicMock(), MagicMock(), MagicMock(), MagicMock(), MagicMock(), 10)
    outcome = await recipes.roll_out(context, _recipe(kind, None), AsyncMock(lost=False), None)
    assert outcome.reason is not None
    assert (outcome.status, outcome.reason.code) == (Status.FAILED, code)
    assert "web" in outcome.reason.message


async def test_a_defect_fails_the_deployment_not_the_gateway(
    app: DeployedApp, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pushes("v1")
    with monkeypatch.context() as patched:
        patched.setattr(execution, "roll_out", AsyncMock(side_effect=RuntimeError("a defect")))
        failed = await app.ask(Kind.DEPLOY)
    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == (Status.FAILED, Code.INTERNAL)
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED


@pytest.fixture
async def claimed(web: Web) -> Deployment:
    async with web.pool.acquire() as connection:
        await connection.execute(
            "INSERT INTO engines (engine_id, name, version, platform) VALUES ($1, '', '', '') ON CONFLICT DO NOTHING",
            ENGINE,
        )
    await web.mutate("application.create", name="Web", applicationId="app", dockerImage="acme/web")
    await web.mutate("application.deploy", applicationId="app")
    found = await claim_one(web.pool, "o", ENGINE, lease=60)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("code", "deadline", "status", "told"),
    [
        (Code.GATEWAY_STOPPED, 60, Status.QUEUED, Code.GATEWAY_STOPPED),
        (Code.RATE_LIMITED, 60, Status.QUEUED, Code.RATE_LIMITED),
        (Code.RATE_LIMITED, 0, Status.FAILED, Code.TOO_MANY_ATTEMPTS),
    ],
)
async def test_a_postponed_deployment_shows_its_reason_until_the_deadline(
    web: Web, claimed: Deployment, code: Code, deadline: float, status: Status, told: Code
) -> None:
    journal, error = PostgresJournal(web.pool, VAULT, claimed), Postponed(code, "docker.io limits our requests")
    answer = await retry.postpone(web.pool, claimed, journal, error, deadline=deadline)
    async with web.pool.acquire() as connection:
        found = await deployments.select_deployment(connection, claimed.deployment_id)
    assert (found.status, found.reason) == (answer.status, answer.reason)
    assert found.reason is not None
    assert (found.status, found.reason.code) == (status, told)
    assert "docker.io limits our requests" in found.reason.message


# -- what the engine does not keep to


async def quiet(_detail: str) -> None:
    """Nobody watches the pull."""


async def test_a_pull_that_ends_without_the_image_is_retried(
    engine: Engine, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = Reference.parse(pushes.name()).with_digest(await pushes("v1"))
    monkeypatch.setattr(images, "inspect", AsyncMock(return_value=None))
    with pytest.raises(Postponed, match="ended before the image was complete") as caught:
        await images.pull(engine, reference, None, progress=quiet, stall=20)
    assert caught.value.reason.code is Code.PULL_INTERRUPTED


async def test_a_container_with_another_digest_is_rejected(engine: Engine, pushes: Pushes) -> None:
    reference = Reference.parse(pushes.name()).with_digest(await pushes("v1"))
    await images.pull(engine, reference, None, progress=quiet, stall=20)
    body = {"Image": f"{reference.repository}@{reference.digest}", "Labels": {DIGEST: "sha256:" + "0" * 64}}
    container = await containers.create(engine, f"other-{pushes.path.rpartition('/')[2]}", body, {})
    try:
        await containers.start(engine, container)
        timeouts = Timeouts(stable_window=0, health_deadline=20, pull_stall=20, call_margin=5, kept_for=60)
        with pytest.raises(Failed, match="does not run sha256:0") as caught:
            await readiness.wait_until_ready(engine, container, timeouts, None)
    finally:
        await containers.remove(engine, container)
    assert caught.value.reason.code is Code.WRONG_DIGEST
