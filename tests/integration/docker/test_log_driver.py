"""Logs use the engine's log driver, with a size limit when the engine sets none."""

import asyncio
import time
from copy import copy
from typing import Any

import orjson
import pytest

from gateway.cli.demo.engine import PrivateEngine, private_engine
from gateway.cli.demo.images import Image, push
from gateway.docker.engine import containers, images, log_driver, logs
from gateway.docker.engine.client import Engine, connect
from gateway.model.reference import Reference
from tests.support.real_parts import SIDE_BY_SIDE, Pushes


async def chosen(engine: Engine, image: str, name: str) -> Any:
    """Return the log of a container as it is made for an application."""
    await engine.identify()
    reference = Reference.parse(image)
    await images.pull(engine, reference, None, progress=_silent, stall=15)
    made: list[Any] = []
    for _ in range(2):
        host = await log_driver.for_container(engine)
        container_id = await containers.create(engine, name, {"Image": image, "Cmd": ["x"], "HostConfig": host}, {})
        found = await containers.inspect_raw(engine, container_id)
        assert found is not None
        made.append(found["HostConfig"]["LogConfig"])
        await containers.remove(engine, container_id)
    assert made[0] == made[1]  # what was learned, and what is remembered
    assert await containers.list_labelled(engine, "log", label="gateway.look") == []
    return made[0]


async def _silent(_text: str) -> None:
    """Tell nobody."""


async def test_an_unlimited_default_log_gets_a_limit(dockerd: PrivateEngine, pushes: Pushes) -> None:
    image = f"{pushes.name()}@{await pushes('v1')}"
    async with connect(dockerd.host) as engine:
        assert await chosen(engine, image, "bounded") == log_driver.BOUNDED


@pytest.mark.parametrize(
    ("arguments", "log"),
    [
        (("--log-driver=local",), {"Type": "local", "Config": {}}),
        (("--log-opt=max-size=5m",), {"Type": "json-file", "Config": {"max-size": "5m"}}),
    ],
)
async def test_the_engines_own_log_configuration_is_kept(
    pushes: Pushes, arguments: tuple[str, ...], log: dict[str, Any]
) -> None:
    digest = await push(Image("v1"), pushes.name())
    async with private_engine(arguments=[*SIDE_BY_SIDE, *arguments]) as dockerd, connect(dockerd.host) as engine:
        assert await chosen(engine, f"{pushes.name()}@{digest}", "left") == log


async def test_rollouts_at_once_create_one_container_to_read_the_default(pushes: Pushes) -> None:
    image = Reference.parse(f"{pushes.name()}@{await pushes('v1')}")
    async with private_engine(arguments=SIDE_BY_SIDE) as dockerd, connect(dockerd.host) as engine:
        await engine.identify()
        await images.pull(engine, image, None, progress=_silent, stall=15)
        hosts = await asyncio.gather(*(log_driver.for_container(copy(engine)) for _ in range(4)))
        filters = orjson.dumps({"event": ["create"], "label": ["gateway.look"]}).decode()
        now = str(time.time())
        events = await logs.read_stream(engine, "events", {"since": "1", "until": now, "filters": filters})
    assert len(events.splitlines()) == 1
    assert hosts == [{"LogConfig": log_driver.BOUNDED}] * 4
