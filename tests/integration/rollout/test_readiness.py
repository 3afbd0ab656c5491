"""Tests health checks, probes and stability windows, and which probes are rejected when saved."""

import asyncio
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from pydantic import ValidationError

from gateway.cli.demo.process import free_port
from gateway.docker import runtime_factory
from gateway.docker.container import probes
from gateway.docker.engine.client import Engine, EngineIdentity
from gateway.model.adoption import AdoptedSpec
from gateway.model.configuration import Configuration, RuntimeKind
from gateway.model.deployments import Kind, Status
from gateway.model.errors import Code
from gateway.model.health_checks import Probe
from gateway.store import applications
from tests.support.api_client import VAULT, Web
from tests.support.real_parts import Pushes
from tests.support.rollout_env import DeployedApp

FAILING_CHECK = {
    "Test": ["CMD", "/bin/busybox", "sh", "-c", "echo the queue is full; exit 1"],
    "Interval": 300_000_000,
    "Timeout": 10**9,
    "Retries": 1,
}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"probe": {"port": 0}}, "probe.port"),
        ({"probe": {"port": 80, "type": "udp"}}, "probe.type"),
        ({"probe": {"port": 80, "path": "health"}}, "path 'health'"),
        ({"probe": {"port": 80, "type": "tcp", "path": "/"}}, "path and status need an http probe"),
        ({"probe": {"port": 80, "status": 99}}, "probe.status"),
        ({"healthCheckSwarm": {"Test": ["curl", "-f", "http://localhost"]}}, "healthCheckSwarm.Test"),
        ({"healthCheckSwarm": {"Interval": 30}}, "nanoseconds"),
        ({"healthCheckSwarm": {"test": []}}, "healthCheckSwarm.test"),
        ({"healthDeadline": 0}, "healthDeadline"),
        ({"order": "start-first", "ports": [{"targetPort": 80, "publishedPort": 80}]}, "order"),
        ({"watch": -1}, "watch"),
    ],
)
def test_an_invalid_setting_is_rejected_by_name(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Configuration.model_validate(given)
    assert named in str(caught.value)


async def test_a_configured_health_check_is_merged_over_the_images(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1", health="exit 0")
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    await app.set(configuration={"healthCheckSwarm": FAILING_CHECK})
    failed = await app.ask(Kind.DEPLOY)
    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == (Status.FAILED, Code.UNHEALTHY)
    assert "the queue is full" in failed.reason.message
    await app.set(configuration={"healthCheckSwarm": {"Test": ["NONE"]}})
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED


@pytest.mark.parametrize("published", [True, False], ids=["by its published port", "at its own address"])
async def test_a_probe_must_pass_and_its_last_response_is_reported(
    app: DeployedApp, pushes: Pushes, published: bool
) -> None:
    ports = [{"targetPort": 8080, "publishedPort": free_port()}] if published else []
    await pushes("v1")
    await app.set(configuration={"ports": ports, "probe": {"port": 8080, "path": "/"}})
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    before = await app.serving()
    await pushes("v2")
    probe = {"port": 8080, "path": "/nothing", "interval": 0.1}
    await app.set(configuration={"ports": ports, "probe": probe, "healthDeadline": 0.4})
    failed = await app.ask(Kind.DEPLOY)
    assert failed.status is (Status.ROLLED_BACK if published else Status.FAILED)
    assert failed.reason is not None
    assert failed.reason.code is Code.UNHEALTHY
    assert "/nothing answered 404" in failed.reason.message
    after = await app.serving()
    assert (after.container_id, after.running) == (before.container_id, True)


async def test_both_the_health_check_and_the_probe_must_pass(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1", health="exit 0")
    await app.set(configuration={"probe": {"type": "tcp", "port": 9, "interval": 0.1}, "healthDeadline": 0.4})
    failed = await app.ask(Kind.DEPLOY)
    assert failed.reason is not None
    assert "no connection to" in failed.reason.message


# Another process may listen on port 8080 of 127.0.0.1.
UNUSED_LOOPBACK = "127.88.77.66"


async def test_a_published_port_is_found_from_a_container_too(
    app: DeployedApp, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    serving = await app.serving()
    # As from within a container: nobody at its loopback, somebody at the next address.
    monkeypatch.setattr(app.engine, "address", UNUSED_LOOPBACK)
    seen = replace(serving, published={8080: ("", 8080)}, gateways=serving.addresses)
    assert await probes.run(app.engine, seen, Probe(port=8080)) is None
    failed = await probes.run(app.engine, replace(seen, gateways=()), Probe(port=8080))
    assert failed is not None
    assert f"{UNUSED_LOOPBACK}:8080" in failed.message


async def test_a_loopback_port_of_another_host_is_not_probed_here(
    app: DeployedApp, pushes: Pushes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    ours = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with ours:
        port = ours.sockets[0].getsockname()[1]
        seen = replace(await app.serving(), published={8080: ("127.0.0.1", port)})
        probe = Probe(type="tcp", port=8080)
        assert await probes.run(app.engine, seen, probe) is None
        monkeypatch.setattr(app.engine, "address", "192.0.2.1")
        failed = await probes.run(app.engine, seen, probe)
    assert failed is not None
    assert "neither a published port nor" in failed.message


async def test_containers_of_an_engine_on_this_host_are_reached_and_of_another_are_not(engine: Engine) -> None:
    assert await probes.containers_reachable(engine, [])
    assert await probes.containers_reachable(engine, ["host"])
    assert not probes.is_local_address("192.0.2.1")


async def test_an_unreachable_probe_is_rejected_when_saved(web: Web) -> None:
    web.rollouts.engines[0].error = None
    await web.mutate("application.create", name="a", applicationId="a", dockerImage="acme/a")
    refused = {"applicationId": "a", "probe": {"port": 8080}}
    status, answer = await web.post("/api/trpc/application.update", refused)
    assert status == 400
    assert "cannot reach port 8080" in str(answer)
    await web.mutate("application.update", **refused, ports=[{"targetPort": 8080, "publishedPort": 80}])
    status, _ = await web.post("/api/trpc/application.update", {"applicationId": "a", "ports": []})
    assert status == 400
    web.rollouts.engines[0].routes = True
    await web.mutate("application.update", applicationId="a", ports=[])
    assert (await web.query("application.one", applicationId="a"))["probe"]["port"] == 8080


async def test_a_probe_is_rejected_for_a_service(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    present = AsyncMock(return_value=None)
    monkeypatch.setattr(runtime_factory, "detect_runtime_kind", present)
    own = web.rollouts.engines[0]
    own.error, own.routes = None, True
    own.identity = EngineIdentity("id", "name", "29", "linux/amd64", swarm_manager=True)
    with_probe = {"name": "a", "applicationId": "a", "dockerImage": "acme/a", "probe": {"port": 8080}}
    status, answer = await web.post("/api/trpc/application.create", with_probe)
    assert status == 400
    assert "or runtime to container" in str(answer)
    await web.mutate("application.create", **with_probe, runtime="container")
    assert (await web.post("/api/trpc/application.update", {"applicationId": "a", "runtime": "auto"}))[0] == 400
    present.return_value = RuntimeKind.CONTAINER
    await web.mutate("application.update", applicationId="a", runtime="auto")


async def test_published_ports_of_an_adopted_container_make_a_probe_reachable(web: Web) -> None:
    web.rollouts.engines[0].error = None
    await web.mutate("application.create", name="a", applicationId="a", dockerImage="acme/a")
    host = {"NetworkMode": "default", "PortBindings": {"8080/tcp": [{"HostIp": "", "HostPort": "80"}]}}
    found = {"Config": {}, "HostConfig": host, "NetworkSettings": {"Networks": {}}}
    base = AdoptedSpec(found=found, object_id="c" * 64, image="acme/a", image_id="sha256:" + "d" * 64)
    async with web.pool.acquire() as connection:
        await applications.update_application(connection, VAULT, "a", {"base": base.dump()})
    await web.mutate("application.update", applicationId="a", probe={"port": 8080})
    status, _ = await web.post("/api/trpc/application.update", {"applicationId": "a", "probe": {"port": 8081}})
    assert status == 400


async def test_a_probe_is_accepted_while_the_engine_is_unreachable(web: Web) -> None:
    await web.mutate("application.create", name="a", dockerImage="acme/a", probe={"port": 8080})


async def test_a_health_check_is_read_back_as_it_was_written(web: Web) -> None:
    await web.mutate("application.create", name="a", applicationId="a", healthCheckSwarm=FAILING_CHECK)
    assert (await web.query("application.one", applicationId="a"))["healthCheckSwarm"] == FAILING_CHECK
