"""The demonstration: v1, then push v2 and watch it deployed, then push a bad v3 and watch it refused."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from time import time
from typing import Any

import click

from gateway.cli._progress import Progress
from gateway.cli.demo.client import Watch, ask, watching
from gateway.cli.demo.engine import private_engine
from gateway.cli.demo.images import Behaviour, Image, push
from gateway.cli.demo.process import GatewayProcess, free_port, gateway_process, until
from gateway.cli.demo.registry import NotificationEndpoint, private_registry
from gateway.docker.engine.client import connect
from gateway.model.errors import GatewayError, RolloutError, Unavailable
from gateway.model.sanitize import safe_text

_SETTINGS = {"GATEWAY_STABLE_WINDOW": "1", "GATEWAY_LOG_LEVEL": "info"}
_APPLICATION = "demo"
_WORKING = "working …"


@dataclass
class Journey:
    """What happened, in milliseconds since the push of v2."""

    timeline: dict[str, float] = field(default_factory=dict)
    outage: float = 0.0
    refused: dict[str, Any] = field(default_factory=dict)
    serving: str = ""


class _Teller:
    """Tells what happens, to people only."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet, self._works = quiet, False
        self._progress = Progress(quiet=quiet or not sys.stderr.isatty())

    def __call__(self, text: str, **style: Any) -> None:
        if self._quiet:
            return
        self._progress.close()
        click.secho(text, **style)
        if self._works:
            self._progress.state(_WORKING)

    @contextmanager
    def working(self) -> Iterator[None]:
        """On a terminal, show below the printed lines that a step is still running."""
        self._works = True
        self._progress.state(_WORKING)
        try:
            yield
        finally:
            self._works = False
            self._progress.close()


async def run(*, as_json: bool) -> bool:
    """Do it all and leave nothing; return whether everything went as it should."""
    tell = _Teller(quiet=as_json)
    task = asyncio.current_task()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lambda: task and task.cancel())
    journey = Journey()
    try:
        await _journey(journey, tell)
    except (GatewayError, TimeoutError) as error:
        click.secho(f"The demonstration failed: {safe_text(str(error)) or 'a step took too long'}", fg="red", err=True)
        return False
    except asyncio.CancelledError:
        click.secho("Stopped; everything is cleaned up.", err=True)
        return False
    if as_json:
        click.echo(json.dumps(asdict(journey), indent=2))
    return True


async def _journey(journey: Journey, tell: _Teller) -> None:
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-demo-")))
        tell("Starting a Docker Engine, PostgreSQL, the gateway and a registry …", dim=True)
        stack.enter_context(tell.working())
        host = await stack.enter_async_context(_engine())
        gateway = await stack.enter_async_context(gateway_process(directory, host, _SETTINGS))
        endpoint = await gateway.endpoint("distribution")
        notified = NotificationEndpoint(
            f"{gateway.url}{endpoint['path']}", {"Authorization": [f"Bearer {endpoint['secret']}"]}
        )
        registry = await stack.enter_async_context(
            private_registry(directory / "registry", free_port(), endpoints=[notified])
        )
        name, port = f"{registry.address}/demo:latest", free_port()
        await _first(gateway, name, port, tell)
        async with watching(port) as watch:
            await _good(gateway, name, watch, journey, tell)
            await _bad(gateway, name, port, journey, tell)
        await gateway.mutate("application.delete", {"applicationId": _APPLICATION})
        await until(lambda: _gone(gateway))
    tell("\nEverything is stopped and cleaned up.", dim=True)


@asynccontextmanager
async def _engine() -> AsyncIterator[str]:
    """Yield the address of the engine that is there, else of a private one."""
    host = os.environ.get("GATEWAY_DOCKER_HOST") or os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    try:
        async with connect(host) as engine:
            await engine.identify()
    except (RolloutError, GatewayError):
        async with private_engine() as private:
            yield private.host
    else:
        yield host


async def _gone(gateway: GatewayProcess) -> bool | None:
    return not await gateway.query("application.all") or None


async def _first(gateway: GatewayProcess, name: str, port: int, tell: _Teller) -> None:
    await push(Image("v1"), name)
    await gateway.cli("apps", "create", _APPLICATION, name, "--id", _APPLICATION, "--publish", f"{port}:8080")
    await gateway.mutate("application.redeploy", {"applicationId": _APPLICATION, "title": "First deployment"})
    await _expect(await gateway.settled(_APPLICATION), "succeeded")
    await until(lambda: _serves(port, "v1"))
    tell(f"v1 serves on http://127.0.0.1:{port}")


async def _serves(port: int, version: str) -> bool | None:
    return (await ask(port)) == version or None


async def _expect(deployment: dict[str, Any], state: str) -> None:
    if deployment["state"] != state:
        raise Unavailable(f"expected {state}, but the deployment is {deployment['state']}: {deployment['reason']}")


async def _good(gateway: GatewayProcess, name: str, watch: Watch, journey: Journey, tell: _Teller) -> None:
    tell("\nPushing v2 … (times count from here)", bold=True)
    pushed = time()
    await push(Image("v2"), name)
    journey.timeline["push"] = (time() - pushed) * 1000
    deployment = await gateway.settled(_APPLICATION, count=2)
    await _expect(deployment, "succeeded")
    ended = {step["step"]: step["finishedAt"] for step in deployment["steps"]}
    for word, at in {
        "accepted": deployment["createdAt"],
        "resolved": ended["resolve"],
        "pulled": ended["pull"],
        "created": ended["create"],
        "swapped": ended["swap"],
        "proven": ended["prove"],
    }.items():
        journey.timeline[word] = (datetime.fromisoformat(at).timestamp() - pushed) * 1000
    journey.outage = watch.outage() * 1000
    for word, milliseconds in journey.timeline.items():
        tell(f"  {word:<9}{milliseconds:8.0f} ms")
    tell(f"v2 serves; a client that kept asking saw an outage of {journey.outage:.0f} ms", fg="green")


async def _bad(gateway: GatewayProcess, name: str, port: int, journey: Journey, tell: _Teller) -> None:
    tell("\nPushing v3, which exits at start …", bold=True)
    await push(Image("v3", Behaviour.EXITS), name)
    deployment = await gateway.settled(_APPLICATION, count=3)
    await _expect(deployment, "rolled_back")
    await until(lambda: _serves(port, "v2"))
    journey.serving = "v2"
    journey.refused = {key: deployment[key] for key in ("state", "reason", "log")}
    reason = deployment["reason"]
    tell(f"  refused: {reason['message']}", fg="yellow")
    tell(f"  remedy:  {reason['remedy']}")
    tell("  its last lines:")
    for line in deployment["log"].splitlines():
        tell(f"    {line}")
    tell("v2 serves on", fg="green")
