"""Applications of every kind under pushes, backed up meanwhile: where the backup is restored, each goes on from it.

A round: pushes to all at once, and a backup in the midst of them; the gateway is killed, at once or some pushes later;
a copy of the file with one bit changed is refused; the backup is restored elsewhere, into an empty database and into a
data directory in turn; a gateway starts there. What was under way in the backup ends, what is newer serves on, and the
next push is deployed everywhere.
"""

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from secrets import randbelow, token_hex
from typing import Any

import aiohttp
import asyncpg

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.images import Image, push
from gateway.cli.demo.process import FINISHED, GatewayProcess, Refused, free_port, gateway_process, until
from gateway.cli.demo.registry import PrivateRegistry
from gateway.docker.engine import containers, networks
from gateway.docker.engine.client import Engine, connect
from gateway.docker.engine.containers import Container
from gateway.docker.engine.labels import DEPLOYMENT, DIGEST
from gateway.model.reference import Digest
from gateway.store.embedded_postgres import embedded_postgres
from tests.faults.database import KEY
from tests.faults.matrix import Tally
from tests.faults.wire import Wire, wire
from tests.faults.world import SETTINGS, Violation, lost
from tests.support.databases import address
from tests.support.distribution_hooks import Hook, envelope

_WITHIN = 180.0  # seconds for all to end, on a busy machine
_PASSPHRASE = "correct horse battery"
#: answers at once, and is healthy only a while later
_SLOW = (
    b"#!/bin/busybox sh\n/bin/busybox httpd -f -p 8080 -h /www &\ntrap 'kill $!; exit 0' TERM\n"
    b"/bin/busybox sleep 1.2\n/bin/busybox touch /ready\nwait $!\n"
)
#: applications that wait at a gate, and for their registry
_WAIT = ("gated", "away")
_SERVE = frozenset({"succeeded", "unchanged"})
_SECOND = 10**9  # nanoseconds
_HEALTH = {"Interval": _SECOND // 2, "Timeout": _SECOND, "Retries": 3, "StartPeriod": 20 * _SECOND}
_PROBE = {"type": "http", "port": 8080, "path": "/"}


@dataclass
class Member:
    """An application that is pushed to. `tags` is where its images are pushed to, under the name that it follows."""

    name: str
    image: str
    base: str
    configuration: dict[str, Any]
    is_slow: bool = False
    versions: int = 0
    #: the newest that was pushed
    newest: Digest | None = None
    #: what was pushed, and not told of with an answer
    untold: bytes | None = None
    #: the container's name
    app_name: str = ""

    async def push(self) -> Digest:
        self.versions += 1
        image = Image(f"{self.name} {self.versions} {token_hex(4)}")
        if self.is_slow:
            check = {"Test": ["CMD", "/bin/busybox", "test", "-f", "/ready"], **_HEALTH}
            image = Image(image.version, files={"entry": _SLOW}, config={"Healthcheck": check})
        self.newest = await push(image, self.image, base=self.base)
        self.untold = envelope(self.image, self.newest)
        return self.newest


@dataclass
class Place:
    """Where a gateway keeps what it knows."""

    settings: dict[str, str]
    #: None is a database of a server that runs
    data_dir: Path | None

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        async with AsyncExitStack() as stack:
            if self.data_dir is None:
                url = self.settings["GATEWAY_DATABASE_URL"]
            else:
                url = await stack.enter_async_context(embedded_postgres(self.data_dir))
            connection = await asyncpg.connect(url)
            try:
                yield connection
            finally:
                await connection.close()


@dataclass
class Restored:
    """What the backup says of each application, and what was on the engine before its gateway started."""

    known: set[str]
    #: deployments that had not ended, by application
    pending: dict[str, list[str]]
    before: dict[str, list[Container]]

    def newer(self, name: str) -> list[Container]:
        """Return the containers that a deployment made which the backup does not know."""
        return [one for one in self.before[name] if one.labels.get(DEPLOYMENT, "") not in self.known | {""}]


@dataclass
class RestoredWorld:
    directory: Path
    server: str
    dockerd: PrivateEngine
    engine: Engine
    gateway: GatewayProcess
    place: Place
    hook: Hook
    registry: str
    repository: str
    network: str
    leads_there: Wire
    members: list[Member] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    _places: int = 0

    # -- who is there

    async def begin(self) -> None:
        """Make all applications, each of which serves a version; one waits at a gate from its next push on."""
        for name, is_slow, configuration in (
            ("stop", False, self._ports()),
            ("stop-slow", True, self._ports()),
            ("stop-probed", False, {**self._ports(), "probe": _PROBE}),
            ("start", False, {"networks": [self.network]}),
            ("start-slow", True, {"networks": [self.network]}),
            ("start-probed", False, {"networks": [self.network], "probe": _PROBE}),
            ("gated", False, self._ports()),
        ):
            await self._create(name, f"{self.registry}/{self.repository}-{name}:latest", configuration, slow=is_slow)
        away = f"127.0.0.1:{self.leads_there.port}/{self.repository}-away:latest"
        await self._create("away", away, {"networks": [self.network]})
        await self._adopt("adopted")
        await self._all_get(await self._push_all())
        gate = {"applicationId": "gated", "kind": "approval", "rule": {"count": 1}}
        await self.gateway.mutate("gate.create", gate)

    def _ports(self) -> dict[str, Any]:
        return {"ports": [{"targetPort": 8080, "publishedPort": free_port()}]}

    async def _create(self, name: str, image: str, configuration: dict[str, Any], *, slow: bool = False) -> None:
        one = Member(name, image, f"http://{self.registry}", configuration, slow)
        made = {"name": name, "applicationId": name, "dockerImage": image, "stopGrace": 1, "drain": 0.1}
        row = await self.gateway.mutate("application.create", {**made, **configuration})
        one.app_name = row["appName"]
        self.members.append(one)

    async def _adopt(self, name: str) -> None:
        """Run a container by hand, and let the gateway adopt it."""
        image = f"{self.registry}/{self.repository}-{name}:latest"
        one = Member("", image, f"http://{self.registry}", {})
        await one.push()
        await self.engine.images.pull(image)
        bound = {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(free_port())}]}
        app_name = f"{name}-{token_hex(4)}"
        body = {"Image": image, "ExposedPorts": {"8080/tcp": {}}, "HostConfig": {"PortBindings": bound}}
        await containers.start(self.engine, await containers.create(self.engine, app_name, body, {}))
        row = await self.gateway.mutate("application.adopt", {"container": app_name, "name": app_name})
        one.name, one.app_name = row["applicationId"], app_name
        await self.gateway.mutate("application.update", {"applicationId": one.name, "stopGrace": 1})
        self.members.append(one)

    async def _adopt_another(self) -> None:
        """Let each round see the first replacement of a container that was adopted."""
        *_, former = self.members
        await self.gateway.mutate("application.delete", {"applicationId": former.name})

        async def gone() -> bool | None:
            found = await self.gateway.query("application.all")
            return True if all(one["applicationId"] != former.name for one in found) else None

        try:
            await until(gone, within=_WITHIN)
        except TimeoutError:
            raise Violation(f"{former.name} was not deleted: {await self._seen()}") from None
        self.members.remove(former)
        await self._clear(former)
        await self._adopt("adopted")

    # -- pushes

    async def _tell(self, one: Member) -> None:
        """Tell of the newest push until it is taken, as a registry does. Raises where nobody answers."""
        body = one.untold
        if body is None:
            return
        status, answer = await self.hook.post(body)
        if status not in {200, 202}:
            raise aiohttp.ClientError(f"{status} {answer}")
        self.acknowledged.add(answer["deliveryId"])
        if one.untold is body:
            one.untold = None

    async def _tell_all(self, members: list[Member]) -> None:
        async def told() -> bool | None:
            with suppress(aiohttp.ClientError):
                for one in members:
                    await self._tell(one)
                return True
            return None

        try:
            await until(told, within=_WITHIN)
        except TimeoutError:
            raise Violation(f"pushes are not taken: {[one.name for one in members if one.untold]}") from None

    async def _push_on(self, one: Member, calm: asyncio.Event) -> None:
        while not calm.is_set():
            await one.push()
            while one.untold is not None and not calm.is_set():
                with suppress(aiohttp.ClientError):
                    await self._tell(one)
            with suppress(TimeoutError):
                async with asyncio.timeout(random.uniform(0.1, 1.0)):
                    await calm.wait()

    async def _push_all(self) -> dict[str, Digest]:
        """Push to all, and return what each should run."""
        for one in self.members:
            await one.push()
        await self._tell_all(self.members)
        return {one.name: one.newest for one in self.members if one.newest}

    # -- a round

    async def round(self, tally: Tally, *, later: float) -> None:
        """Back up under load and restore elsewhere; the gateway lives for so many seconds more than its backup."""
        calm = asyncio.Event()
        waiting = [one for one in self.members if one.name in _WAIT]
        pushing = [asyncio.create_task(self._push_on(one, calm)) for one in self.members if one not in waiting]
        try:
            self.leads_there.cut()
            for one in waiting:
                await one.push()
            await self._tell_all(waiting)
            await self._until_much_goes_on()
            known = set(self.acknowledged)
            await self.gateway.cli("backup", "--force", *self._file)
            await asyncio.sleep(later)
            await self.gateway.stop(signal.SIGKILL)
        finally:
            calm.set()
            await asyncio.gather(*pushing)
        await self._nobody_was_lost()
        former, self.place = self.place, await self._another_place()
        if former.data_dir is not None:
            await self.gateway.cli("migrate")  # so that its database ends
        self.gateway = await self._moved()
        self.hook.gateway = self.gateway
        await self._changed_bit_is_refused(tally)
        await self.gateway.cli("restore", *self._file)
        restored = await self._look(tally, known)
        await self.gateway.start()
        await self._ends_as_the_backup_says(restored)
        await self._tell_all(self.members)
        await self._all_get(await self._push_all())
        await self._adopt_another()

    @property
    def _file(self) -> tuple[str, ...]:
        secret = self.directory / "passphrase"
        secret.write_text(_PASSPHRASE)
        return (str(self.directory / "gateway.backup"), "--passphrase-file", str(secret))

    async def _until_much_goes_on(self) -> None:
        """Wait until some are rolled out, one waits at its gate, and one for its registry."""

        async def seen() -> bool | None:
            states = {one.name: await self._newest(one) for one in self.members}
            waits = [states[name]["state"] == "queued" and states[name]["reason"] for name in _WAIT]
            runs = sum(row["state"] == "running" for row in states.values())
            return True if all(waits) and runs >= 3 else None

        try:
            await until(seen, within=_WITHIN)
        except TimeoutError:
            raise Violation(f"not enough goes on after {_WITHIN:.0f} s of pushes: {await self._seen()}") from None

    async def _nobody_was_lost(self) -> None:
        """Raises Violation where the killed gateway left nobody of those that start before the old one stops."""
        for one in self.members:
            if one.configuration.get("networks"):
                running = [found for found in await self._containers(one) if found.running]
                if not any([await self._answers(found) for found in running]):
                    raise Violation(f"{one.name}: nobody answers after the kill")

    async def _another_place(self) -> Place:
        self._places += 1
        data_dir = self.directory / f"place-{self._places}"
        if self._places % 2:
            name = f"restored_{self._places}"
            connection = await asyncpg.connect(self.server)
            await connection.execute(f"CREATE DATABASE {name}")
            await connection.close()
            url = address(self.server, name)
            settings = {"GATEWAY_DATABASE_URL": url, "GATEWAY_MASTER_KEY": KEY, "GATEWAY_DATA_DIR": str(data_dir)}
            return Place(settings, None)
        return Place({"GATEWAY_DATA_DIR": str(data_dir)}, data_dir)

    async def _moved(self) -> GatewayProcess:
        """Return the gateway of the new place, at the same address."""
        former = self.gateway
        moved = GatewayProcess(self.directory, self.dockerd.host, {**SETTINGS, **self.place.settings})
        moved.port, moved.url, moved.key = former.port, former.url, former.key
        moved.environment["GATEWAY_LISTEN"] = former.environment["GATEWAY_LISTEN"]
        return moved

    async def _changed_bit_is_refused(self, tally: Tally) -> None:
        path, *words = self._file
        changed = bytearray(await asyncio.to_thread(Path(path).read_bytes))
        at = randbelow(len(changed))
        changed[at] ^= 1 << randbelow(8)
        damaged = self.directory / "damaged.backup"
        damaged.write_bytes(changed)
        try:
            await self.gateway.cli("restore", str(damaged), *words)
        except Refused:
            tally.count("a bit of the backup changed", "restore")
        else:
            raise Violation(f"a backup with a changed byte {at} of {len(changed)} was restored")
        if self.place.data_dir is not None and self.place.data_dir.exists():
            raise Violation("a damaged backup made a data directory")

    async def _look(self, tally: Tally, acknowledged: set[str]) -> Restored:
        """Read what was restored; raises Violation where a push is missing that was answered before the backup."""
        async with self.place.connection() as connection:
            rows = await connection.fetch(
                """
                SELECT deployment_id, application_id, status::text AS status, attempts,
                       EXISTS (SELECT FROM swaps s WHERE s.deployment_id = d.deployment_id) AS swaps
                  FROM deployments d
                """
            )
            there = {row["delivery_id"] for row in await connection.fetch("SELECT delivery_id FROM deliveries")}
        if missing := acknowledged - there:
            raise Violation(f"{len(missing)} pushes are not in the backup that were answered before it")
        self.acknowledged &= there
        pending: dict[str, list[str]] = {}
        for row in rows:
            if row["status"] in {"queued", "running"}:
                pending.setdefault(row["application_id"], []).append(row["deployment_id"])
                what = "in its swap" if row["swaps"] else row["status"] if row["attempts"] < 2 else "tried before"
                tally.count(f"in the backup: {what}", f"{what}: {row['application_id']}")
        before = {one.name: await self._containers(one) for one in self.members}
        restored = Restored({row["deployment_id"] for row in rows}, pending, before)
        for one in self.members:
            if restored.newer(one.name):
                tally.count("newer than the backup", f"newer: {one.name}")
        return restored

    # -- what must hold

    async def _ends_as_the_backup_says(self, restored: Restored) -> None:
        try:
            await until(lambda: self._have_ended(but=set(_WAIT)), within=_WITHIN)
        except TimeoutError:
            raise Violation(f"not ended after {_WITHIN:.0f} s: {await self._seen()}") from None
        for one in self.members:
            await self._goes_on(one, restored)
        self.leads_there.mend()
        try:
            await until(lambda: self._have_ended(but={"gated"}), within=_WITHIN)
        except TimeoutError:
            raise Violation(f"not ended with its registry back: {await self._seen()}") from None
        for one in self.members:
            if one.name == "away":
                await self._goes_on(one, restored)

    async def _have_ended(self, *, but: set[str]) -> bool | None:
        for one in self.members:
            rows = await self._rows(one)
            if one.name not in but and not all(row["state"] in FINISHED for row in rows):
                return None
        return True

    async def _rows(self, one: Member) -> list[dict[str, Any]]:
        with suppress(aiohttp.ClientError, Refused):
            return await self.gateway.deployments(one.name)
        return [{"state": "unknown", "reason": None}]

    async def _newest(self, one: Member) -> dict[str, Any]:
        return next(iter(await self._rows(one)), {"state": "none", "reason": None})

    async def _goes_on(self, one: Member, restored: Restored) -> None:
        """Raises Violation unless what was newer serves on, and else what the newest deployment says."""
        rows = {row["deploymentId"]: row for row in await self._rows(one)}
        now = [found for found in await self._containers(one) if found.running or found.restarting]
        serving = next((found for found in now if found.name == one.app_name), None)
        waits = one.name in _WAIT and any(row["state"] == "queued" for row in rows.values())
        was_pending = [rows[deployment_id] for deployment_id in restored.pending.get(one.name, ())]
        said = f"{one.name}: {_shown(restored.before[one.name])} became {_shown(await self._containers(one))}"
        said += f"; was under way: {[(row['state'], row['reason']) for row in was_pending]}"
        newer = [found for found in restored.newer(one.name) if found.running and found.name == one.app_name]
        if newer:
            if serving is None or serving.container_id != newer[0].container_id:
                raise Violation(f"what is newer than the backup was replaced: {said}")
            return
        if serving is None:
            # A rollout that the backup does not know was cut in the midst of its swap.
            if was_pending and not waits:
                raise Violation(f"nothing serves: {said}")
            return
        if not await self._answers(serving):
            raise Violation(f"it does not answer: {said}")
        if any(row["state"] not in {"succeeded", "unchanged", "superseded", "queued"} for row in was_pending):
            raise Violation(f"what was under way did not end well: {said}")
        ended = [row for row in rows.values() if row["state"] in {"succeeded", "unchanged"}]
        if ended and serving.labels.get(DIGEST, ended[0]["digest"]) != ended[0]["digest"]:
            raise Violation(f"{ended[0]['digest']} is said to serve: {said}")

    async def _all_get(self, wanted: dict[str, Digest]) -> None:
        """Wait until each runs what was pushed last, with an approval where one is needed."""

        async def ended() -> bool | None:
            with suppress(aiohttp.ClientError, Refused):
                for waiting in await self.gateway.query("approval.all"):
                    if waiting["digest"] == wanted["gated"]:
                        await self.gateway.mutate("approval.approve", {"approvalId": waiting["approvalId"]})
                if not await self._have_ended(but=set()):
                    return None
                newest = {one.name: await self._newest(one) for one in self.members}
                served = {"succeeded", "unchanged"}
                return (
                    all((row["state"] in served, row["digest"]) == (True, wanted[name]) for name, row in newest.items())
                    or None
                )
            return None

        try:
            await until(ended, within=_WITHIN)
        except TimeoutError:
            raise Violation(f"{wanted} was pushed to all: {await self._seen()}") from None
        for one in self.members:
            await self._serves_alone(one, wanted[one.name])

    async def _serves_alone(self, one: Member, wanted: Digest) -> None:
        found = await self._containers(one)
        serving = [this for this in found if this.running or this.restarting]
        if [(this.name, this.labels.get(DIGEST, wanted)) for this in serving] != [(one.app_name, wanted)]:
            raise Violation(f"{one.name}: {wanted} should run alone: {_shown(found)}")
        if not await self._answers(serving[0]):
            raise Violation(f"{one.name} does not answer: {_shown(found)}")
        kept = [this for this in found if this not in serving]
        stray = any(".old." not in this.name or this.restart_policy["Name"] not in {"", "no"} for this in kept)
        if len(kept) > 1 or stray or await networks.list_labelled(self.engine, one.name):
            raise Violation(f"{one.name}: strays: {_shown(found)}")

    async def _seen(self) -> str:
        said = []
        for one in self.members:
            rows = [f"{row['state']} {row.get('digest')} {row.get('reason')}" for row in (await self._rows(one))[:2]]
            said.append(f"{one.name}: {rows} {_shown(await self._containers(one))}")
        return "\n    ".join(["", *said])

    async def _containers(self, one: Member) -> list[Container]:
        found = await containers.list_labelled(self.engine, one.name)
        original = await containers.inspect(self.engine, one.app_name)
        known = {this.container_id for this in found}
        return [*found, *([original] if original is not None and original.container_id not in known else [])]

    async def _answers(self, container: Container) -> bool:
        """Ask it where a client would."""
        seen = await self.engine.call("GET", f"containers/{container.container_id}/json")
        bindings = (seen["NetworkSettings"]["Ports"] or {}).get("8080/tcp")
        addresses = [one["IPAddress"] for one in seen["NetworkSettings"]["Networks"].values()]
        where = f"127.0.0.1:{bindings[0]['HostPort']}" if bindings else f"{addresses[0]}:8080"

        async def ask() -> bool | None:
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with (
                    aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session,
                    session.get(f"http://{where}/") as answer,
                ):
                    return answer.ok or None
            return None

        with suppress(TimeoutError):
            return await until(ask, within=30)
        return False

    async def _clear(self, one: Member) -> None:
        for found in await self._containers(one):
            await containers.remove(self.engine, found.container_id)

    async def clear(self) -> None:
        for one in self.members:
            await self._clear(one)


def _shown(found: list[Container]) -> str:
    said = (
        f"{one.name} {one.labels.get(DIGEST, 'adopted')[7:19]} by {one.labels.get(DEPLOYMENT, '')[:8]} "
        f"{'running' if one.running else f'exit {one.exit_code}'}"
        for one in found
    )
    return f"[{', '.join(said)}]"


@asynccontextmanager
async def restored_world(
    dockerd: PrivateEngine, registry: PrivateRegistry, server: str, repository: str, directory: Path
) -> AsyncIterator[RestoredWorld]:
    """`server` is the address of a database `gateway`, beside which others are made."""
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    host, _, port = registry.address.rpartition(":")
    network = f"front-{free_port()}"
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        engine = await enter(connect(dockerd.host))
        leads_there = await enter(wire(lambda: asyncio.open_connection(host, int(port))))
        place = Place({"GATEWAY_DATA_DIR": str(directory / "data")}, directory / "data")
        gateway = await enter(gateway_process(directory, dockerd.host, {**SETTINGS, **place.settings}))
        addresses = {"Config": [{"Subnet": f"10.{220 + randbelow(30)}.{randbelow(256)}.0/24"}]}
        await engine.call("POST", "networks/create", body={"Name": network, "IPAM": addresses})
        one = RestoredWorld(
            directory, server, dockerd, engine, gateway, place, await Hook.open(gateway), registry.address,
            repository, network, leads_there,
        )  # fmt: skip
        try:
            await one.begin()
            yield one
        finally:
            leads_there.mend()
            await one.gateway.stop()
            await one.clear()
            for left in (await engine.call("GET", f"networks/{network}"))["Containers"]:  # of applications as adopted
                await engine.call("DELETE", f"containers/{left}", params={"force": 1, "v": 1})
            await engine.call("DELETE", f"networks/{network}")


async def restored_under_load(
    dockerd: PrivateEngine,
    registry: PrivateRegistry,
    server: str,
    repository: str,
    directory: Path,
    tally: Tally,
    *,
    rounds: int,
) -> None:
    """Run so many rounds; in every other one, the gateway goes on for a while after the backup."""
    async with restored_world(dockerd, registry, server, repository, directory) as one:
        for number in range(rounds):
            later = random.uniform(0.5, 4.0) if number % 2 else 0.0
            tally.count("restored elsewhere under pushes", "round")
            try:
                await one.round(tally, later=later)
            except Exception as error:
                if (said := lost(error)) is None:
                    raise
                tally.violated(f"round {number + 1}, killed {later:.1f} s after the backup: {said}")
                return
