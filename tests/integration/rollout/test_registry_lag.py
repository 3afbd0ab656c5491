"""Tests that a registry may lag behind its push events, and that artifacts other than images are not deployed."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.cli.demo.images import Image, Pusher, digest_of
from gateway.cli.demo.process import until
from gateway.docker.engine import containers, images
from gateway.docker.engine.client import Engine, ReachedEngine
from gateway.model.deliveries import Verdict
from gateway.model.deployments import Deployment, Kind, Status
from gateway.model.errors import Code
from gateway.model.events import Notification, PushEvent
from gateway.model.reference import Digest, Reference
from gateway.model.tag_policies import TagPolicy
from gateway.queue import enqueue, ingest
from gateway.store import applications, delivery_log, deployments, queue, subscriptions
from gateway.store.database import Pool
from gateway.worker.supervisor import Supervisor
from gateway.worker.version_retention import remove_unused_images
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, DeployedApp, an_application
from tests.support.token_registries import served

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class Replica:
    """Passes on what the registry answers, but for what it is behind with."""

    registry: str
    address: str = ""
    #: what it answers instead, by the end of the path
    instead: dict[str, web.Response] = field(default_factory=dict)
    #: another name is answered for, by the end of the path
    stale: dict[str, Digest] = field(default_factory=dict)
    #: how often the engine is told that there is no such thing
    engine_misses: int = 0
    #: set when the engine has asked for an image
    engine_asked: asyncio.Event = field(default_factory=asyncio.Event)
    #: whether it answers what the tag names only then
    engine_first: bool = False
    #: what only the engine is given, by the end of the path
    engine_only: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        last = request.path.rpartition("/")[2]
        if "docker/" in request.headers.get("User-Agent", "") and "/manifests/" in request.path:
            self.engine_asked.set()
            if self.engine_misses:
                self.engine_misses -= 1
                return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404)
        elif last == self.engine_only:
            return web.Response(status=404)
        elif self.engine_first and last == "latest":
            await self.engine_asked.wait()
        if (given := self.instead.get(last)) is not None:
            return web.Response(status=given.status, body=given.body, content_type=given.content_type)
        path = request.path if last not in self.stale else request.path.replace(f"/{last}", f"/{self.stale[last]}")
        sent = {"Accept": ", ".join(request.headers.getall("Accept", ["*/*"]))}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(request.method, f"http://{self.registry}{path}", headers=sent) as answer,
        ):
            kept = {n: answer.headers[n] for n in ("Content-Type", "Docker-Content-Digest") if n in answer.headers}
            if request.method == "HEAD":
                return web.Response(
                    status=answer.status, headers={**kept, "Content-Length": str(answer.content_length)}
                )
            return web.Response(status=answer.status, headers=kept, body=await answer.read())


@pytest.fixture
async def replica(pushes: Pushes) -> AsyncIterator[Replica]:
    replica = Replica(pushes.address)
    async with served(replica.answer) as replica.address:
        yield replica


@pytest.fixture
async def behind(
    pool: Pool, engine: Engine, supervisor: Supervisor, pushes: Pushes, replica: Replica
) -> AsyncIterator[DeployedApp]:
    """An application that serves its first image, from a registry that may lag."""
    app = await an_application(pool, engine, Pushes(replica.address, pushes.path))
    await pushes("first")
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    yield app
    for container in await app.containers():
        await containers.remove(engine, container.container_id)


async def told(app: DeployedApp, name: str, digest: Digest | None = None) -> str:
    """Tell of a push; return the deployment it caused."""
    reference = Reference.parse(name)
    assert reference.tag is not None
    event = PushEvent(reference.repository, reference.tag, digest)
    receipt = await ingest.ingest_delivery(app.pool, app.endpoint, name.encode(), Notification((event,)))
    async with app.pool.acquire() as connection:
        await queue.notify(connection)
    return receipt.deployments[0].deployment_id


async def postponed(app: DeployedApp, deployment_id: str) -> Deployment:
    async def look() -> Deployment | None:
        async with app.pool.acquire() as connection:
            found = await deployments.select_deployment(connection, deployment_id)
        assert found.status in {Status.QUEUED, Status.RUNNING}, found
        return found if found.status is Status.QUEUED and found.reason is not None else None

    return await until(look)


@pytest.mark.long
async def test_a_tag_that_still_names_the_old_image_is_resolved_again(
    behind: DeployedApp, replica: Replica, pushes: Pushes
) -> None:
    serving = (await behind.newest()).digest
    assert serving is not None
    replica.stale["latest"] = serving
    newest = await pushes("second")
    deployment_id = await told(behind, Pushes(replica.address, pushes.path).name(), newest)
    waiting = await postponed(behind, deployment_id)
    assert waiting.reason is not None
    assert newest in waiting.reason.message
    replica.stale.clear()
    ended = await behind.ended(deployment_id)
    assert (ended.status, ended.digest) == (Status.SUCCEEDED, newest)


PAGE = web.Response(body=b"<html>log in</html>", content_type="text/html")


@pytest.mark.parametrize(
    ("instead", "code"),
    [
        (web.Response(status=404), Code.NOT_FOUND),
        pytest.param(PAGE, Code.REGISTRY_UNREACHABLE, marks=pytest.mark.long),
        pytest.param(
            web.Response(body=b"", content_type="application/octet-stream"),
            Code.REGISTRY_UNREACHABLE,
            marks=pytest.mark.long,
        ),
        pytest.param(web.json_response({"errors": []}), Code.REGISTRY_UNREACHABLE, marks=pytest.mark.long),
    ],
    ids=["missing", "page", "nothing", "other"],
)
async def test_a_pushed_tag_that_the_registry_lacks_yet_is_awaited(
    behind: DeployedApp, replica: Replica, pushes: Pushes, instead: web.Response, code: Code
) -> None:
    replica.instead["latest"] = instead
    newest = await pushes("second")
    deployment_id = await told(behind, Pushes(replica.address, pushes.path).name())
    waiting = await postponed(behind, deployment_id)
    assert waiting.reason is not None
    assert waiting.reason.code is code
    replica.instead.clear()
    ended = await behind.ended(deployment_id)
    assert (ended.status, ended.digest) == (Status.SUCCEEDED, newest)


@pytest.mark.long
async def test_a_pull_from_a_lagging_replica_is_retried(behind: DeployedApp, replica: Replica, pushes: Pushes) -> None:
    newest = await pushes("second")
    replica.engine_misses = 4
    ended = await behind.ended(await told(behind, Pushes(replica.address, pushes.path).name(), newest))
    assert (ended.status, ended.digest, ended.attempts > 1) == (Status.SUCCEEDED, newest, True)


async def test_the_pushed_image_is_pulled_before_the_registry_has_said_what_the_tag_names(
    behind: DeployedApp, replica: Replica, pushes: Pushes
) -> None:
    newest = await pushes("second")
    replica.engine_asked.clear()
    replica.engine_first = True
    ended = await behind.ended(await told(behind, Pushes(replica.address, pushes.path).name(), newest))
    assert (ended.status, ended.digest, ended.attempts) == (Status.SUCCEEDED, newest, 1)


async def test_an_image_that_was_pulled_ahead_is_removed_when_the_tag_names_another(
    behind: DeployedApp, replica: Replica, pushes: Pushes
) -> None:
    pushed, newest = await pushes("second"), await pushes("third")
    replica.engine_only = pushed  # so that the gateway believes what the tag names
    ended = await behind.ended(await told(behind, Pushes(replica.address, pushes.path).name(), pushed))
    assert (ended.status, ended.digest) == (Status.SUCCEEDED, newest)
    name = f"{Reference.parse(Pushes(replica.address, pushes.path).name()).repository}@{pushed}"
    assert await images.inspect(behind.engine, name) is not None
    await remove_unused_images(behind.pool, ReachedEngine(behind.engine, await behind.engine.identify(), [None]))
    assert await images.inspect(behind.engine, name) is None


async def test_a_tag_that_a_person_mistyped_fails_at_once(behind: DeployedApp) -> None:
    async with behind.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, behind.application_id)
    queued = await enqueue.request_deployment(behind.pool, application, Kind.DEPLOY, title="asked", tag="nope")
    ended = await behind.ended(queued)
    assert (ended.status, ended.attempts) == (Status.FAILED, 1)
    async with behind.pool.acquire() as connection:
        after = await applications.select_application(connection, VAULT, behind.application_id)
    assert after.docker_image == application.docker_image


# -- what is no image


CHART = {
    "config": ("application/vnd.cncf.helm.config.v1+json", b'{"name":"chart","version":"1.1.0","apiVersion":"v2"}'),
    "layers": [("application/vnd.cncf.helm.chart.content.v1.tar+gzip", b"chart")],
}
ARTIFACT = {
    "artifactType": "application/vnd.acme.sbom",
    "config": ("application/vnd.oci.empty.v1+json", b"{}"),
    "layers": [("text/plain", b"words")],
}
SIGNATURE = {
    "config": ("application/vnd.oci.image.config.v1+json", b"{}"),
    "layers": [("application/vnd.dev.cosign.simplesigning.v1+json", b"{}")],
}
EMPTY_INDEX: dict[str, Any] = {"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}


async def put(name: str, what: dict[str, Any]) -> Digest:
    """Push whatever it is."""
    reference = Reference.parse(name)

    async with aiohttp.ClientSession() as session:
        pusher = Pusher(session, f"http://{reference.repository.domain}")

        async def descriptor(kind: str, blob: bytes) -> dict[str, Any]:
            await pusher.push_blob(reference.repository.path, blob)
            return {"mediaType": kind, "digest": digest_of(blob), "size": len(blob)}

        manifest: dict[str, Any] = {"schemaVersion": 2, "mediaType": MANIFEST} | what
        if "config" in what:
            manifest["config"] = await descriptor(*what["config"])
            manifest["layers"] = [await descriptor(*layer) for layer in what["layers"]]
        return await pusher.put_manifest(reference, json.dumps(manifest).encode(), manifest["mediaType"])


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(CHART, id="chart"),
        pytest.param(ARTIFACT, id="artifact", marks=pytest.mark.long),
        pytest.param(SIGNATURE, id="signature", marks=pytest.mark.long),
        pytest.param(EMPTY_INDEX, id="index", marks=pytest.mark.long),
    ],
)
async def test_a_pushed_artifact_that_is_no_image_is_ignored(
    app: DeployedApp, pushes: Pushes, what: dict[str, Any]
) -> None:
    await pushes("first", tag="1.0.0")
    await app.set(docker_image=pushes.name("1.0.0"))
    async with app.pool.acquire() as connection:
        repository = Reference.parse(pushes.name()).repository
        await subscriptions.insert_subscription(
            connection, app.application_id, repository, TagPolicy.parse("semver", "^1")
        )
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    await put(pushes.name("1.1.0"), what)
    receipt = await app.pushed(pushes.name("1.1.0"), b"chart")
    ended = await app.ended(receipt.deployments[0].deployment_id)
    assert ended.reason is not None
    assert (ended.status, ended.reason.code) == (Status.UNCHANGED, Code.NO_IMAGE)
    async with app.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, app.application_id)
        delivery, _ = await delivery_log.select_delivery(connection, receipt.delivery_id)
        state = await applications.select_states(connection, [app.application_id])
    assert application.docker_image == pushes.name("1.0.0")
    assert state == {app.application_id: "succeeded"}
    assert delivery.verdict is Verdict.IGNORED
    assert "is not an image" in delivery.ignored[-1].reason
    redeployed = await app.ask(Kind.REDEPLOY)
    assert redeployed.reason is not None
    assert (redeployed.reason.code, str(redeployed.reference)) == (Code.SATISFIED, pushes.name("1.0.0"))
    await pushes("lower than the chart", tag="1.0.5")
    again = await app.ended((await app.pushed(pushes.name("1.0.5"), b"image")).deployments[0].deployment_id)
    assert again.status is Status.SUCCEEDED


async def test_a_manual_deployment_of_a_chart_fails_with_its_type(app: DeployedApp, pushes: Pushes) -> None:
    await put(pushes.name(), CHART)
    failed = await app.ask(Kind.DEPLOY)
    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == (Status.FAILED, Code.NO_IMAGE)
    assert "helm" in failed.reason.message


# -- layers


CONFIG = {
    "architecture": Image("").architecture,
    "os": "linux",
    "config": {"Cmd": ["/x"]},
    "rootfs": {"type": "layers", "diff_ids": [digest_of(b"x")]},
}


@pytest.mark.parametrize(
    ("kind", "layer", "said"),
    [
        ("tar+gzip", b"not a gzip at all", "cannot unpack a layer"),
        ("tar+zstd", b"\x28\xb5\x2f\xfd" + bytes(64), "zstd-compressed, which needs Docker Engine 23"),
    ],
)
async def test_a_layer_that_cannot_be_unpacked_fails_with_a_remedy(
    app: DeployedApp, pushes: Pushes, kind: str, layer: bytes, said: str
) -> None:
    layers = [(f"application/vnd.oci.image.layer.v1.{kind}", layer)]
    config = ("application/vnd.oci.image.config.v1+json", json.dumps(CONFIG).encode())
    await put(pushes.name(), {"config": config, "layers": layers})
    failed = await app.ask(Kind.DEPLOY)
    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == (Status.FAILED, Code.ENGINE_REFUSED)
    assert said in failed.reason.message
    assert "build and push the image again" in failed.reason.remedy
