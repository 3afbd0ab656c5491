"""How much processor time and memory processes take, from /proc."""

import asyncio
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from gateway.cli.demo.process import GatewayProcess
from gateway.store.postgres_cluster import Cluster

_TICK = os.sysconf("SC_CLK_TCK")
_AT_REST = 0.1  # of a core


@dataclass(frozen=True)
class Taken:
    """Milliseconds of processor time: of the gateway's processes, of PostgreSQL's, and of a peer's."""

    python: float
    postgres: float
    peer: float

    def __sub__(self, earlier: "Taken") -> "Taken":
        return Taken(self.python - earlier.python, self.postgres - earlier.postgres, self.peer - earlier.peer)

    def each(self, many: int) -> "Taken":
        many = max(1, many)  # a round without an answer
        return Taken(self.python / many, self.postgres / many, self.peer / many)


def taken(gateway: GatewayProcess, peer: int) -> Taken:
    """Return what was taken so far, by what runs and by what has ended.

    The embedded server is a child of the gateway.
    """
    server = Cluster(Path(gateway.environment["GATEWAY_DATA_DIR"])).postmaster()
    assert server is not None
    table = _processes()
    return Taken(
        sum(_milliseconds(table, gateway.pid, without=server)),
        sum(_milliseconds(table, server)),
        sum(_milliseconds(table, peer)),
    )


async def rest(gateway: GatewayProcess, url: str) -> None:
    """Let the server at this address write what it has to, and return once it and the gateway do next to nothing."""
    connection = await asyncpg.connect(url)
    await connection.execute("CHECKPOINT", timeout=300)
    await connection.close()
    while (await _busy(gateway)) > _AT_REST:
        pass


async def _busy(gateway: GatewayProcess) -> float:
    """Return how much of a core the gateway and its database take, over two seconds."""
    before = taken(gateway, os.getpid())
    await asyncio.sleep(2)
    used = taken(gateway, os.getpid()) - before
    return (used.python + used.postgres) / 2000


@dataclass(frozen=True)
class _Process:
    pid: int
    parent: int
    own: int
    #: of children that have ended and were waited for
    ended: int


def _processes() -> dict[int, list[_Process]]:
    """Return all processes by their parent."""
    found: dict[int, list[_Process]] = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name before the last bracket may hold anything.
            words = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        one = _Process(int(path.parent.name), int(words[1]), sum(map(int, words[11:13])), sum(map(int, words[13:15])))
        found[one.parent].append(one)
    return found


def _milliseconds(table: dict[int, list[_Process]], root: int, *, without: int = 0) -> Iterator[float]:
    ours = next(one for children in table.values() for one in children if one.pid == root)
    yield (ours.own + ours.ended) * 1000 / _TICK
    for child in table.get(root, ()):
        if child.pid != without:
            yield from _milliseconds(table, child.pid, without=without)


def resident(pid: int) -> float:
    """Return the resident megabytes of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) / 1024
