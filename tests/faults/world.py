"""One application on its own gateway, database and proxied engine; how it is asked for, and what must hold of it."""

import asyncio
import functools
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from secrets import randbelow
from typing import Any

import aiohttp

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.images import Behaviour, Image, push
from gateway.cli.demo.process import FINISHED, GatewayProcess, Refused, free_port, gateway_process, until
from gateway.docker.engine import containers, networks
from gateway.docker.engine.client import Engine, connect
from gateway.docker.engine.containers import Container
from gateway.model.configuration import Order
from gateway.model.errors import Failed, Unavailable
from gateway.model.reference import Digest
from tests.faults.database import Database, database
from tests.faults.engine_proxy import EngineProxy, Strike, engine_proxy
from tests.support.distribution_hooks import Hook, envelope

SETTINGS = {
    "GATEWAY_STABLE_WINDOW": "0.2",
    "GATEWAY_LEASE": "0.6",
    "GATEWAY_LOG_FORMAT": "text",
    "GATEWAY_SHUTDOWN_GRACE": "0",
    "GATEWAY_PULL_STALL": "1",
}

#: what a person calls a container that was the gateway's
RENAMED = "mine-"
_SHOWN = 100  # deployments in one answer


class Violation(Exception):
    """What must hold after every fault does not."""


class Asked(StrEnum):
    """What is under way when the fault strikes."""

    PUSH = "push"
    ROLLBACK = "rollback"


@dataclass
class World:
    """An application that is replaced again and again. `directory` is its own."""

    directory: Path

    order: Order
    dockerd: PrivateEngine
    engine: Engine
    proxy: EngineProxy
    database: Database
    gateway: GatewayProcess
    hook: Hook
    repository: str
    network: str
    app: str = ""
    image: str = ""
    #: whether what is replaced is one that the engine itself starts again
    always: bool = False
    #: whether each fault strikes a gateway that has just replaced a version, and knows how the last one booted
    warm: bool = False
    #: what each version does
    behaviour: Behaviour = Behaviour.SERVES
    #: where the applications are; None is the gateway's own engine
    server_id: str | None = None
    #: digests that were served, the newest last, and the deployments there were
    served: list[Digest] = field(default_factory=list)
    count: int = 0
    _versions: int = 0
    _unanswered: bytes | None = None
    _apps: int = 0

    # -- what is asked for

    async def revive(self) -> None:
        """Make everything work again, whatever was done to it."""
        self.proxy.disarm()
        self.database.wire.mend()
        await self.database.refuse_nothing()
        if not self.dockerd.running:
            await self.dockerd.start()
        await self.gateway.stop(signal.SIGKILL)
        await self.gateway.start()

    async def begin_anew(self) -> None:
        """Take another application, of another image, with a version kept beside the one that serves."""
        await self.clear()
        self._apps += 1
        self.app, self.count = f"{self.order}-{self._apps}", 0
        self.image = f"{self.repository}-{self._apps}:latest"
        self.served.clear()
        self._unanswered = None
        made = {"name": self.app, "applicationId": self.app, "dockerImage": self.image, **self.configuration()}
        await self.gateway.mutate("application.create", made)
        for _ in range(2):
            await self.ends(await self.ask(Asked.PUSH))

    def configuration(self) -> dict[str, Any]:
        if self.order is Order.STOP_FIRST:
            shown: dict[str, Any] = {"ports": [{"targetPort": 8080, "publishedPort": free_port()}]}
        else:
            shown = {"networks": [self.network]}
        there = {} if self.server_id is None else {"serverId": self.server_id}
        return {"stopGrace": 1, "drain": 0.1, **shown, **there}

    async def clear(self) -> None:
        for number in range(1, self._apps + 1):
            for container in await containers.list_labelled(self.engine, f"{self.order}-{number}"):
                await containers.remove(self.engine, container.container_id)

    async def pushed(self, image: Image | None = None) -> Digest:
        """Push the next version."""
        self._versions += 1
        return await push(image or Image(f"{self.app} {self._versions}", self.behaviour), self.image)

    async def notify(self, digest: Digest) -> None:
        """Tell of a push as a registry does: again and again, until it is taken."""
        body = envelope(self.image, digest)

        async def taken() -> dict[str, Any] | None:
            with suppress(aiohttp.ClientError):
                status, answer = await self.hook.post(body)
                if status in {HTTPStatus.OK, HTTPStatus.ACCEPTED}:
                    return answer
            if self.proxy.fired:  # it may have been taken, and the answer was lost: it is sent again once all works
                self._unanswered = body
                return {"deployments": [None]}
            return None

        answer = await until(taken)
        # What was taken, and whose answer was lost, is a duplicate when it is sent again.
        if not answer["deployments"] and answer.get("duplicateOf") is None:
            raise Violation(f"a push was answered with {answer}")
        self.count += 1

    async def send_again(self) -> None:
        """Send the push again whose answer a strike has cut off, as its registry does; a second one does nothing."""
        body, self._unanswered = self._unanswered, None
        if body is not None:

            async def taken() -> bool | None:
                with suppress(aiohttp.ClientError):
                    status, _ = await self.hook.post(body)
                    return status in {HTTPStatus.OK, HTTPStatus.ACCEPTED} or None
                return None

            await until(taken)

    async def ask(self, asked: Asked) -> Digest:
        """Ask for another version; return its digest."""
        if self.always and self.served:
            policy = {"RestartPolicy": {"Name": "always"}}
            await self.engine.call("POST", f"containers/{await self.name()}/update", body=policy)
        if asked is Asked.PUSH:
            digest = await self.pushed()
            await self.notify(digest)
            return digest
        serving = self.served[-1]
        ran = [one for one in await self.rows() if one["state"] == "succeeded" and one["kind"] not in {"start", "stop"}]
        before = next(one for one in ran if one["digest"] != serving)
        to = {"applicationId": self.app, "deploymentId": before["deploymentId"]}
        with suppress(aiohttp.ClientError):  # struck already: it was taken, and the answer was lost
            await self.gateway.mutate("application.rollback", to)
        self.count += 1
        return Digest(before["digest"])

    async def ask_for(self, state: str) -> None:
        """Stop or start the application, and wait for the end of that."""
        await self.gateway.mutate(f"application.{state}", {"applicationId": self.app})
        self.count += 1

        async def ended() -> bool | None:
            return await self.settled() or None

        await until(ended)
        newest = (await self.rows())[0]
        if newest["state"] != "succeeded":
            raise Violation(f"a {state} ended as {_row(newest)}")

    async def clear_running(self) -> None:
        """Stop all that runs of the application, as who takes a network away must."""
        for one in await containers.list_labelled(self.engine, self.app):
            await containers.stop(self.engine, one.container_id, grace=1)

    async def inside(self, *words: str) -> None:
        """Run a command in what serves, without waiting for it."""
        body = {"Cmd": ["/bin/busybox", *words]}
        made = await self.engine.call("POST", f"containers/{await self.name()}/exec", body=body)
        await self.engine.call("POST", f"exec/{made['Id']}/start", body={"Detach": True})

    async def struck(self, strike: Strike, asked: Asked, at: int | str, *, after: bool) -> tuple[Digest, str | None]:
        """Ask, and be struck at the call of that number, or whose path ends so.

        Returns what was asked for and the call, if there was one.
        """
        self.proxy.arm(strike, at, after=after)
        wanted = await self.ask(asked)

        async def unstruck() -> bool | None:
            return await self.settled() or None

        # Once it is struck, nobody may answer for a while.
        looking = [asyncio.create_task(self.proxy.struck.wait()), asyncio.create_task(until(unstruck))]
        try:
            await asyncio.wait(looking, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in looking:
                task.cancel()
            await asyncio.gather(*looking, return_exceptions=True)
        fired = self.proxy.fired
        if fired is None:
            self.proxy.disarm()  # what is cleared away later must not be struck: nobody would mend it
        return wanted, fired

    async def settled(self, told_by: GatewayProcess | None = None) -> bool:
        try:
            found = await (told_by or self.gateway).deployments(self.app)
        except (aiohttp.ClientError, OSError, Refused):
            return False
        return len(found) >= min(self.count, _SHOWN) and all(one["state"] in FINISHED for one in found)

    @asynccontextmanager
    async def second_gateway(self) -> AsyncIterator[GatewayProcess]:
        """Run another one on the same database and engine, past the proxies."""
        settings = {
            key: value for key, value in self.gateway.environment.items() if key.startswith("GATEWAY_")
        } | self.database.direct_settings
        del settings["GATEWAY_LISTEN"], settings["GATEWAY_DATA_DIR"], settings["GATEWAY_DOCKER_HOST"]
        async with gateway_process(self.directory / "second", self.dockerd.host, settings) as second:
            yield second

    # -- a backup

    async def back_up(self) -> None:
        """Take a backup while the gateway serves."""
        await self._beside("backup", "--force")

    async def restore(self) -> None:
        """Let the gateway begin anew with what the backup has. It is stopped before."""
        await self.database.begin_empty()
        await self._beside("restore")
        self.gateway.environment.update(self.database.settings)

    async def _beside(self, *words: str) -> None:
        secret = self.directory / "passphrase"
        secret.write_text("correct horse battery")
        given = (*words, str(self.directory / "backup"), "--passphrase-file", str(secret))
        environment = {**self.gateway.environment, **self.database.direct_settings}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", *given, env=environment, stdout=-1, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await process.communicate()
        if process.returncode != 0:
            raise Violation(f"{words[0]}: {said.decode()}")

    # -- what must hold

    async def ends(self, wanted: Digest, *, within: float = 60) -> None:
        """Wait until all is settled; raises Violation unless that is the version that serves, and nothing is stray."""

        async def look() -> bool | None:
            return await self.settled() or None

        try:
            await until(look, within=within)
        except TimeoutError:
            raise Violation(f"not settled after {within:.0f} s: {_row((await self.rows())[0])}") from None
        newest = (await self.rows())[0]
        if newest["state"] != "succeeded" or newest["digest"] != wanted:
            raise Violation(f"{wanted[:19]} was asked for; the row says {_row(newest)}")
        await self.one_serves(wanted)
        if await self.database.count("SELECT count(*) FROM swaps WHERE application_id = $1", self.app):
            raise Violation("a swap is still open")
        self.served.append(wanted)

    async def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self._patient(lambda: self.gateway.deployments(self.app))
        return found

    async def _patient(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Ask until it is answered: connections to a database that was away are found dead one by one."""
        said: list[str] = []

        async def answered() -> Any:
            try:
                return await ask()
            except (Refused, aiohttp.ClientError) as error:
                said.append(str(error))
                return None

        try:
            return await until(answered)
        except TimeoutError:
            raise Violation(f"refused again and again: {said[-1:]}") from None

    async def one_serves(self, wanted: Digest) -> None:
        """Raises Violation unless that version answers under the name, alone, with at most one kept, down for good."""
        found = await containers.list_labelled(self.engine, self.app)
        serving = [one for one in found if one.running or one.restarting]
        if [(one.name, one.labels["gateway.digest"]) for one in serving] != [(await self.name(), wanted)]:
            raise Violation(f"{wanted[:19]} should run alone: {_seen(found)}")
        if not await self.answers(serving[0]):
            raise Violation(f"nobody answers at {await self.address(serving[0])}: {_seen(found)}")
        kept = [one for one in found if one not in serving]
        # What was renamed at the very last is named again by the next deployment.
        named = [one for one in kept if not one.name.startswith(RENAMED)]
        stray = any(".old." not in one.name for one in named) or any(one.restart_policy["Name"] != "no" for one in kept)
        if len(named) > 1 or stray:
            raise Violation(f"strays: {_seen(found)}")
        if left := await networks.list_labelled(self.engine, self.app):
            raise Violation(f"stray networks: {', '.join(one['Name'] for one in left)}")

    async def name(self) -> str:
        ask = functools.partial(self.gateway.query, "application.one", applicationId=self.app)
        found: dict[str, Any] = await self._patient(ask)
        return str(found["appName"])

    async def somebody_answers(self) -> None:
        """Raises Violation unless a client is served just now."""
        found = await containers.list_labelled(self.engine, self.app)
        if not any([await self.answers(one) for one in found if one.running]):
            raise Violation(f"nobody answers: {_seen(found)}")

    async def until_somebody_answers(self, *, within: float = 30) -> None:
        """Raises Violation unless a client is served in time, as a swap that has begun goes on."""
        deadline = asyncio.get_running_loop().time() + within
        while True:
            try:
                return await self.somebody_answers()
            except Violation:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(0.1)

    async def answers(self, container: Container) -> bool:
        """Ask it where a client would."""

        async def ask() -> bool | None:
            # While it is swapped it leaves one network and joins another.
            if (where := await self.address(container)) is None:
                return None
            try:
                async with (
                    aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session,
                    session.get(f"http://{where}/") as answer,
                ):
                    return answer.ok or None
            except (aiohttp.ClientError, OSError, TimeoutError):
                return None

        try:
            # An address that changed hands is looked for anew only after a second. A busy machine needs longer.
            return await until(ask, within=30)
        except TimeoutError:
            return False

    async def address(self, container: Container) -> str | None:
        """Return its published port, else its own address on its first network; None while it has neither."""
        seen = await self.engine.call("GET", f"containers/{container.container_id}/json")
        bindings = (seen["NetworkSettings"]["Ports"] or {}).get("8080/tcp")
        if bindings:
            return f"127.0.0.1:{bindings[0]['HostPort']}"
        addresses = (one["IPAddress"] for one in seen["NetworkSettings"]["Networks"].values())
        return next((f"{address}:8080" for address in addresses if address), None)


def _row(row: dict[str, Any]) -> str:
    return f"{row['state']} {str(row['digest'])[:19]} {row['reason']}"


def _seen(found: list[Container]) -> str:
    return ", ".join(
        f"{one.name} {one.labels['gateway.digest'][:19]} {'running' if one.running else f'exit {one.exit_code}'} "
        f"restart={one.restart_policy['Name']}"
        for one in found
    )


@asynccontextmanager
async def world(
    order: Order,
    dockerd: PrivateEngine,
    repository: str,
    directory: Path,
    *,
    always: bool = False,
    settings: Mapping[str, str] = SETTINGS,
    kind: type[World] = World,
) -> AsyncIterator[World]:
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    network = f"front-{free_port()}"
    socket = dockerd.socket.parent / f"{network}.sock"
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        engine = await enter(connect(dockerd.host))
        proxy = await enter(engine_proxy(socket, dockerd.socket))
        base = await enter(database(directory))
        gateway = await enter(gateway_process(directory, f"unix://{proxy.socket}", {**settings, **base.settings}))
        # Addresses of its own: engines that start at once choose the same ones, and the host finds but one of them.
        addresses = {"Config": [{"Subnet": f"10.{220 + randbelow(30)}.{randbelow(256)}.0/24"}]}
        await engine.call("POST", "networks/create", body={"Name": network, "IPAM": addresses})
        made = kind(
            directory, order, dockerd, engine, proxy, base, gateway, await Hook.open(gateway), repository, network
        )
        made.always = always
        try:
            await made.begin_anew()
            yield made
        finally:
            base.wire.mend()
            await gateway.stop(signal.SIGKILL)
            await until(functools.partial(_cleared, made), within=30)


async def _cleared(made: World) -> bool | None:
    """Remove the containers and the network; None where a call of the killed gateway has made one since."""
    await made.clear()
    try:
        await made.engine.call("DELETE", f"networks/{made.network}")
    except Failed:
        return None
    return True


def lost(error: Exception) -> str | None:
    """Tell what an error says of the product; None for one that is the test's own."""
    return str(error) if isinstance(error, Violation | Unavailable | TimeoutError) else None
