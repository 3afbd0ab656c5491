"""Tests that a container in a crash loop counts as not serving and can be replaced."""

import pytest

from gateway.cli.demo.images import Behaviour, Image, push
from gateway.cli.demo.process import until
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine
from gateway.model.deployments import Kind, Status
from tests.support.adoption_host import Host
from tests.support.real_parts import Pushes
from tests.support.rollout_env import DeployedApp

#: serves until it is told that it is sick, and never again
SICK_LATER = (
    b"#!/bin/busybox sh\n[ -f /sick ] && exit 5\n/bin/busybox httpd -f -p 8080 -h /www &\n"
    b"while [ ! -f /sick ]; do /bin/busybox sleep 0.05; done; exit 4\n"
)


async def loops(engine: Engine, name: str) -> None:
    """Wait until it is between two starts."""

    async def look() -> bool | None:
        found = await containers.inspect(engine, name)
        return True if found is not None and found.restarting else None

    await until(look)


@pytest.mark.parametrize(
    "binds",
    [pytest.param([], id="start-first", marks=pytest.mark.long), pytest.param(["/var:/there"], id="stop-first")],
)
async def test_an_adopted_container_in_a_crash_loop_is_replaced(host: Host, pushes: Pushes, binds: list[str]) -> None:
    await pushes("v1", behaviour=Behaviour.EXITS)
    await host.run(HostConfig={"RestartPolicy": {"Name": "always"}, "Binds": binds})
    application = await host.adopt()
    digest = await pushes("v2")
    await loops(host.engine, host.name)
    deployment = await host.deploy(application)
    assert (deployment.status, deployment.digest, deployment.reason) == (Status.SUCCEEDED, digest, None)
    serving = await host.inspect()
    assert (serving["State"]["Running"], serving["Config"]["Labels"]["gateway.digest"]) == (True, digest)


@pytest.mark.long
async def test_a_crash_loop_is_rolled_back_and_replaced_by_a_good_push(app: DeployedApp, pushes: Pushes) -> None:
    await app.set(configuration={"watch": 300})
    first = await pushes("v1")
    await app.ask(Kind.DEPLOY)
    await push(Image("v2", files={"entry": SICK_LATER}), pushes.name())
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    await app.inside((await app.serving()).container_id, "touch", "/sick")
    back = await app.went_back()
    assert (back.digest, (await app.serving()).healthy) == (first, True)

    await app.set(configuration={"watch": 0})
    assert (await app.ask(Kind.REDEPLOY)).status is Status.SUCCEEDED
    name = "app-" + app.application_id
    await app.inside((await app.serving()).container_id, "touch", "/sick")
    await loops(app.engine, name)
    third = await pushes("v3")
    deployed = await app.ask(Kind.DEPLOY)
    assert (deployed.status, deployed.digest) == (Status.SUCCEEDED, third)
    assert (await app.serving()).healthy
