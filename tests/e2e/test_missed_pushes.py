"""A real registry tells of its pushes, whatever becomes of the gateway meanwhile.

`make missed` does it with fifty applications and the gateway away for a minute.
"""

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
import pytest

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.images import Image, Pusher
from gateway.cli.demo.process import GatewayProcess, free_port
from gateway.cli.demo.registry import NotificationEndpoint, private_registry
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine
from gateway.model.reference import Digest, Reference
from tests.support.command_line import gateway_process

APPLICATIONS = int(os.environ.get("MISSED_APPLICATIONS", "4"))
AWAY = float(os.environ.get("MISSED_AWAY", "2"))  # seconds
SETTINGS = {"GATEWAY_STABLE_WINDOW": "0.2", "GATEWAY_LEASE": "0.6", "GATEWAY_LOG_FORMAT": "text"}
KILLS = 3


@pytest.mark.long
async def test_pushes_reach_their_applications_once_through_kills_and_a_gateway_that_was_away(
    dockerd: PrivateEngine, engine: Engine, tmp_path: Path
) -> None:
    async with gateway_process(tmp_path / "gateway", dockerd.host, SETTINGS) as gateway:
        made = await gateway.endpoint("distribution")
        notified = NotificationEndpoint(f"{gateway.url}{made['path']}", {"Authorization": [f"Bearer {made['secret']}"]})
        async with (
            private_registry(tmp_path / "registry", free_port(), endpoints=[notified]) as registry,
            aiohttp.ClientSession() as session,
        ):
            pusher = Pusher(session, f"http://{registry.address}")
            names = {f"m{number}": f"{registry.address}/missed/m{number}:latest" for number in range(APPLICATIONS)}
            for application_id, name in names.items():
                given = {"name": application_id, "applicationId": application_id, "dockerImage": name}
                await gateway.mutate("application.create", {**given, "stopGracePeriodSwarm": 1_000_000_000})

            first: dict[str, Digest] = {}
            every = max(1, APPLICATIONS // (KILLS + 1))
            kills = 0
            for number, (application_id, name) in enumerate(names.items(), start=1):
                first[application_id] = await pusher.push(Image(f"first {name}"), Reference.parse(name))
                if number % every == 0 and kills < KILLS:
                    kills += 1
                    await gateway.stop(signal.SIGKILL)
                    await gateway.start()
            assert kills == KILLS
            await _end_on(gateway, engine, first, rollouts=1)

            await gateway.stop()
            second = {
                application_id: await pusher.push(Image(f"second {name}"), Reference.parse(name))
                for application_id, name in names.items()
            }
            await asyncio.sleep(AWAY)
            await gateway.start()
            await _end_on(gateway, engine, second, rollouts=2)
        for application_id in names:
            for container in await containers.list_labelled(engine, application_id):
                await containers.remove(engine, container.container_id)


async def _end_on(gateway: GatewayProcess, engine: Engine, newest: dict[str, Digest], *, rollouts: int) -> None:
    """Wait until each application runs its newest image, brought by so many rollouts in all and no other row."""
    for application_id, digest in newest.items():
        await gateway.settled(application_id, count=rollouts, within=300)
        rows = await gateway.deployments(application_id)
        assert [row["state"] for row in rows] == ["succeeded"] * rollouts, rows
        found = await containers.list_labelled(engine, application_id)
        assert [one.labels["gateway.digest"] for one in found if one.running] == [digest]
