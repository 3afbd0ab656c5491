"""Requests of every kind, sent to a real `gateway serve` that may open 1,024 files.

`python -m tests.fuzz.requests 1000000` sends a million. They vary method, path, headers, sizes, speeds and connections.
Meanwhile /healthz is asked again and again, good webhooks come, and hundreds of connections stay half. Prints figures;
exit code 1 where the gateway answered 5xx, froze, grew, or lost a good webhook.
"""

import asyncio
import hashlib
import hmac
import json
import multiprocessing
import re
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import aiohttp
import uvloop

from gateway.cli.demo.process import GatewayProcess, gateway_process
from tests.fuzz.making import Known, Made, Maker

FILES = 1024
LONGEST_PROBE = 0.2  # seconds
MOST_MEMORY = 200  # MB
PATIENCE = 10.0  # seconds a sender of webhooks waits
_PROCESSES = 2
_AT_ONCE = 24  # connections that ask, of each process
_HALF = 450  # connections that stay half, of each process
_ANSWERED_IN = 3.0  # seconds after which no answer is awaited
_HEAD = re.compile(rb"HTTP/1\.[01] (\d{3}) [^\r]*\r\n(.*?)\r\n\r\n", re.DOTALL)
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_SECRET = "a secret of the good ones"
_SOURCES = ("generic", "dockerhub", "github", "distribution", "harbor", "quay", "gitlab", "acr")
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closed at once, by a reset
_SHOWN = 5


@dataclass
class Seen:
    """What came back."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    closed: int = 0
    refused: int = 0
    faults: list[tuple[bytes, bytes]] = field(default_factory=list)
    away: int = 0

    def add(self, other: "Seen") -> None:
        self.sent += other.sent
        self.statuses += other.statuses
        self.closed += other.closed
        self.refused += other.refused
        self.faults += other.faults
        self.away += other.away

    def answer(self, made: Made, status: int, text: bytes) -> None:
        self.statuses[status] += 1
        # There is no engine here: what asks one is told so, and only those with a key may ask.
        if status == 503 and made.keyed and b"database" not in text:
            self.away += 1
        elif status >= 500:
            self.faults.append((made.data[:2000], text[:500]))


class Conversation:
    """One connection, and the requests on it that are not answered yet."""

    def __init__(self, port: int, seen: Seen) -> None:
        self._port, self._seen = port, seen
        self._buffer = b""

    async def hold(self, made: list[Made], random: Random) -> None:
        """Send them in one of many ways, and read what comes."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            self._seen.refused += 1
            return
        try:
            await self._send(writer, made, random)
            async with asyncio.timeout(_ANSWERED_IN):
                await self._read(reader, made)
        except (OSError, TimeoutError, RuntimeError):  # of uvloop: the handler is closed
            self._seen.closed += 1
        finally:
            if random.random() < 0.1 and (one := writer.get_extra_info("socket")) is not None:
                with suppress(OSError, RuntimeError):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort() if random.random() < 0.5 else writer.close()

    async def _send(self, writer: asyncio.StreamWriter, made: list[Made], random: Random) -> None:
        data = b"".join(one.data for one in made)
        self._seen.sent += len(made)
        way = random.random()
        if way < 0.03:  # slowly, a few bytes at a time
            cut = random.randint(1, 40)
            for at in range(0, min(len(data), cut * 20), cut):
                writer.write(data[at : at + cut])
                await asyncio.sleep(random.random() * 0.02)
            writer.write(data[cut * 20 :])
        elif way < 0.06:  # the first part, and no more
            writer.write(data[: random.randint(0, len(data))])
            with suppress(OSError, RuntimeError):
                writer.write_eof()
        else:
            writer.write(data)
        async with asyncio.timeout(_ANSWERED_IN):
            await writer.drain()

    async def _read(self, reader: asyncio.StreamReader, made: list[Made]) -> None:
        for one in made:
            while True:
                if (found := _HEAD.search(self._buffer)) is None:
                    if not await self._more(reader):
                        return
                    continue
                status = int(found[1])
                self._buffer = self._buffer[found.end() :]
                if status >= 200:
                    break
            length = _LENGTH.search(found[2])
            size = 0 if one.method == b"HEAD" or length is None else int(length[1])
            while len(self._buffer) < size:
                if not await self._more(reader):
                    break
            self._seen.answer(one, status, self._buffer[:size])
            self._buffer = self._buffer[size:]

    async def _more(self, reader: asyncio.StreamReader) -> bool:
        chunk = await reader.read(65536)
        self._buffer += chunk
        return bool(chunk)


async def storm(port: int, known: Known, requests: int, seed: int) -> Seen:
    """Send so many requests, from many connections at once."""
    seen, maker, random = Seen(), Maker(known, Random(seed)), Random(seed)
    half = [asyncio.create_task(_stay_half(port, maker, Random(seed + one))) for one in range(_HALF)]

    async def ask() -> None:
        while seen.sent < requests:
            many = random.choice((1, 1, 1, 2, 5, 20))
            await Conversation(port, seen).hold([maker.make() for _ in range(many)], random)

    await asyncio.gather(*(ask() for _ in range(_AT_ONCE)))
    for task in half:
        task.cancel()
    await asyncio.gather(*half, return_exceptions=True)
    return seen


async def _stay_half(port: int, maker: Maker, random: Random) -> None:
    while True:
        await asyncio.sleep(random.random() * 5)
        with suppress(OSError, RuntimeError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            data = maker.make().data
            try:
                writer.write(data[: random.randint(0, min(len(data) - 1, 200_000))])
                async with asyncio.timeout(random.random() * 60):
                    while await reader.read(65536):
                        pass
            except (TimeoutError, RuntimeError):
                pass
            finally:
                writer.transport.abort()


def worker(port: int, known: Known, requests: int, seed: int) -> Seen:
    return uvloop.run(storm(port, known, requests, seed))


# -- what must go well meanwhile


def probe(port: int, pid: int, until: str) -> list[tuple[float, float]]:
    """Ask /healthz every 20 ms until a file is there; return how long each answer took.

    The second figure is without the time in which the gateway, or this process, wanted a processor and had none.
    """
    took = []
    while not Path(until).exists():
        began, waited = time.perf_counter(), _waited(pid) + _waited("self")
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=60) as one:
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while one.recv(4096):
                pass
        whole = time.perf_counter() - began
        took.append((whole, max(0.0, whole - (_waited(pid) + _waited("self") - waited))))
        time.sleep(0.02)
    return took


def _waited(pid: int | str) -> float:
    """Return the seconds that a process has waited for a processor."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


@dataclass
class Good:
    """Webhooks that must be stored."""

    sent: int = 0
    stored: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    slowest: float = 0.0


async def send_good(gateway: GatewayProcess, path: str, good: Good) -> None:
    """Send one signed webhook after the other, each on a connection of its own."""
    while True:
        body = json.dumps({"image": f"acme/good:v{good.sent}"}).encode()
        signed = hmac.new(_SECRET.encode(), body, hashlib.sha256).hexdigest()
        headers = {"Content-Type": "application/json", "X-Hub-Signature-256": f"sha256={signed}"}
        good.sent += 1
        began = time.perf_counter()
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session,
                session.post(f"{gateway.url}{path}", data=body, headers=headers) as answer,
            ):
                said = await answer.json()
                if answer.ok:
                    good.stored.append(said["deliveryId"])
                else:
                    good.lost.append(f"{answer.status} {said}")
        except (aiohttp.ClientError, TimeoutError) as error:
            good.lost.append(repr(error))
        good.slowest = max(good.slowest, time.perf_counter() - began)
        await asyncio.sleep(0.05)


def memory(pid: int) -> float:
    """Return the most memory the process had, in MB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


# -- the whole


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[GatewayProcess, Known, str]]:
    """Serve with an application, a webhook of each kind, keys, and an address for the good ones."""
    limited = ("sh", "-c", f'ulimit -n {FILES} && exec "$@"', "--")
    settings = {"GATEWAY_LOG_LEVEL": "warning"}
    with tempfile.TemporaryDirectory(prefix="gateway-fuzz-") as place:
        async with gateway_process(Path(place), "unix:///nowhere.sock", settings, limited) as gateway:
            await gateway.mutate(
                "application.create", {"name": "app", "applicationId": "app-123", "dockerImage": "acme/app:v1"}
            )
            row = await gateway.query("application.one", applicationId="app-123")
            made = [await gateway.mutate("webhook.create", {"source": source}) for source in _SOURCES]
            paths = [f"/api/deploy/{row['refreshToken']}", *(one["path"] for one in made)]
            keys = [await _key(gateway, scope) for scope in ("admin", "deploy", "read")]
            signed = {"source": "generic", "secret": _SECRET, "settings": {"algorithm": "sha256"}}
            good = await gateway.mutate("webhook.create", signed)
            yield gateway, Known(tuple(paths), tuple(keys)), good["path"]


async def _key(gateway: GatewayProcess, scope: str) -> str:
    made = await gateway.mutate("user.createApiKey", {"name": scope, "scope": scope, "rateLimitEnabled": False})
    return str(made["key"])


async def main(requests: int) -> int:
    async with serving() as (gateway, known, path):
        good, over = Good(), gateway.log.parent / "over"
        sending = asyncio.create_task(send_good(gateway, path, good))
        began, seen, loop = time.perf_counter(), Seen(), asyncio.get_running_loop()
        with ProcessPoolExecutor(_PROCESSES + 1, multiprocessing.get_context("spawn")) as pool:
            probing = loop.run_in_executor(pool, probe, gateway.port, gateway.pid, str(over))
            share = requests // _PROCESSES
            asking = [
                loop.run_in_executor(pool, worker, gateway.port, known, share, seed) for seed in range(_PROCESSES)
            ]
            try:
                for one in await asyncio.gather(*asking):
                    seen.add(one)
            finally:
                over.touch()
            took = time.perf_counter() - began
            probes = await probing
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        missing = [one for one in good.stored if not await gateway.query("delivery.one", deliveryId=one)]
        lines = gateway.log.read_text(errors="replace").splitlines()
        used = memory(gateway.pid)
    return _tell(seen, took, probes, good, missing, lines, used)


def _tell(
    seen: Seen,
    took: float,
    probes: list[tuple[float, float]],
    good: Good,
    missing: list[str],
    lines: list[str],
    used: float,
) -> int:
    whole, own = sorted(one for one, _ in probes), sorted(one for _, one in probes)
    slow = sum(one > LONGEST_PROBE for one in own)
    defects = [line for line in lines if "Traceback" in line or '"level": "error"' in line]
    say(f"requests            {seen.sent} in {took:.0f} s, {seen.sent / took:.0f} a second")
    say(f"answers             {dict(sorted(seen.statuses.items()))}, {seen.closed} closed, {seen.refused} refused")
    say(f"5xx                 {len(seen.faults)}, and {seen.away} for want of an engine")
    say(f"/healthz            {len(probes)} times; {_shown(whole)}")
    say(f"  while it ran      {_shown(own)}; {slow} over {LONGEST_PROBE * 1000:.0f} ms")
    say(f"memory              {used:.0f} MB at most")
    say(f"good webhooks       {good.sent} sent, {len(good.stored)} accepted, {len(missing)} of them missing, "
        f"{len(good.lost)} lost, slowest {good.slowest:.2f} s")  # fmt: skip
    say(f"lines in the log    {len(lines)} of warnings, {len(defects)} of errors")
    for sent, answered in seen.faults[:_SHOWN]:
        say(f"FAULT {sent!r}\n   -> {answered!r}")
    for line in (*good.lost[:_SHOWN], *missing[:_SHOWN], *defects[:_SHOWN]):
        say(f"LOST or logged: {line[:2000]}")
    broken = seen.faults or slow or used > MOST_MEMORY or good.lost or missing or defects
    return 1 if broken else 0


def _shown(times: list[float]) -> str:
    return f"99 % in {times[len(times) * 99 // 100] * 1000:.0f} ms, slowest {times[-1] * 1000:.0f} ms"


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)))
