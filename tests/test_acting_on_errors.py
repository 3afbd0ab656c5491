"""What goes wrong on a real engine is told by its code, with what it is about and what the engine knows of it."""

from pathlib import Path
from typing import Any

import pytest

from gateway.demo.images import Image, push
from gateway.demo.process import free_port
from gateway.deployments import Kind, Status
from gateway.engine import images
from gateway.engine.client import Engine
from gateway.errors import Code, Failed, Postponed
from gateway.reference import Reference
from tests.lane import Lane
from tests.real_parts import Pushes

_BUSYBOX = Path("/bin/busybox").read_bytes()
# The machine stands in two bytes of its header; this one is a SPARC, in the other order of bytes too.
_OF_ANOTHER_MACHINE = _BUSYBOX[:18] + b"\x00\x2b" + _BUSYBOX[20:]
_DEVOURS = ["/bin/busybox", "tail", "/dev/zero"]


@pytest.mark.parametrize(
    ("image", "configuration", "code", "says"),
    [
        ({"files": {"entry": _OF_ANOTHER_MACHINE}}, {}, Code.WRONG_ARCHITECTURE, "uname -m "),
        ({"files": {"entry": b"echo no interpreter\n"}}, {}, Code.WRONG_ARCHITECTURE, "the image says linux/"),
        ({"files": {"entry": b"#!/bin/bash\n"}}, {}, Code.COMMAND_NOT_FOUND, "the first line of that script"),
        ({"config": {"Entrypoint": None}}, {"command": "start --now"}, Code.COMMAND_NOT_FOUND, 'no program "start"'),
        ({"config": {"Entrypoint": None}}, {}, Code.COMMAND_NOT_FOUND, "neither the image nor the application"),
        ({"config": {"Entrypoint": ["/www/index.html"]}}, {}, Code.COMMAND_NOT_EXECUTABLE, '"/www/index.html"'),
        ({"config": {"User": "nobody"}}, {}, Code.BAD_CONFIGURATION, "unable to find user nobody"),
        ({"config": {"Entrypoint": ["/bin/busybox", "true"]}}, {}, Code.EXITED, "code 0 (it ended by itself"),
        (
            {"config": {"Entrypoint": ["/bin/busybox", "sh", "-c", "exit 139"]}},
            {},
            Code.EXITED,
            "code 139 (a segmentation",
        ),
        ({"config": {"Entrypoint": _DEVOURS}}, {"memoryLimit": "16m"}, Code.OUT_OF_MEMORY, "its limit is 16 MB"),
        (
            {},
            {"mounts": [{"type": "bind", "source": "/nowhere/web", "target": "/data"}]},
            Code.VOLUME_MISSING,
            "no /nowhere/web to mount",
        ),
        (
            {},
            {"mounts": [{"type": "bind", "source": "/etc/hostname", "target": "/www"}]},
            Code.BAD_CONFIGURATION,
            "/etc/hostname of the host and /www of the image",
        ),
        ({"health": "echo the cache is cold; exit 1"}, {}, Code.UNHEALTHY, "the cache is cold (exit code 1)"),
    ],
    ids=lambda value: str(value) if isinstance(value, Code) else "",
)
async def test_a_version_that_cannot_serve_says_why(
    lane: Lane, pushes: Pushes, image: dict[str, Any], configuration: dict[str, Any], code: Code, says: str
) -> None:
    await push(Image("v1", **image), pushes.name())
    await lane.set(configuration=configuration)
    failed = await lane.ask(Kind.DEPLOY)
    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == (Status.FAILED, code)
    assert says in failed.reason.message
    assert f"app-{lane.application_id}" in failed.reason.message
    assert await lane.containers() == []


async def quiet(_detail: str) -> None:
    """Nobody watches the pull."""


async def test_a_pull_that_the_engine_is_refused_names_the_image(engine: Engine, pushes: Pushes) -> None:
    digest = await pushes("v1")
    unknown = Reference.parse(f"{pushes.name()}@sha256:{'0' * 64}")
    with pytest.raises(Failed, match=f"cannot pull {unknown.repository}@sha256:0.*manifest unknown") as missing:
        await images.pull(engine, unknown, None, progress=quiet, stall=20)
    away = Reference.parse(f"127.0.0.1:{free_port()}/app:v1@{digest}")
    with pytest.raises(Postponed, match="connection refused") as unreachable:
        await images.pull(engine, away, None, progress=quiet, stall=20)
    assert (missing.value.reason.code, unreachable.value.reason.code) == (Code.NOT_FOUND, Code.REGISTRY_UNREACHABLE)
