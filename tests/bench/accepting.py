"""How fast a push is accepted: proven, stored, matched, committed and answered.

Each rate is compared with that of an empty handler, in short rounds one after the other; each latency with that of a
plain INSERT on the same server.
"""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import uvloop

from gateway.cli.demo.process import GatewayProcess, gateway_process
from gateway.store.embedded_postgres import embedded_postgres
from tests.bench import peers
from tests.bench.load import Pushes, Sent, request, send
from tests.bench.processor import Taken, rest, taken
from tests.bench.report import Figure, bound, figure
from tests.bench.single import client, p50s

SETTINGS = {"GATEWAY_LOG_LEVEL": "error", "GATEWAY_WEBHOOK_RATE": "100000"}
REPOSITORIES = [f"acme/app{number}" for number in range(100)]
NOBODYS = [f"acme/other{number}" for number in range(100)]

PAIRS, PEER_PAIRS, SECONDS = 5, 3, 2  # rounds of each, and the length of one
ONE_BY_ONE, WARM = 600, 100  # requests; the first ones are not counted


@dataclass(frozen=True)
class Case:
    name: str
    repositories: list[str]
    connections: int
    #: the least ratio to an empty handler
    gate: float
    before: str
    same: bool = False

    def pushes(self, path: str) -> Pushes:
        return Pushes(path, self.repositories, self.same)


CASES = [
    Case("all match, 128 connections", REPOSITORIES, 128, 0.45, "0.05"),
    Case("none matches, 128 connections", NOBODYS, 128, 0.5, "0.06"),
    Case("all match, 32 connections", REPOSITORIES, 32, 0.3, "0.06"),
    Case("none matches, 32 connections", NOBODYS, 32, 0.3, "0.07"),
    Case("one repository, 128 connections", REPOSITORIES[:1], 128, 0.4, "0.002-0.03"),
    Case("the same body, 128 connections", REPOSITORIES[:1], 128, 0.5, "0.05", same=True),
    Case("the same body, which matches nothing, 128 connections", NOBODYS[:1], 128, 0.5, "", same=True),
]


async def measure(directory: Path) -> list[Figure]:
    if shutil.which("wrk") is None:
        raise RuntimeError("wrk is needed: apt-get install wrk")
    async with (
        gateway_process(directory / "accepting", f"unix://{directory}/none", SETTINGS) as gateway,
        database_beside(gateway) as database,
        peers.empty_handler() as empty,
        peers.insert_handler(database) as insert,
    ):
        path = await prepare(gateway, REPOSITORIES)
        # First, of a gateway at rest: after a load its server is busy with checkpoints and vacuums for a while.
        await rest(gateway, database)
        alone = await _one_by_one(gateway.port, path, urlsplit(insert.url).port or 0, database)
        for warm in (REPOSITORIES, NOBODYS):
            await send(gateway.url, Pushes(path, warm), connections=128, seconds=SECONDS, directory=directory)
        figures = [*await _rates(gateway, path, empty, directory), *alone]
        figures.append(await _peer("an INSERT a request", insert, "/", empty, directory))
        async with peers.adnanh_webhook(directory) as webhook:
            if webhook is None:
                print("adnanh/webhook is not measured: apt-get install webhook")  # noqa: T201
            else:
                name = "adnanh/webhook, /bin/true, stores nothing"
                figures.append(await _peer(name, webhook, "/hooks/push", empty, directory))
    return figures


async def prepare(gateway: GatewayProcess, repositories: list[str]) -> str:
    """Let an application follow each repository, and return the path of a webhook."""
    for number, repository in enumerate(repositories):
        made = {"name": "a", "applicationId": f"a{number}", "dockerImage": repository}
        await gateway.mutate("application.create", made)
    return str((await gateway.endpoint("dockerhub"))["path"])


@asynccontextmanager
async def database_beside(gateway: GatewayProcess) -> AsyncIterator[str]:
    """Yield the address of another database on the gateway's server, with a table for bodies."""
    async with embedded_postgres(Path(gateway.environment["GATEWAY_DATA_DIR"])) as url:
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE DATABASE bench")
        await connection.close()
        beside = urlsplit(url)._replace(path="/bench").geturl()
        connection = await asyncpg.connect(beside)
        await connection.execute("CREATE TABLE pushes (body bytea NOT NULL)")
        await connection.close()
        yield beside


# -- rates


async def _rates(gateway: GatewayProcess, path: str, empty: peers.Peer, directory: Path) -> list[Figure]:
    figures, generator = [], []
    for case in CASES:
        rounds = await _rounds(gateway, case, path, empty, directory)
        generator += [sent.generator for one in rounds for sent in (one.ours, one.theirs)]
        ours, theirs = [one.ours.rate for one in rounds], [one.theirs.rate for one in rounds]
        figures.append(figure(f"(d) pushes over empty: {case.name}", ours, theirs, "/s", case.gate, ">=", case.before))
        if case is CASES[0]:
            figures += _costs(rounds)
    return [*figures, Figure("(d) load generator's processor, at most", max(generator), 1, "core", 0.8)]


@dataclass(frozen=True)
class _Round:
    """One round of ours and one of the empty handler, with the milliseconds of processor a request took."""

    ours: Sent
    theirs: Sent
    python: float
    postgres: float
    empty: float


async def _rounds(gateway: GatewayProcess, case: Case, path: str, empty: peers.Peer, directory: Path) -> list[_Round]:
    pushes = case.pushes(path)

    async def push(url: str) -> tuple[Sent, Taken]:
        before = taken(gateway, empty.pid)
        sent = await send(url, pushes, connections=case.connections, seconds=SECONDS, directory=directory)
        return sent, (taken(gateway, empty.pid) - before).each(sent.answers)

    found = []
    for number in range(PAIRS):
        # Neither is always the first.
        if number % 2 == 0:
            theirs, other = await push(empty.url)
            ours, used = await push(gateway.url)
        else:
            ours, used = await push(gateway.url)
            theirs, other = await push(empty.url)
        found.append(_Round(ours, theirs, used.python, used.postgres, other.peer))
    return found


def _costs(rounds: list[_Round]) -> list[Figure]:
    python, postgres, empty = ([getattr(one, name) for one in rounds] for name in ("python", "postgres", "empty"))
    return [
        bound("(d) processor a push: Python, over 0.2 ms", python, 0.2, "ms", "1.2-1.7 ms"),
        bound("(d) processor a push: PostgreSQL, over 0.12 ms", postgres, 0.12, "ms", "0.65-1.2 ms"),
        figure("(d) processor a push: Python, over empty", python, empty, "ms"),
    ]


async def _peer(name: str, peer: peers.Peer, path: str, empty: peers.Peer, directory: Path) -> Figure:
    rate: list[float] = []
    other: list[float] = []
    for _ in range(PEER_PAIRS):
        for found, url, to in ((rate, peer.url, path), (other, empty.url, "/")):
            sent = await send(url, Pushes(to, REPOSITORIES), connections=128, seconds=SECONDS, directory=directory)
            found.append(sent.rate)
    return figure(f"(d) beside us over empty: {name}", rate, other, "/s")


# -- one at a time


@dataclass(frozen=True, slots=True)
class _Latencies:
    """Milliseconds of single requests: to us, to a handler with one INSERT, and of that INSERT without a handler."""

    ours: list[float] = field(default_factory=list)
    handler: list[float] = field(default_factory=list)
    insert: list[float] = field(default_factory=list)


async def _one_by_one(port: int, path: str, insert_port: int, database: str) -> list[Figure]:
    """Return the latency of single requests.

    What a request costs before anything is stored is in the handler's figure, so the gate compares with that.
    """
    found = await asyncio.to_thread(uvloop.run, _latencies(port, path, insert_port, database))
    ours, handler, insert = (p50s(one[WARM:]) for one in (found.ours, found.handler, found.insert))
    what = "(d) one push at a time, p50"
    return [
        figure(f"{what}, over a handler with one INSERT", ours, handler, "ms", gate=1.5, before="2.6-4.0 ms"),
        figure(f"{what}, over a plain INSERT", ours, insert, "ms"),
        figure("(d) beside us: a handler with one INSERT over a plain INSERT, p50", handler, insert, "ms"),
    ]


async def _latencies(port: int, path: str, insert_port: int, database: str) -> _Latencies:
    found = _Latencies()
    connection = await asyncpg.connect(database)
    try:
        async with client(port) as pushing, client(insert_port) as inserting:
            for number in range(ONE_BY_ONE):
                repository = REPOSITORIES[number % len(REPOSITORIES)]
                push = request(path, repository)
                found.ours.append(await pushing.milliseconds(push))
                found.handler.append(await inserting.milliseconds(request("/", repository), status=200))
                began = time.perf_counter()
                await connection.execute("INSERT INTO pushes (body) VALUES ($1)", push)
                found.insert.append((time.perf_counter() - began) * 1000)
    finally:
        await connection.close()
    return found
