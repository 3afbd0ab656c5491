"""Tests that a rollout asks the engine for little: on a busy machine, that is what many rollouts wait for."""

import asyncio
import re
from collections import Counter
from typing import Any

import pytest
import structlog

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.images import Behaviour
from gateway.docker.container import readiness
from gateway.docker.engine import containers, events
from gateway.docker.engine.client import Engine, connect
from gateway.docker.runtime import Timeouts
from gateway.model.deployments import Deployment, Kind, Status
from gateway.model.errors import Code, Failed
from tests.support.real_parts import Pushes
from tests.support.rollout_env import DeployedApp

_MOST_CALLS = 40


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Counter[str]]:
    """The calls of each rollout to the engine, by its deployment."""
    made: dict[str, Counter[str]] = {}
    call = Engine.call

    async def recorded(self: Engine, method: str, path: str, **given: Any) -> Any:
        deployment = structlog.contextvars.get_contextvars().get("deployment", "")
        made.setdefault(deployment, Counter())[f"{method} {re.sub('[0-9a-f]{64}', 'ID', path)}"] += 1
        return await call(self, method, path, **given)

    monkeypatch.setattr(Engine, "call", recorded)
    return made


async def test_a_rollout_asks_the_engine_for_little(
    app: DeployedApp, pushes: Pushes, calls: dict[str, Counter[str]]
) -> None:
    last: Deployment | None = None
    for version in ("v1", "v2", "v3"):  # the last one replaces v2, and removes v1
        await pushes(version)
        last = await app.ask(Kind.DEPLOY)
        assert last.status is Status.SUCCEEDED
    assert last is not None
    made = calls[last.deployment_id]
    assert made.total() <= _MOST_CALLS, made
    assert made["GET containers/json"] <= 6, made  # before, after, at last; who shares, who has the ports, the image


@pytest.mark.parametrize("stream", ["followed", "none", "hangs"])
async def test_a_container_that_ends_is_seen_at_once_by_its_event_and_soon_without_it(
    dockerd: PrivateEngine, pushes: Pushes, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    followed = stream != "none"
    name, digest = pushes.name(), await pushes("v1", behaviour=Behaviour.EXITS_LATER)
    image = f"{name.rpartition(':')[0]}@{digest}"
    timeouts = Timeouts(stable_window=600, health_deadline=600, pull_stall=1, call_margin=1, kept_for=1)
    async with connect(dockerd.host) as engine:
        follows = asyncio.Event()

        async def follow() -> None:
            async for _ in events.follow(engine):
                follows.set()
                if stream == "hangs":  # as behind a firewall that forgets a connection without traffic
                    await asyncio.Event().wait()

        follower = asyncio.create_task(follow()) if followed else None
        try:
            if followed:
                await follows.wait()
            if stream == "hangs":
                monkeypatch.setattr(readiness, "_LONGEST_UNSEEN", 0.5)
            await engine.images.pull(image)
            made = await containers.create(engine, f"ends-{stream}", {"Image": image}, {})
            await containers.start(engine, made)
            with pytest.raises(Failed) as caught:
                async with asyncio.timeout(60):  # far less than what it is to run
                    await readiness.wait_until_ready(engine, made, timeouts, None)
            assert caught.value.reason.code is Code.EXITED
            await containers.remove(engine, made)
        finally:
            if follower is not None:
                follower.cancel()
                await asyncio.gather(follower, return_exceptions=True)
