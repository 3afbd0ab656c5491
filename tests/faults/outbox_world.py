"""The outbox while its gateways are killed: nothing is lost, order is kept, and GitHub sees each state once.

Two gateways share the deliveries. The receivers are well, slow, full of errors, away, and a GitHub that limits rates,
fails, and sometimes answers 500 to what it has done. Each application starts and ends one deployment after another.
"""

import asyncio
import random
import time
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.cli.demo.process import GatewayProcess, free_port, gateway_process, until
from gateway.model.alerts import EventKind, Occurrence
from gateway.model.commits import REVISION, SOURCE
from gateway.store import applications, outbox
from gateway.store.database import Pool, connect, transaction
from gateway.store.embedded_postgres import embedded_postgres
from tests.faults.matrix import Tally
from tests.support.code_hosts import TOKEN, CodeHost, a_code_host, sometimes

_APPLICATIONS, _REPOSITORIES = 100, 10  # each repository has the source of ten applications, all at one commit
_SHA = "ab" * 20
_LONGEST = 900.0  # seconds from the last kill until all is delivered
_KINDS = (EventKind.STARTED, EventKind.FAILED)


@dataclass
class Program:
    """A receiver of webhooks: what it took, by application, in the order in which it came."""

    name: str
    chance: float = 0.0
    delay: float = 0.0
    took: dict[str, list[str]] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    attempts: int = 0
    source: random.Random = field(default_factory=lambda: random.Random(1))

    async def hear(self, request: web.Request) -> web.Response:
        self.attempts += 1
        await asyncio.sleep(self.delay * self.source.random())
        if self.source.random() < self.chance:
            status = self.source.choice((429, 500, 502, 503))
            return web.Response(status=status, headers={"Retry-After": "1"} if status == 429 else {})
        said = orjson.loads(await request.read())
        deployment = said["data"]["deployment"]["deploymentId"]
        what = f"{deployment} {said['type']}"
        self.took.setdefault(said["data"]["application"]["applicationId"], []).append(what)
        self.ids.setdefault(what, request.headers["webhook-id"])
        if self.ids[what] != request.headers["webhook-id"]:
            self.took[f"another id of {what}"] = []
        return web.Response()


@dataclass
class OutboxWorld:
    """Gateways, receivers, and who writes."""

    pool: Pool
    gateways: list[GatewayProcess]
    programs: list[Program]
    host: CodeHost
    #: what was written, by application, in order
    written: dict[str, list[str]] = field(default_factory=dict)
    looks: int = 0

    async def set_up(self, urls: dict[str, str]) -> None:
        one = self.gateways[0]
        for name, url in urls.items():
            given = {"name": name, "receiver": "webhook", "address": url, "allowPrivate": True}
            await one.mutate("alert.create", given)
        await one.mutate(
            "alert.create",
            {"name": "github", "receiver": "github", "address": self.host.url, "allowPrivate": True, "token": TOKEN},
        )
        for number in range(_APPLICATIONS):
            await one.mutate("application.create", {"name": f"app-{number}", "applicationId": f"app-{number}"})

    async def write(self, events: int) -> None:
        """Write as many events, each in a transaction of its own; one in twenty is undone."""
        numbers = random.Random(2)
        for number in range(events // len(_KINDS)):
            application_id = f"app-{number % _APPLICATIONS}"
            deployment = f"{number:08d}-0000"
            for kind in _KINDS:
                undone = numbers.random() < 0.05
                if undone:
                    await self._write_one(application_id, f"undone{number}{kind}", kind, undone=True)
                await self._write_one(application_id, deployment, kind)
            await asyncio.sleep(0)

    async def _write_one(self, application_id: str, deployment: str, kind: EventKind, *, undone: bool = False) -> None:
        content = {
            "deployment": {"deploymentId": deployment, "kind": "deploy", "image": "ghcr.io/acme/web:1", "digest": "d"}
        }
        key = f"deployment:{deployment}:{kind}"
        try:
            async with transaction(self.pool) as connection:
                await applications.lock_row(connection, application_id)
                await outbox.write_event(connection, Occurrence(application_id, deployment, key, kind, content))
                await connection.execute(
                    "UPDATE outbox_events SET origin = $2 WHERE key = $1",
                    key,
                    {SOURCE: f"{self.host.url}/acme/{_repository(application_id)}", REVISION: _SHA},
                )
                _raise_if(undone)
        except _Undone:
            return
        self.written.setdefault(application_id, []).append(f"{deployment} deployment.{kind}")

    async def kill(self, kills: int, tally: Tally) -> None:
        """Kill one gateway after the other, and start it again."""
        for number in range(kills):
            one = self.gateways[number % len(self.gateways)]
            await asyncio.sleep(random.uniform(0.2, 2.0))
            await one.stop(9)
            tally.count("kill -9 of a gateway that delivers", "outbox")
            await one.start()

    async def is_done(self) -> bool | None:
        """Return True when nothing waits but for the receiver that is away."""
        async with self.pool.acquire() as connection:
            waiting = await connection.fetchval(
                "SELECT count(*) FROM outbox_deliveries JOIN alerts a USING (alert_id)"
                " WHERE state = 'waiting' AND a.name <> 'away'"
            )
        await asyncio.sleep(1)
        self.looks += 1
        if self.looks % 30 == 0:
            print(f"outbox: {waiting} wait", flush=True)  # noqa: T201
        return True if not waiting else None

    async def judge(self, tally: Tally, events: int) -> None:
        for one in self.programs:
            repeated = 0
            for application_id, wanted in self.written.items():
                took = one.took.get(application_id, [])
                first = list(dict.fromkeys(took))
                repeated += len(took) - len(first)
                if first != wanted:
                    tally.violated(f"{one.name}: of {application_id} came {_differ(wanted, first)}")
            if strange := one.took.keys() - self.written.keys():
                tally.violated(f"{one.name}: {sorted(strange)[:3]}")
            print(f"{one.name}: {events} events, {one.attempts} requests, {repeated} repeated")  # noqa: T201
        self._judge_github(tally)
        async with self.pool.acquire() as connection:
            rows = await connection.fetch(
                "SELECT a.name, d.state::text, count(*), max(attempts) AS most FROM outbox_deliveries d"
                " JOIN alerts a USING (alert_id) GROUP BY 1, 2 ORDER BY 1, 2"
            )
        for row in rows:
            print(f"{row['name']}: {row['count']} {row['state']}, at most {row['most']} attempts")  # noqa: T201
            if row["state"] == "failed":
                tally.violated(f"{row['count']} were given up for {row['name']}")

    def _judge_github(self, tally: Tally) -> None:
        told: dict[str, list[str]] = {}
        made = Counter(what for kind, what, _ in self.host.written if kind == "deployment")
        numbers = {str(number): one["payload"]["deploymentId"] for number, one in self.host.deployments.items()}
        for kind, what, body in self.host.written:
            if kind == "deployment_status":
                told.setdefault(numbers[what], []).append(body["state"])
        wanted = {one.partition(" ")[0] for all_of_it in self.written.values() for one in all_of_it}
        for deployment in sorted(wanted | told.keys()):
            if told.get(deployment) != ["in_progress", "failure"] or made[deployment] != 1:
                tally.violated(f"github: {deployment} is made {made[deployment]} times, {told.get(deployment)}")
        commits = [str(sorted(body.items())) for kind, _, body in self.host.written if kind == "commit_status"]
        first = {one: at for at, one in reversed(list(enumerate(commits)))}
        behind = [at - first[one] for at, one in enumerate(commits) if at != first[one]]
        if behind or len(commits) != len(wanted) * len(_KINDS):
            many = f"{len(behind)} of them again, after so many others: {behind[:20]}"
            tally.violated(f"github: {len(commits)} commit statuses, {many}")
        for one in self.host.refused[:5]:
            tally.violated(f"github refused {one}")
        print(f"github: {len(self.host.written)} writes, {len(wanted)} deployments")  # noqa: T201


def _repository(application_id: str) -> str:
    return f"web-{int(application_id.rpartition('-')[2]) % _REPOSITORIES}"


class _Undone(Exception):
    """The transaction is rolled back."""


def _raise_if(undone: bool) -> None:
    if undone:
        raise _Undone


def _differ(wanted: list[str], came: list[str]) -> str:
    at = next((n for n, (one, other) in enumerate(zip(wanted, came, strict=False)) if one != other), None)
    if at is None:
        return f"{len(came)} of {len(wanted)}"
    return f"{came[at]} in place of {wanted[at]}"


@asynccontextmanager
async def outbox_world(directory: Path) -> AsyncIterator[OutboxWorld]:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(embedded_postgres(directory / "postgres"))
        settings = {"GATEWAY_DATABASE_URL": url, "GATEWAY_MASTER_KEY": b64encode(b"k" * 32).decode()}
        nowhere = f"unix://{directory}/no-engine.sock"
        gateways = [
            await stack.enter_async_context(gateway_process(directory / f"gateway-{number}", nowhere, settings))
            for number in range(2)
        ]
        pool = await stack.enter_async_context(connect(url))
        host = await stack.enter_async_context(a_code_host())
        programs = [Program("well"), Program("slow", delay=0.2), Program("errors", chance=0.05)]
        urls = {"away": f"http://127.0.0.1:{free_port()}/"}
        for one in programs:
            application = web.Application()
            application.router.add_post("/", one.hear)
            server = await stack.enter_async_context(TestServer(application))
            urls[one.name] = f"http://127.0.0.1:{server.port}/"
        made = OutboxWorld(pool, gateways, programs, host)
        await made.set_up(urls)
        host.disturb, host.after_write = sometimes(0.005, 3), _lose(0.002)
        yield made


def _lose(chance: float) -> Any:
    source = random.Random(4)

    async def lose() -> web.Response | None:
        return web.Response(status=500) if source.random() < chance else None

    return lose


async def through_kills(directory: Path, tally: Tally, *, events: int, kills: int) -> None:
    """Write so many events while gateways are killed, and look at what the receivers got."""
    async with outbox_world(directory) as one:
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(one.write(events))
            group.create_task(one.kill(kills, tally))
        print(f"outbox: written and killed in {time.monotonic() - began:.0f} s", flush=True)  # noqa: T201
        try:
            await until(one.is_done, within=_LONGEST)
        except TimeoutError:
            tally.violated(f"not all is delivered {_LONGEST:.0f} s after the last kill")
        print(f"outbox: delivered in {time.monotonic() - began:.0f} s", flush=True)  # noqa: T201
        await one.judge(tally, events)
