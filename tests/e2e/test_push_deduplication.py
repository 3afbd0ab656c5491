"""However often and in whatever order one push is deployed, the application restarts once, on the newest image."""

import asyncio
import hashlib
import hmac
from collections import Counter
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson
import pytest

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.images import Behaviour, Image, Pusher
from gateway.cli.demo.process import GatewayProcess
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine
from gateway.model.reference import Digest, Reference
from tests.support.command_line import gateway_process
from tests.support.databases import database_settings
from tests.support.distribution_hooks import Hook, envelope
from tests.support.real_parts import Pushes

FAST = {"GATEWAY_STABLE_WINDOW": "0.3", "GATEWAY_REGISTRY_LAG": "1", "GATEWAY_LOG_FORMAT": "text"}


@pytest.fixture(scope="module")
async def gateway(
    tmp_path_factory: pytest.TempPathFactory, dockerd: PrivateEngine, engine: Engine, postgres_server: str
) -> AsyncIterator[GatewayProcess]:
    settings = {**FAST, **await database_settings(postgres_server, "pushed")}
    async with gateway_process(tmp_path_factory.mktemp("one"), dockerd.host, settings) as process:
        yield process
        for one in await process.query("application.all"):
            for container in await containers.list_labelled(engine, one["applicationId"]):
                await containers.remove(engine, container.container_id)


class DeployedApplication:
    """An application that runs its first image, and those who tell of the next."""

    def __init__(self, gateway: GatewayProcess, engine: Engine, pushes: Pushes, application_id: str) -> None:
        self.gateway, self.engine, self.pushes, self.application_id = gateway, engine, pushes, application_id

    async def restarts(self) -> list[str]:
        """Wait until all has ended; return the digests of what was brought to run, the oldest first."""
        await self.gateway.settled(self.application_id)
        rows = reversed(await self.gateway.deployments(self.application_id))
        return [row["digest"] for row in rows if row["state"] == "succeeded"]


async def _running(engine: Engine, application_id: str) -> list[str]:
    found = await containers.list_labelled(engine, application_id)
    return [container.labels["gateway.digest"] for container in found if container.running]


@pytest.fixture
async def deployed(gateway: GatewayProcess, engine: Engine, pushes: Pushes) -> DeployedApplication:
    application_id = pushes.path.rpartition("/")[2]
    await pushes("first")
    given = {"name": application_id, "applicationId": application_id, "dockerImage": pushes.name()}
    await gateway.mutate("application.create", given)
    await gateway.mutate("application.deploy", {"applicationId": application_id})
    assert (await gateway.settled(application_id))["state"] == "succeeded"
    return DeployedApplication(gateway, engine, pushes, application_id)


async def _post(gateway: GatewayProcess, path: str, body: bytes, **headers: str) -> None:
    """Send it until it is taken: a busy machine may not store it in time, and answers 503."""
    status = None
    async with aiohttp.ClientSession() as session:
        while status in {None, HTTPStatus.SERVICE_UNAVAILABLE}:
            async with session.post(gateway.url + path, data=body, headers=headers) as answer:
                status = answer.status
    assert status in {200, 202}


async def test_six_hooks_of_a_push_for_many_platforms_restart_once(deployed: DeployedApplication) -> None:
    made = await deployed.gateway.endpoint("generic")
    newest = await deployed.pushes("second")
    sent = {"Authorization": f"Bearer {made['secret']}"}
    for number in range(6):
        body = orjson.dumps({"image": deployed.pushes.name(), "pushed_at": 1_700_000_000 + number})
        await _post(deployed.gateway, made["path"], body, **sent)
        # One is queued, joined, or comes while the first is rolled out.
        await asyncio.sleep(0.1)
    assert (await deployed.restarts())[1:] == [newest]
    assert await _running(deployed.engine, deployed.application_id) == [newest]


async def test_package_and_registry_package_restart_once(deployed: DeployedApplication) -> None:
    made = await deployed.gateway.endpoint("github")
    newest = await deployed.pushes("second")
    version = {
        "version": newest,
        "package_url": deployed.pushes.name(),
        "container_metadata": {"tag": {"name": "latest", "digest": newest}},
    }
    package = {"name": "web", "namespace": "acme", "package_type": "CONTAINER", "package_version": version}
    for event in ("package", "registry_package"):
        body = orjson.dumps({"action": "published", event: package})
        signature = hmac.new(made["secret"].encode(), body, hashlib.sha256).hexdigest()
        sent = {"X-GitHub-Event": event, "X-Hub-Signature-256": f"sha256={signature}"}
        await _post(deployed.gateway, made["path"], body, **sent)
    assert (await deployed.restarts())[1:] == [newest]
    assert await _running(deployed.engine, deployed.application_id) == [newest]


@pytest.mark.long
async def test_events_out_of_order_end_on_the_newest(deployed: DeployedApplication) -> None:
    hook = await Hook.open(deployed.gateway)
    second, third = await deployed.pushes("second"), await deployed.pushes("third")
    for digest in (third, second):
        assert (await hook.post(envelope(deployed.pushes.name(), digest)))[0] == 202
    assert (await deployed.restarts())[1:] == [third]
    assert await _running(deployed.engine, deployed.application_id) == [third]


@pytest.mark.long
async def test_an_event_repeated_after_its_deployment_failed_tries_again(deployed: DeployedApplication) -> None:
    hook = await Hook.open(deployed.gateway)
    name = deployed.pushes.name()
    broken = await deployed.pushes("broken", behaviour=Behaviour.EXITS)
    event = envelope(name, broken, "9b1f6a52-7d1b-4f0a-8a3e-0d8c1b8f6a01")
    assert (await hook.post(event))[0] == 202
    assert (await deployed.gateway.settled(deployed.application_id, count=2))["state"] in {"failed", "rolled_back"}
    mended: Digest = await deployed.pushes("mended")
    status, answer = await hook.post(event)
    assert (status, answer["duplicateOf"]) == (202, None)
    assert (await deployed.restarts())[1:] == [mended]
    status, answer = await hook.post(event)
    assert (status, answer["deployments"]) == (200, [])


async def _post_until_taken(hook: Hook, body: bytes, session: aiohttp.ClientSession) -> tuple[int, dict[str, Any]]:
    """Send it again while the answer is 503, as a registry does: a busy machine may not store all in time."""
    while (answer := await hook.post(body, session))[0] == HTTPStatus.SERVICE_UNAVAILABLE:
        pass
    return answer


@pytest.mark.parametrize(("many", "versions"), [(3, 5), pytest.param(5, 40, marks=pytest.mark.long)])
async def test_many_pushes_at_once_end_on_the_newest_and_again_start_nothing(
    gateway: GatewayProcess, engine: Engine, pushes: Pushes, many: int, versions: int
) -> None:
    hook = await Hook.open(gateway)
    newest: dict[str, Digest] = {}
    bodies: list[bytes] = []
    async with aiohttp.ClientSession() as session:
        pusher = Pusher(session, f"http://{pushes.address}")
        for number in range(many):
            name = f"{pushes.address}/{pushes.path}/app{number}:latest"
            await gateway.mutate(
                "application.create", {"name": "a", "applicationId": f"{many}-{number}", "dockerImage": name}
            )
            for version in range(versions):
                digest = await pusher.push(Image(f"{number}-{version}"), Reference.parse(name))
                bodies.append(envelope(name, digest))
                newest[f"{many}-{number}"] = digest
        answers = await asyncio.gather(*(_post_until_taken(hook, body, session) for body in bodies))
        assert {status for status, _ in answers} <= {200, 202}
        for application_id, digest in newest.items():
            await gateway.settled(application_id)
            assert await _running(engine, application_id) == [digest]
        before = [one for number in range(many) for one in await gateway.deployments(f"{many}-{number}")]
        assert {one["state"] for one in before} <= {"succeeded", "unchanged", "superseded"}
        accepted = {one["deploymentId"] for _, answer in answers for one in answer["deployments"]}
        assert accepted == {one["deploymentId"] for one in before}

        again = await asyncio.gather(*(_post_until_taken(hook, body, session) for body in bodies))
        assert Counter(status for status, _ in again) == {200: len(bodies)}
        assert sorted(answer["duplicateOf"] for _, answer in again) == sorted(
            answer.get("duplicateOf") or answer["deliveryId"] for _, answer in answers
        )
        after = [one for number in range(many) for one in await gateway.deployments(f"{many}-{number}")]
        assert len(before) == len(after)
