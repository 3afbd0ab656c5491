"""Errors of a real engine get a code, and a message that names the subject and the engine's details."""

from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest

from gateway.cli.demo.engine import private_engine
from gateway.cli.demo.images import Image, push
from gateway.cli.demo.process import free_port, until
from gateway.docker.container import exit_diagnosis, preflight, readiness
from gateway.docker.engine import containers, images
from gateway.docker.engine.client import Engine, connect
from gateway.docker.engine.containers import Container
from gateway.docker.engine.services import Task
from gateway.docker.runtime import Timeouts
from gateway.docker.swarm import convergence
from gateway.docker.swarm.watcher import ServiceWatcher
from gateway.model.deployments import Kind, Status
from gateway.model.errors import Code, Failed, NotOnEngine, Postponed, Reason
from gateway.model.reference import Reference
from gateway.model.registries import anonymous
from tests.scripts.debian import run
from tests.support.real_parts import SIDE_BY_SIDE, Pushes
from tests.support.rollout_env import DeployedApp

_BUSYBOX = Path("/bin/busybox").read_bytes()
# The machine stands in two bytes of its header; this one is a SPARC, in the other order of bytes too.
_OF_ANOTHER_MACHINE = _BUSYBOX[:18] + b"\x00\x2b" + _BUSYBOX[20:]
_DEVOURS = ["/bin/busybox", "tail", "/dev/zero"]


@pytest.mark.parametrize(
    ("image", "configuration", "code", "says"),
    [
        ({"files": {"entry": _OF_ANOTHER_MACHINE}}, {}, Code.WRONG_ARCHITECTURE, "uname -m "),
        ({"files": {"entry": b"echo no interpreter\n"}}, {}, Code.WRONG_ARCHITECTURE, "the image says linux/"),
        ({"files": {"entry": b"#!/bin/bash\n"}}, {}, Code.COMMAND_NOT_FOUND, "the interpreter in its first line"),
        ({"config": {"Entrypoint": None}}, {"command": "start --now"}, Code.COMMAND_NOT_FOUND, 'no program "start"'),
        ({"config": {"Entrypoint": None}}, {}, Code.COMMAND_NOT_FOUND, "neither the image nor the application"),
        ({"config": {"Entrypoint": ["/www/index.html"]}}, {}, Code.COMMAND_NOT_EXECUTABLE, '"/www/index.html"'),
        ({"config": {"User": "nobody"}}, {}, Code.BAD_CONFIGURATION, "unable to find user nobody"),
        ({"config": {"Entrypoint": ["/bin/busybox", "true"]}}, {}, Code.EXITED, "code 0 (it ended by itself"),
        ({"config": {"Entrypoint": _DEVOURS}}, {"memoryLimit": "16m"}, Code.OUT_OF_MEMORY, "its limit is 16 MB"),
        (
            {},
            {"mounts": [{"type": "bind", "source": "/nowhere/web", "target": "/data"}]},
            Code.VOLUME_MISSING,
            "the path /nowhere/web to mount does not exist",
        ),
        (
            {},
            {"mounts": [{"type": "bind", "source": "/etc/hostname", "target": "/www"}]},
            Code.BAD_CONFIGURATION,
            "/etc/hostname on the host and /www in the image",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, Code) else "",
)
async def test_a_version_that_cannot_serve_says_why(
    app: DeployedApp, pushes: Pushes, image: dict[str, Any], configuration: dict[str, Any], code: Code, says: str
) -> None:
    await push(Image("v1", **image), pushes.name())
    await app.set(configuration=configuration)
    failed = await app.ask(Kind.DEPLOY)
    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == (Status.FAILED, code)
    assert says in failed.reason.message
    assert f"app-{app.application_id}" in failed.reason.message
    assert await app.containers() == []


_ONCE = "#!/bin/busybox sh\ntest -e /been && exec /bin/busybox sleep 600\n/bin/busybox touch /been\n{}\n"


_Event = tuple[str, dict[str, str]]
_KILLED: _Event = ("die", {"exitCode": "137"})
_ENDED: _Event = ("die", {"exitCode": "5"})
_STARVED: _Event = ("oom", {})


@pytest.mark.parametrize(
    ("events", "starved"),
    [
        ([_STARVED, _KILLED], True),
        ([_KILLED, _STARVED], True),
        ([_KILLED], False),
        ([_STARVED, _KILLED, _ENDED], False),
        ([_ENDED, _STARVED, _KILLED], True),
    ],
)
def test_out_of_memory_is_recognized_before_or_after_the_exit_event(events: list[_Event], *, starved: bool) -> None:
    end = exit_diagnosis.last_exit(events)
    assert end is not None
    assert end.out_of_memory is starved


async def test_a_restarted_container_is_diagnosed_by_its_last_exit(engine: Engine, pushes: Pushes) -> None:
    reason = await _reason_of_a_second_start(engine, pushes, "exit 5")
    assert reason.code is Code.EXITED
    assert "keeps exiting with code 5; restarts so far: 1" in reason.message


async def test_a_restarted_container_is_diagnosed_by_the_memory_that_its_last_run_lacked(
    engine: Engine, pushes: Pushes
) -> None:
    # Now and then the engine reports the exit, but never that memory was the cause.
    for _ in range(6):
        reason = await _reason_of_a_second_start(engine, pushes, "exec " + " ".join(_DEVOURS))
        assert "its limit is 16 MB" in reason.message
        if reason.code is Code.OUT_OF_MEMORY:
            return
        assert "keeps exiting with code 137 (killed, by SIGKILL)" in reason.message
    pytest.fail("no run is diagnosed as out of memory")


async def _reason_of_a_second_start(engine: Engine, pushes: Pushes, first_run: str) -> Reason:
    reference = Reference.parse(pushes.name())
    digest = await push(Image("v1", files={"entry": _ONCE.format(first_run).encode()}), pushes.name())
    image = await images.pull(engine, reference.with_digest(digest), None, progress=quiet, stall=20)
    host = {"RestartPolicy": {"Name": "always"}, "Memory": 16 * 1024**2, "MemorySwap": 16 * 1024**2}
    name = f"again-{pushes.path.rpartition('/')[2]}"
    container_id = await containers.create(engine, name, {"Image": image.image_id, "HostConfig": host}, {})

    async def runs_again() -> Container | None:
        seen = await containers.inspect(engine, container_id)
        return seen if seen and seen.running and not seen.restarting and seen.restart_count else None

    try:
        await containers.start(engine, container_id)
        seen = await until(runs_again)
        failure = readiness.failure_reason(seen)
        assert failure is not None
        return await exit_diagnosis.diagnose_exit(engine, seen, failure)
    finally:
        await containers.remove(engine, container_id)


async def test_a_full_disk_is_recognized_in_every_message(tmp_path: Path, pushes: Pushes) -> None:
    disk, reference = tmp_path / "disk", Reference.parse(pushes.name())
    full = disk / "full"

    def fill() -> None:
        with suppress(OSError), full.open("wb") as file:
            while True:
                file.write(bytes(4096))

    disk.mkdir()
    async with AsyncExitStack() as stack:
        await run("mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk))
        stack.push_async_callback(run, "umount", "--lazy", str(disk))
        small = await stack.enter_async_context(private_engine(arguments=(*SIDE_BY_SIDE, "--data-root", str(disk))))
        engine = await stack.enter_async_context(connect(small.host))
        first, second = [reference.with_digest(await pushes(version)) for version in ("v1", "v2")]
        image = await images.pull(engine, first, None, progress=quiet, stall=20)
        before = await containers.create(engine, "before", {"Image": image.image_id}, {})
        fill()
        with pytest.raises(Failed, match="cannot pull") as pulled:
            await images.pull(engine, second, None, progress=quiet, stall=20)
        with pytest.raises(Failed) as created:
            await containers.create(engine, "after", {"Image": image.image_id}, {})
        with pytest.raises(Failed) as started:
            await containers.start(engine, before)
        full.unlink()
    assert {caught.value.reason.code for caught in (pulled, created, started)} == {Code.NO_SPACE}


async def test_a_check_on_another_node_says_where_its_output_is() -> None:
    manager = AsyncMock()
    manager.call.side_effect = [NotOnEngine(Code.ENGINE_REFUSED, ""), {"Description": {"Hostname": "node-3"}}]
    task = Task("t", 1, "n", "failed", "shutdown", "", "unhealthy container", 1, "c" * 64, {})
    timeouts = Timeouts(stable_window=0, health_deadline=20, pull_stall=20, call_margin=5, kept_for=60)
    watch = ServiceWatcher(manager, "web", timeouts, 10, anonymous)
    told = await watch.diagnose(convergence.task_failure("web", task), task)
    assert told.reason.code is Code.UNHEALTHY
    assert "on node-3, this shows the output of its health check: docker inspect cccccccccccc" in told.reason.message


async def quiet(_detail: str) -> None:
    """Nobody watches the pull."""


async def test_a_refused_pull_names_the_image(engine: Engine, pushes: Pushes) -> None:
    digest = await pushes("v1")
    unknown = Reference.parse(f"{pushes.name()}@sha256:{'0' * 64}")
    with pytest.raises(Failed, match=f"cannot pull {unknown.repository}@sha256:0.*manifest unknown") as missing:
        await images.pull(engine, unknown, None, progress=quiet, stall=20)
    away = Reference.parse(f"127.0.0.1:{free_port()}/app:v1@{digest}")
    with pytest.raises(Postponed, match="connection refused") as unreachable:
        await images.pull(engine, away, None, progress=quiet, stall=20)
    assert (missing.value.reason.code, unreachable.value.reason.code) == (Code.NOT_FOUND, Code.REGISTRY_UNREACHABLE)


async def test_a_port_that_the_engine_has_lost_track_of_is_told_as_such(engine: Engine) -> None:
    """As after the engine was killed while it stopped a container: no list shows who has the port."""
    refused = Failed(Code.PORT_TAKEN, f"Bind for 0.0.0.0:{free_port()} failed: port is already allocated")
    told = await preflight.name_port_holder(engine, refused, but="")
    assert (told.reason.code, "no container publishes it" in told.reason.message) == (Code.PORT_TAKEN, True)
    by_a_process = Failed(Code.PORT_TAKEN, f"listen tcp4 0.0.0.0:{free_port()}: bind: address already in use")
    assert await preflight.name_port_holder(engine, by_a_process, but="") is by_a_process
