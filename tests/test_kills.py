"""Killed from outside around each call that changes something, the next start finishes or puts back."""

import asyncio
from pathlib import Path

from gateway.demo.engine import PrivateEngine
from gateway.demo.images import Image, push
from gateway.demo.process import GatewayProcess, gateway_process, until
from gateway.engine import containers
from gateway.engine.client import Engine
from gateway.reference import Digest
from tests.engine_proxy import EngineProxy, engine_proxy
from tests.hooks import Hook, envelope
from tests.real_parts import Pushes

SETTINGS = {"GATEWAY_STABLE_WINDOW": "0.2", "GATEWAY_LEASE": "0.6", "GATEWAY_LOG_FORMAT": "text"}
APPLICATION = {"stopGracePeriodSwarm": 1_000_000_000}


async def test_a_kill_around_any_changing_call_loses_nothing(
    dockerd: PrivateEngine, engine: Engine, pushes: Pushes, tmp_path: Path
) -> None:
    before, after = await asyncio.gather(
        kill_at_every_call(dockerd, engine, f"{pushes.name('before')}", tmp_path / "before", after=False),
        kill_at_every_call(dockerd, engine, f"{pushes.name('after')}", tmp_path / "after", after=True),
    )
    kinds = ["images/create", "containers/create", "/rename", "/update", "/stop", "/start", "/tag", "DELETE"]
    for fired in (before, after):
        assert [kind for kind in kinds if not any(kind in call for call in fired)] == []


async def kill_at_every_call(
    dockerd: PrivateEngine, engine: Engine, name: str, directory: Path, *, after: bool
) -> list[str]:
    """Return the calls the gateway was killed at, one a rollout, until a rollout has no further call."""
    app = "after" if after else "before"
    fired: list[str] = []
    async with (
        engine_proxy(dockerd.socket.parent / f"{app}.sock", dockerd.socket) as proxy,
        gateway_process(directory, f"unix://{proxy.socket}", SETTINGS) as gateway,
    ):
        hook = await Hook.open(gateway)
        made = {"name": app, "applicationId": app, "dockerImage": name, **APPLICATION}
        await gateway.mutate("application.create", made)
        count = 0
        # Two rollouts first, so that the third has a kept container to remove.
        for version in ("first", "second"):
            count += 1
            await hook.post(envelope(name, await push(Image(f"{app} {version}"), name)))
            await gateway.settled(app, count=count)
        while True:
            count += 1
            version = f"{app} {count}"
            call = await _killed_once(gateway, proxy, engine, app, hook, name, version, at=len(fired), after=after)
            row = await gateway.settled(app, count=count)
            digest = row["digest"]
            assert row["state"] == "succeeded", (call, row["reason"], row["steps"])
            await _one_serves_and_nothing_is_stray(engine, app, digest)
            if call is None:
                break
            fired.append(call)
        for container in await containers.select(engine, app):
            await containers.remove(engine, container.container_id)
    return fired


async def _killed_once(
    gateway: GatewayProcess,
    proxy: EngineProxy,
    engine: Engine,
    app: str,
    hook: Hook,
    name: str,
    version: str,
    *,
    at: int,
    after: bool,
) -> str | None:
    """Push, be killed at the call numbered `at`, look that something serves, start again; None: no such call."""
    digest = await push(Image(version), name)
    proxy.arm(gateway.pid, at, after=after)
    _, answer = await hook.post(envelope(name, digest))
    queued = answer["deployments"][0]["deploymentId"]

    async def killed_or_done() -> str | None:
        if proxy.fired is not None:
            return proxy.fired
        try:
            found = await gateway.query("deployment.one", deploymentId=queued)
        except OSError:  # it is being killed
            return None
        return "" if found["state"] == "succeeded" else None

    call = await until(killed_or_done)
    proxy.disarm()
    if call == "":
        return None
    assert await gateway.stop() != 0
    # Old or new, at every moment there is one.
    assert await containers.select(engine, app) != []
    await gateway.start()
    return call


async def _one_serves_and_nothing_is_stray(engine: Engine, application_id: str, digest: Digest) -> None:
    found = await containers.select(engine, application_id)
    serving = [container for container in found if container.running]
    assert [container.labels["gateway.digest"] for container in serving] == [digest]
    kept = [container for container in found if not container.running]
    assert len(kept) <= 1
    assert all(".old." in container.name for container in kept)
