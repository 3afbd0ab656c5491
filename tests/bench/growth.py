"""What a long history costs: a grown database beside one with a page of everything, asked in turn.

The grown one has 10,000 applications, a million subscriptions and deployments, and DELIVERIES=10000000. It is filled
once, in minutes, and kept in build/bench. The other one has a tenth of all but deliveries: pages that are full.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import choice
from urllib.parse import urlencode

import aiohttp
import asyncpg
import orjson

from gateway.cli.demo.process import GatewayProcess, gateway_process
from gateway.model.deployments import Deployment
from gateway.store import database
from gateway.store.embedded_postgres import embedded_postgres
from gateway.worker import claims
from tests.bench import fill
from tests.bench.fill import REPOSITORIES, Size, filled
from tests.bench.load import Pushes, request, send
from tests.bench.processor import resident, rest
from tests.bench.report import Figure, figure
from tests.bench.single import client, p50s

FULL = Size(10_000, 1_000_000, 1_000_000, int(os.environ.get("DELIVERIES", "10000000")), parts=10)
#: as many for each application, and pages that are full
PAGE = Size(1_000, 100_000, 100_000, 60_000, parts=0)
#: where the grown database is kept
KEPT = Path("build/bench").absolute()
GATE = 1.5
NOBODYS = [f"acme/other{number}" for number in range(10)]

SINGLE, ASKED, CLAIMED = 1000, 60, 100  # pushes, calls of a procedure, claims of each database
WARM = 0.2  # of them are not counted
PAIRS, SECONDS = 3, 2

# The applications a0 to a9 are measured, of which each has a hundred deployments in both.
CALLS: dict[str, Mapping[str, object]] = {
    "application.all": {"limit": 100},
    "application.one": {"applicationId": "a0"},
    "application.search": {"q": "app", "limit": 20},
    "project.all": {"limit": 1},
    "environment.one": {"environmentId": "v0"},
    "subscription.all": {"applicationId": "b1"},
    "deployment.all": {"applicationId": "a0"},
    "deployment.allByType": {"id": "a0", "type": "application"},
    "deployment.allCentralized": {"limit": 100},
    "deployment.queueList": {},
    "delivery.all": {"limit": 100},
    "delivery.all of a webhook": {"limit": 100, "endpointId": "e0"},
    "delivery.all ignored": {"limit": 100, "verdict": "ignored"},
    "delivery.all failed": {"limit": 100, "verdict": "failed"},
    "approval.all": {"limit": 100},
    "gate.all": {"applicationId": "b1"},
    "group.all": {"limit": 10},
    "group.one": {"groupId": "g0"},
    "release.all": {"groupId": "g0", "limit": 10},
    "promotion.all": {"applicationId": "a0"},
    "audit.list": {"limit": 100},
    "webhook.all": {"limit": 10},
}
#: pages of the dashboard
PAGES = [
    "",
    "?state=trouble",
    "/deployments",
    "/approvals",
    "/releases",
    "/inbox",
    "/inbox?verdict=failed",
    "/inbox/hours",
    "/webhooks",
    "/keys",
    "/projects",
    "/audit",
    "/applications/a0",
]
#: of these, what says how many there are of all, and so reads each: without a gate
COUNTING = {"application.search"}


@dataclass
class Side:
    """One of the two databases, and what is needed to ask it."""

    gateway: GatewayProcess
    path: str
    session: aiohttp.ClientSession
    pool: database.Pool

    async def ask(self, *, call: str, given: Mapping[str, object]) -> float:
        """Return the milliseconds of a query."""
        query = urlencode({"input": orjson.dumps({"json": given}).decode()})
        began = time.perf_counter()
        async with self.session.get(f"{self.gateway.url}/api/trpc/{call.split(maxsplit=1)[0]}?{query}") as answer:
            body = await answer.read()
        assert answer.status == 200, body
        return (time.perf_counter() - began) * 1000

    async def view(self, *, page: str) -> float:
        """Return the milliseconds of a page of the dashboard."""
        began = time.perf_counter()
        async with self.session.get(f"{self.gateway.url}/dashboard{page}") as answer:
            body = await answer.read()
        assert (answer.status, answer.url.path) == (200, f"/dashboard{page}".split("?")[0]), body
        return (time.perf_counter() - began) * 1000

    async def claim(self) -> float:
        """Return the milliseconds of a claim of all that is due; it is queued again."""
        claimed: list[Deployment] = []
        milliseconds = 0.0
        async with database.statement(self.pool) as connection:
            while not claimed:  # the gateway may have all of them locked
                began = time.perf_counter()
                claimed = await claims.claim(
                    connection, owner="bench", choose=lambda _due: "bench", running_ids=(), lease=15
                )
                milliseconds = (time.perf_counter() - began) * 1000
            await connection.execute(
                "UPDATE deployments SET status = 'queued', lease_until = NULL WHERE deployment_id = ANY($1)",
                [one.deployment_id for one in claimed],
            )
        return milliseconds


async def measure(directory: Path) -> list[Figure]:
    async with (
        _side(await filled(FULL, KEPT)) as grown,
        _side(await filled(PAGE, directory / "page")) as small,
    ):
        memory = await asyncio.to_thread(resident, grown.gateway.pid)
        sides = (grown, small)
        figures = [
            await _pushes("a push that matches", sides, REPOSITORIES, status=202),
            await _pushes("a push that matches nothing", sides, NOBODYS, status=200),
            await _compared("a claim of what is due", sides, Side.claim, CLAIMED),
        ]
        for call, given in CALLS.items():
            figures.append(await _compared(call, sides, partial(Side.ask, call=call, given=given), ASKED))
        for shown in PAGES:
            name = f"the page /dashboard{shown}"
            figures.append(await _compared(name, sides, partial(Side.view, page=shown), ASKED))
        # The last, since it leaves pushes under way.
        figures.append(await _rates(sides, directory))
    many = f"{FULL.applications:,} applications"
    return [*figures, Figure(f"(f) resident memory, idle, {many} (over 100 MB)", memory, 100, "MB")]


@asynccontextmanager
async def _side(directory: Path) -> AsyncIterator[Side]:
    """Run a gateway on a filled database, once it has done what it does at its start."""
    async with AsyncExitStack() as stack:
        host = f"unix://{directory}/none"
        gateway = await stack.enter_async_context(gateway_process(directory, host, fill.SETTINGS))
        url = await stack.enter_async_context(embedded_postgres(Path(gateway.environment["GATEWAY_DATA_DIR"])))
        await _age_observations(url)
        await rest(gateway, url)
        jar = aiohttp.CookieJar(unsafe=True)
        session = aiohttp.ClientSession(headers={"x-api-key": gateway.key}, cookie_jar=jar)
        await stack.enter_async_context(session)
        async with session.post(f"{gateway.url}/dashboard/sign-in", data={"key": gateway.key}) as answer:
            assert answer.status == 200
        yield Side(
            gateway,
            str((await gateway.endpoint("dockerhub"))["path"]),
            session,
            await stack.enter_async_context(database.connect(url, size=2)),
        )


async def _age_observations(url: str) -> None:
    """Let no application count as looked at lately, as in a database that was kept: both pages show the same number."""
    connection = await asyncpg.connect(url)
    await connection.execute("UPDATE observations SET observed_at = now() - interval '1 day'")
    await connection.close()


async def _compared(name: str, sides: tuple[Side, Side], act: Callable[[Side], Awaitable[float]], times: int) -> Figure:
    """Return the milliseconds of the grown database over those of the small one, in turn."""
    found: list[list[float]] = [[], []]
    for _ in range(times):
        for one, side in enumerate(sides):
            found[one].append(await act(side))
    ours, theirs = (p50s(one[int(WARM * times) :]) for one in found)
    return figure(f"(c) {name}: grown over small", ours, theirs, "ms", None if name in COUNTING else GATE)


async def _pushes(name: str, sides: tuple[Side, Side], repositories: list[str], *, status: int) -> Figure:
    async with AsyncExitStack() as stack:
        clients = {one.path: await stack.enter_async_context(client(one.gateway.port)) for one in sides}

        async def push(side: Side) -> float:
            return await clients[side.path].milliseconds(request(side.path, choice(repositories)), status=status)

        return await _compared(name, sides, push, SINGLE)


async def _rates(sides: tuple[Side, Side], directory: Path) -> Figure:
    """Return the time a push takes where 128 are under way."""
    found: list[list[float]] = [[], []]
    for _ in range(PAIRS):
        for one, side in enumerate(sides):
            pushes = Pushes(side.path, REPOSITORIES)
            sent = await send(side.gateway.url, pushes, connections=128, seconds=SECONDS, directory=directory)
            found[one].append(1000 / sent.rate)
    ours, theirs = found
    return figure("(c) a push among 128: grown over small", ours, theirs, "ms", GATE)
