"""Tests that the replacement of an adopted container equals the same `docker run` of the new image."""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.cli.demo.images import Image, push
from gateway.cli.demo.process import free_port
from gateway.docker.engine import containers
from gateway.model.deployments import Status
from tests.support.adoption_host import BUSY, Host

_EXAMPLES = int(os.environ.get("ADOPTION_EXAMPLES", "0"))
_TOGETHER = 4  # containers in one example, since the time goes into waiting
_NETWORK = "alike"
_SECOND = 10**9

OLD: dict[str, Any] = {
    "Env": ["PATH=/bin", "MODE=old", "OLD=1"],
    "Cmd": ["old"],
    "Labels": {"version": "old", "old": "1"},
    "WorkingDir": "/old",
    "StopSignal": "9",
    "Volumes": {"/old-data": {}},
    "Healthcheck": {"Test": ["CMD", "/bin/busybox", "true"], "Interval": _SECOND // 5, "Retries": 2},
}
NEW: dict[str, Any] = {
    "Env": ["PATH=/bin:/new", "MODE=new", "NEW=1"],
    "Cmd": ["new", "again"],
    "Labels": {"version": "new", "new": "1"},
    "WorkingDir": "/new",
    "StopSignal": "SIGTERM",
    "Volumes": {"/new-data": {}},
    "ExposedPorts": {"8081/tcp": {}},
    "Healthcheck": {"Test": ["CMD", "/bin/busybox", "test", "1"], "Interval": _SECOND // 4, "Timeout": _SECOND},
}


def some(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Draw any of the fields, each of the values given for it."""
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in fields.items()})


CONFIG = some(
    Env=[["MODE=mine"], ["MINE=1", "MODE="], ["OLD"]],
    Cmd=[["mine"]],
    Entrypoint=[["/bin/busybox", "sh", "/entry"]],
    Labels=[{"version": "mine"}, {"mine": "1"}],
    WorkingDir=["/tmp"],
    User=["0:0"],
    StopSignal=["SIGINT"],
    StopTimeout=[0, 1],
    Domainname=["example.org"],
    Tty=[True],
    OpenStdin=[True],
    ExposedPorts=[{"9/udp": {}}],
    Healthcheck=[{"Interval": _SECOND // 3}, {"Test": ["NONE"]}, {"Test": ["CMD", "/bin/busybox", "echo"]}],
    Volumes=[{"/mine": {}}, {"/mine": {}, "/new-data": {}}],
)
HOST = some(
    Binds=[["/srv:/host:ro"], ["/srv:/host:rw", "alike:/named"]],
    Mounts=[
        [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 65536, "Mode": 448}}],
        [
            {
                "Type": "volume",
                "Source": "alike2",
                "Target": "/v",
                "VolumeOptions": {"NoCopy": True, "Labels": {"a": "b"}},
            }
        ],
        [{"Type": "volume", "Target": "/nameless"}],
        [{"Type": "bind", "Source": "/srv", "Target": "/b", "BindOptions": {"Propagation": "private"}}],
    ],
    Tmpfs=[{"/run": "size=65536"}],
    Memory=[64 * 1024**2],
    MemoryReservation=[32 * 1024**2],
    NanoCpus=[500_000_000],
    CpuShares=[512],
    CpusetCpus=["0"],
    PidsLimit=[64],
    OomScoreAdj=[100],
    ShmSize=[1024**2],
    CapAdd=[["NET_ADMIN"]],
    CapDrop=[["MKNOD", "CHOWN"]],
    SecurityOpt=[["no-new-privileges"]],
    ReadonlyRootfs=[True],
    GroupAdd=[["7"]],
    Devices=[[{"PathOnHost": "/dev/null", "PathInContainer": "/dev/other", "CgroupPermissions": "r"}]],
    DeviceCgroupRules=[["c 1:3 rwm"]],
    Ulimits=[[{"Name": "nofile", "Soft": 1000, "Hard": 2000}]],
    Sysctls=[{"net.ipv4.ip_unprivileged_port_start": "0"}],
    IpcMode=["shareable", "host"],
    PidMode=["host"],
    UsernsMode=["host"],
    LogConfig=[{"Type": "none"}, {"Type": "json-file", "Config": {"max-size": "1m"}}],
    RestartPolicy=[{"Name": "always"}, {"Name": "on-failure", "MaximumRetryCount": 2}, {"Name": "unless-stopped"}],
    PublishAllPorts=[True],
    Dns=[["10.0.0.1"]],
    DnsSearch=[["example.org"]],
    ExtraHosts=[["db:10.0.0.2"]],
)
WHERE = st.sampled_from(["default", "none", "host", "named", "fixed", "mac", "port"])


@st.composite
def requests(draw: st.DrawFn) -> tuple[dict[str, Any], str, list[str]]:
    """Draw what somebody runs: a creation request without its image, where, and under which aliases."""
    return {**draw(CONFIG), "HostConfig": draw(HOST)}, draw(WHERE), draw(st.sampled_from([[], ["web", "www"]]))


def placed(body: dict[str, Any], where: str, aliases: list[str], number: int) -> dict[str, Any]:
    """Return the request with the network it is on; the addresses and ports of each `number` are its own."""
    host = {"NetworkMode": where, **body["HostConfig"]}
    match where:
        case "host" | "none":
            body = {**body, **BUSY}  # a port that it listens on would be the host's
            host = {name: value for name, value in host.items() if name not in {"Sysctls", "Dns", "ExtraHosts"}}
        case "named":
            body = {**body, "NetworkingConfig": {"EndpointsConfig": {_NETWORK: {"Aliases": aliases}}}}
            host["NetworkMode"] = _NETWORK
        case "fixed":
            endpoint = {"Aliases": aliases, "IPAMConfig": {"IPv4Address": f"10.99.3.{number + 10}"}}
            body = {**body, "NetworkingConfig": {"EndpointsConfig": {_NETWORK: endpoint}}}
            host["NetworkMode"] = _NETWORK
        case "mac":
            body = {**body, "MacAddress": f"02:42:ac:11:77:{number:02x}", "Hostname": "mine"}
            host["NetworkMode"] = "bridge"
        case "port":
            host["PortBindings"] = {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(free_port())}]}
            host["NetworkMode"] = "default"
        case _:
            pass
    return {**body, "HostConfig": host}


def seen(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of an inspection must be the same, without what may differ."""
    config, host = dict(found["Config"]), dict(found["HostConfig"])
    short = found["Id"][:12]
    del config["Image"]  # by tag there, by tag and digest here
    config["Hostname"] = config["Hostname"].replace(short, "its own")
    config["Env"] = sorted(config["Env"] or ())
    config["Labels"] = {name: text for name, text in config["Labels"].items() if not name.startswith("gateway.")}
    # Volumes that nobody named are mounted by the names they have.
    host["Mounts"] = [
        one for one in host.get("Mounts") or () if one["Type"] != "volume" or len(one.get("Source", "")) < 64
    ]
    host["Mounts"] = [one for one in host["Mounts"] if one["Target"] != "/nameless"]
    host["Binds"], host["Tmpfs"] = host.get("Binds") or [], host.get("Tmpfs") or {}
    host["PortBindings"] = host["PortBindings"] or {}
    if config.get("StopTimeout") is None:
        config.pop("StopTimeout", None)
    networks = {
        name: (set(one["Aliases"] or ()) - {short}, (one["IPAMConfig"] or {}).get("IPv4Address"))
        for name, one in found["NetworkSettings"]["Networks"].items()
    }
    return {
        **{f"Config.{name}": value for name, value in config.items()},
        **{f"HostConfig.{name}": value for name, value in host.items()},
        **{f"Networks.{name}": value for name, value in networks.items()},
        "Image": found["Image"],
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    names = sorted(one.keys() | other.keys())
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def volumes(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the volumes nobody named, by where they are mounted."""
    mounts = [mount for mount in found["Mounts"] if mount["Type"] == "volume" and len(mount["Name"]) == 64]
    return {mount["Destination"]: mount["Name"] for mount in mounts}


async def replaced(
    host: Host, name: str, body: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Run it, adopt it and deploy the new image; return it as it was, as it is, and the like that was run anew."""
    before = await host.run(name, **body)
    application = await host.adopt(name)
    deployment = await host.deploy(application, tag="new")
    assert deployment.status is Status.SUCCEEDED, (deployment.reason, deployment.log, body)
    anew = f"{name}-anew"
    host.made.append(anew)
    await containers.create(host.engine, anew, {**body, "Image": host.pushes.name("new")}, {})
    return before, await host.inspect(name), await host.inspect(anew)


@pytest.mark.long
@settings(
    max_examples=_EXAMPLES or 1,
    derandomize=not _EXAMPLES,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(bodies=st.lists(requests(), min_size=_TOGETHER, max_size=_TOGETHER))
async def test_the_replacement_equals_the_same_command_with_the_new_image(
    host: Host, bodies: list[tuple[dict[str, Any], str, list[str]]]
) -> None:
    await push(Image("old", config=OLD), host.pushes.name())
    await push(Image("new", config=NEW), host.pushes.name("new"))
    await host.network(_NETWORK, subnet="10.99.3.0/24")
    try:
        running = [
            asyncio.create_task(replaced(host, f"{host.name}-{number}", placed(*body, number)))
            for number, body in enumerate(bodies)
        ]
        await asyncio.wait(running)
        for before, now, anew in [task.result() for task in running]:
            assert differences(seen(now), seen(anew)) == {}
            assert volumes(before).items() <= volumes(now).items()
    finally:
        await host.clear()
