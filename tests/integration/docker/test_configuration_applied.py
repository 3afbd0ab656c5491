"""The container on the engine has what the application's configuration says."""

import socket
from typing import Any

import aiohttp
import pytest

from gateway.cli.demo.images import Image, push
from gateway.cli.demo.process import free_port, until
from gateway.docker.engine import containers
from gateway.model.deployments import Kind, Status
from gateway.model.errors import Code
from tests.support.real_parts import Pushes
from tests.support.rollout_env import DeployedApp

FILE = "/www/settings/web.conf"


async def deploy(app: DeployedApp, **configuration: object) -> None:
    await app.set(configuration=configuration)
    deployment = await app.ask(Kind.DEPLOY)
    assert deployment.status is Status.SUCCEEDED, deployment.reason


async def inspection(app: DeployedApp) -> Any:
    return await containers.inspect_raw(app.engine, (await app.serving()).container_id)


async def read(port: int, path: str = FILE.removeprefix("/www")) -> str:
    """Return what the container has at a path, as it serves it."""

    async def look() -> str | None:
        try:
            async with aiohttp.request("GET", f"http://127.0.0.1:{port}{path}") as answer:
                return await answer.text()
        except aiohttp.ClientError:
            return None

    return await until(look)


def with_file(port: int, content: str, **more: object) -> dict[str, object]:
    mounts = [{"type": "file", "mountPath": FILE, "content": content}]
    return {"mounts": mounts, "ports": [{"publishedPort": port, "targetPort": 8080}], "stopGrace": 1, **more}


@pytest.mark.parametrize("kept", [1, pytest.param(0, marks=pytest.mark.long)], ids=["kept", "made anew"])
async def test_a_file_is_there_after_a_deploy_a_change_a_restart_and_a_rollback(
    app: DeployedApp, pushes: Pushes, kept: int
) -> None:
    port = free_port()
    await pushes("v1")
    await deploy(app, **with_file(port, "first", kept=kept))
    assert await read(port) == "first"
    assert (await app.ask(Kind.DEPLOY)).status is Status.UNCHANGED
    await deploy(app, **with_file(port, "second", kept=kept))
    assert await read(port) == "second"
    await containers.restart(app.engine, (await app.serving()).container_id, grace=1)
    assert await read(port) == "second"
    assert (await app.roll_back()).status is Status.SUCCEEDED
    assert await read(port) == "first"
    assert "first" not in str(await inspection(app))


async def test_a_file_inside_an_image_volume_is_rejected_and_changes_nothing(app: DeployedApp, pushes: Pushes) -> None:
    await push(Image("v1", config={"Volumes": {"/www/settings": {}}}), pushes.name())
    await deploy(app, stopGrace=1)
    before = await app.containers()
    await app.set(configuration=with_file(free_port(), "first"))
    failed = await app.ask(Kind.DEPLOY)
    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == (Status.FAILED, Code.BAD_CONFIGURATION)
    assert f"{FILE} is inside the mount at /www/settings" in failed.reason.message
    assert [one.container_id for one in await app.containers()] == [one.container_id for one in before]


async def test_a_missing_host_folder_changes_nothing(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    await deploy(app, stopGrace=1)
    before = await app.serving()
    await app.set(configuration={"mounts": [{"type": "bind", "hostPath": "/nowhere/web", "mountPath": "/data"}]})
    failed = await app.ask(Kind.DEPLOY)
    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == (Status.FAILED, Code.VOLUME_MISSING)
    (left,) = await app.containers()
    assert (left.container_id, left.running, left.started_at) == (before.container_id, True, before.started_at)


async def test_a_port_is_published_by_its_protocol_and_at_its_address(app: DeployedApp, pushes: Pushes) -> None:
    await pushes("v1")
    tcp, udp = free_port(), free_port()
    ports = [
        {"publishedPort": tcp, "targetPort": 8080, "publishMode": "host", "hostIp": "127.0.0.1"},
        {"publishedPort": udp, "targetPort": 5353, "protocol": "udp"},
    ]
    await deploy(app, ports=ports, stopGrace=1)
    published = (await inspection(app))["NetworkSettings"]["Ports"]
    assert published["8080/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": str(tcp)}]
    assert str(udp) in {one["HostPort"] for one in published["5353/udp"]}
    assert await read(tcp, "/") == "v1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, pytest.raises(OSError, match="in use"):
        one.bind(("127.0.0.1", udp))


SHOWS = r"""
id -u; pwd; hostname; ulimit -n; cat /proc/1/comm; df -k /cache | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2
grep db.internal /etc/hosts | tr '\t' ' '; touch /x 2>/dev/null || echo read-only; echo "$WORDS"
trap exit TERM; while :; do sleep 0.1; done
"""


async def test_what_was_chosen_is_seen_inside(app: DeployedApp, pushes: Pushes) -> None:
    image = Image("v1", config={"Entrypoint": ["/bin/busybox", "sh", "-c"], "Env": ["PATH=/bin"]})
    await push(image, pushes.name())
    applets = "".join(f'{word}() {{ /bin/busybox {word} "$@"; }}\n' for word in
                      ("id", "hostname", "cat", "df", "tail", "tr", "cut", "grep", "touch", "sleep"))  # fmt: skip
    await app.set(environment='WORDS="two\nlines"')
    await deploy(
        app,
        args=[applets + SHOWS],
        user="1000:1000",
        workingDir="/www",
        hostname="web-1",
        init=True,
        readOnly=True,
        tmpfs=[{"target": "/cache", "size": "2m"}],
        extraHosts=["db.internal:10.0.0.5"],
        ulimitsSwarm=[{"Name": "nofile", "Soft": 512, "Hard": 1024}],
        capDrop=["ALL"],
        memoryLimit="64MB",
        cpuLimit="0.5",
        stopGrace=1,
    )
    seen = (await containers.last_lines(app.engine, (await app.serving()).container_id)).splitlines()
    assert seen == [
        "1000", "/www", "web-1", "512", "docker-init", "2048", "10.0.0.5 db.internal", "read-only", "two", "lines",
    ]  # fmt: skip
    host = (await inspection(app))["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["CapDrop"]) == (64 * 1024**2, 5 * 10**8, ["ALL"])


async def test_the_restart_policy_is_set_while_serving_and_off_while_kept(app: DeployedApp, pushes: Pushes) -> None:
    chosen = {"restartPolicySwarm": {"Condition": "on-failure", "MaxAttempts": 3}, "stopGrace": 1}
    await pushes("v1")
    await deploy(app, **chosen)
    assert (await app.serving()).restart_policy == {"Name": "on-failure", "MaximumRetryCount": 3}
    await pushes("v2")
    await deploy(app, stopGrace=1)
    serving = await app.serving()
    (kept,) = [one for one in await app.containers() if one.container_id != serving.container_id]
    assert (kept.restart_policy["Name"], serving.restart_policy["Name"]) == ("no", "unless-stopped")
    assert (await app.roll_back()).status is Status.SUCCEEDED
    assert (await app.serving()).restart_policy == {"Name": "on-failure", "MaximumRetryCount": 3}


async def test_the_redis_example_keeps_its_volume_over_deployments(app: DeployedApp, pushes: Pushes) -> None:
    image = Image("v1", config={"Entrypoint": ["/bin/busybox", "sh", "-c"], "Env": ["PATH=/bin"]})
    await push(image, pushes.name())
    name = f"redis-{app.application_id}"
    script = (
        "echo once >> /data/log; /bin/busybox cat /data/log; trap exit TERM; while :; do /bin/busybox sleep 0.1; done"
    )
    redis = {
        "command": f"'{script}'",
        "volumes": [{"source": name, "target": "/data", "type": "volume"}],
        "memoryLimit": "256MB",
        "stopGrace": 1,
    }
    await deploy(app, **redis)
    assert (await app.ask(Kind.REDEPLOY)).status is Status.UNCHANGED  # just deployed
    await deploy(app, **redis, labels={"again": "yes"})
    serving = await app.serving()
    assert await containers.last_lines(app.engine, serving.container_id) == "once\nonce\n"
    (mount,) = (await inspection(app))["Mounts"]
    assert (mount["Type"], mount["Name"], mount["Destination"]) == ("volume", name, "/data")
