"""Random requests to webhooks, each to two gateways: one with the shortcut and batches, one without both.

`python -m tests.fuzz.shortcut 10000` sends so many to each, one after the other. The answers must be the same bytes,
but for ids and the date, and so must the rows be that they leave. Prints figures; exit code 1 where something differs.
"""

import asyncio
import hashlib
import hmac
import json
import re
import runpy
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import asyncpg

from gateway.cli.demo.process import GatewayProcess, gateway_process
from gateway.store.embedded_postgres import embedded_postgres
from tests.fuzz.mutation import mutate
from tests.support import leftovers
from tests.support.samples import OURS, Sample

_SETTINGS = {"GATEWAY_LOG_LEVEL": "error", "GATEWAY_WEBHOOK_RATE": "100000"}
_SOON = 20  # seconds
_KEPT = 200  # requests that are sent again
_APPLICATIONS = 40
_CHANGED_EVERY = 20  # requests
_SHOWN = 5

_UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_DATE = re.compile(rb"(?<=\r\nDate: )[^\r]*")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_NO_BODY = (b"204", b"304")
_HOPS = frozenset({"host", "content-length", "transfer-encoding", "connection"})
_ODD_HEADERS = (
    *("Content-Encoding: gzip", "Content-Encoding: identity", "Expect: 100-continue", "X-Forwarded-For: 192.0.2.1"),
    *("X-Odd: \x80\xff", "X-Odd: a\tb", "x-empty:", "X-Twice: 1\r\nX-Twice: 2", "Cookie: a=b", "X-Long: " + "a" * 3000),
    *("Connection: close", "Connection: keep-alive", "Content-Type: application/x-www-form-urlencoded"),
    *(
        "Authorization: Basic eDp5",
        "X-GitHub-Event: ping",
        "Upgrade: h2c",
        "\r\n".join(f"X-{n}: {n}" for n in range(70)),
    ),
)

_ALL_FOLLOW = """
    UPDATE applications a SET desired = 'running', auto_deploy = true, docker_image = (
        SELECT repository || ':' || tag FROM subscriptions s WHERE s.application_id = a.application_id AND from_image)
"""
# What people and workers do meanwhile, to one of the applications and one of the endpoints; most is undone soon.
_CHANGES = (
    "UPDATE applications SET desired = 'stopped' {of_app}",
    "UPDATE applications SET auto_deploy = false {of_app}",
    "UPDATE applications SET docker_image = 'other.io/acme/another' {of_app}",
    *(_ALL_FOLLOW,) * 3,
    "UPDATE endpoints SET enabled = false {of_endpoint}",
    "UPDATE endpoints SET repositories = '{{docker.io/*}}' {of_endpoint}",
    *["UPDATE endpoints SET enabled = true, repositories = '{{}}'"] * 3,
    "UPDATE deployments SET status = 'failed', finished_at = now() {of_app} AND status = 'queued'",
    "UPDATE deployments SET status = 'failed', finished_at = now() WHERE status = 'queued'",
    "UPDATE deployments SET status = 'succeeded', finished_at = now() {of_app} AND status = 'queued'",
    "UPDATE deployments SET kind = 'stop', reference = NULL, image = NULL {of_app} AND status = 'queued'",
    "UPDATE delivery_keys SET seen_at = seen_at - interval '1 hour'",
)
_ROWS = (
    """SELECT delivery_id, (SELECT name FROM endpoints e WHERE e.endpoint_id = d.endpoint_id), source, headers::text,
              body, verdict, ignored::text, duplicate_of
         FROM deliveries d WHERE refusal IS NULL ORDER BY received_at, delivery_id""",
    """SELECT deployment_id, application_id, kind, status, title, reference, expected_digest, image,
              ARRAY(SELECT delivery_id FROM deployment_deliveries l WHERE l.deployment_id = d.deployment_id
                     ORDER BY delivery_id)
         FROM deployments d ORDER BY created_at, application_id""",
    "SELECT key, delivery_id FROM delivery_keys ORDER BY seen_at, delivery_id",
)


# -- requests


@dataclass(frozen=True)
class Made:
    """The bytes of a request; {path} stands for the path of the endpoint with this number."""

    endpoint: int
    head: bytes
    body: bytes

    def data(self, path: str) -> bytes:
        return self.head.replace(b"{path}", path.encode()) + self.body


class Maker:
    """Makes requests from samples, to the endpoints that these are for."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._samples = [one for one in OURS if not one.request.keys and one.request.method == "POST"]
        self.trusts = list({_trust(one): one for one in self._samples}.values())
        self._places = {_trust(one): place for place, one in enumerate(self.trusts)}
        self._kept: list[Made] = []

    def make(self) -> Made:
        if self._kept and self._random.random() < 0.2:
            return self._random.choice(self._kept)
        made = self._make(self._random.choice(self._samples))
        self._kept = [*self._kept[-_KEPT:], made]
        return made

    def _make(self, sample: Sample) -> Made:
        random, body, headers = self._random, sample.request.body, dict(sample.request.headers)
        if random.random() < 0.7:
            changed = mutate(body, random) if random.random() < 0.5 else body + b" " * random.randint(1, 9999)
            headers = _signed_again(headers, sample, changed)
            body = changed
        lines = [f"{name}: {value}" for name, value in headers.items() if name not in _HOPS]
        if random.random() < 0.1:
            lines.append(random.choice(_ODD_HEADERS))
        if random.random() < 0.05 and lines:
            lines.remove(random.choice(lines))
        method = "POST" if random.random() < 0.98 else random.choice(("GET", "OPTIONS", "PUT"))
        query = "&".join(f"{name}={value}" for name, value in sample.request.query.items())
        end = (
            ("?" + query if query else "") if random.random() < 0.98 else random.choice(("/", "?", "?a=1", "%20", "x"))
        )
        if random.random() < 0.03:
            body, sized = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), "Transfer-Encoding: chunked"
            body = b"0\r\n\r\n" if body.startswith(b"0\r\n") else body
        else:
            sized = f"Content-Length: {len(body)}"
        version = "HTTP/1.1" if random.random() < 0.99 else "HTTP/1.0"
        head = "\r\n".join([f"{method} {{path}}{end} {version}", "Host: gateway", *lines, sized, "", ""])
        return Made(self._places[_trust(sample)], head.encode("latin-1", "replace"), body)


def _trust(sample: Sample) -> tuple[str, str]:
    return sample.source, json.dumps(sample.about["_trust"], sort_keys=True)


def _signed_again(headers: Mapping[str, str], sample: Sample, body: bytes) -> dict[str, str]:
    """Return the headers with the signature of another body, where the sample's is the HMAC of its own."""
    kinds = (hashlib.sha1, hashlib.sha256, hashlib.sha512)
    secret, signed = sample.trust.secret.encode(), {}
    for kind in kinds:
        was, now = (hmac.new(secret, one, kind).hexdigest() for one in (sample.request.body, body))
        signed[was] = now
    return {name: _replaced(value, signed) for name, value in headers.items()}


def _replaced(value: str, by: Mapping[str, str]) -> str:
    for was, now in by.items():
        value = value.replace(was, now)
    return value


# -- the two sides


@dataclass
class Side:
    """A gateway: its endpoints, a connection to it, and a number for each id in the order in which it told them."""

    gateway: GatewayProcess
    database: "asyncpg.Connection[asyncpg.Record]"
    paths: list[str] = field(default_factory=list)
    numbers: dict[bytes, bytes] = field(default_factory=dict)
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def prepare(self, trusts: Sequence[Sample], images: Sequence[str]) -> None:
        for number, image in enumerate(images):
            made = {"name": "a", "applicationId": f"a{number}", "dockerImage": image}
            await self.gateway.mutate("application.create", made)
        for place, sample in enumerate(trusts):
            told = sample.about["_trust"]
            webhook: dict[str, Any] = {"source": sample.source, "name": str(place), "secret": told["secret"] or None}
            webhook |= {name: told[name] for name in ("host", "aliases", "settings") if told.get(name)}
            self.paths.append((await self.gateway.mutate("webhook.create", webhook))["path"])
        await self.database.execute(
            "INSERT INTO subscriptions (application_id, repository, tag, rule, pattern)"
            " SELECT application_id, s.repository, '', 'semver', '>=1' FROM subscriptions s WHERE application_id < 'a2'"
        )

    async def ask(self, requests: Sequence[Made]) -> list[bytes]:
        """Send requests in one piece; return the answers, and b'' once the connection is closed."""
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.gateway.port)
        reader, writer = self.streams
        with suppress(ConnectionError):
            writer.write(b"".join(one.data(self.paths[one.endpoint]) for one in requests))
        answers = []
        for one in requests:
            answers.append(await self._answer(reader, one))
            if answers[-1] == b"" or b"\r\nConnection: close\r\n" in answers[-1]:
                writer.close()
                self.streams = None
                break
        return answers

    async def _answer(self, reader: asyncio.StreamReader, made: Made) -> bytes:
        async with asyncio.timeout(_SOON):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                while head.startswith(b"HTTP/1.1 100 "):
                    head = await reader.readuntil(b"\r\n\r\n")
                found = _LENGTH.search(head)
                empty = made.head.startswith(b"HEAD") or head[9:12] in _NO_BODY or found is None
                body = b"" if empty or found is None else await reader.readexactly(int(found[1]))
            except (asyncio.IncompleteReadError, ConnectionError):
                return b""
        return self.numbered(_DATE.sub(b"", head + body))

    def numbered(self, text: bytes) -> bytes:
        return _UUID.sub(lambda one: self.numbers.setdefault(one[0], b"id %d" % len(self.numbers)), text)

    async def rows(self) -> list[list[bytes]]:
        return [[self.numbered(repr(tuple(row)).encode()) for row in await self.database.fetch(one)] for one in _ROWS]


@asynccontextmanager
async def _side(directory: Path, way: str, told: Path) -> AsyncIterator[Side]:
    prefix = (sys.executable, "-m", "tests.fuzz.shortcut", "--serve", way, str(told))
    async with (
        gateway_process(directory, "unix:///nowhere.sock", _SETTINGS, prefix) as gateway,
        embedded_postgres(Path(gateway.environment["GATEWAY_DATA_DIR"])) as url,
    ):
        database = await asyncpg.connect(url)
        try:
            yield Side(gateway, database)
        finally:
            await database.close()


def _serve(way: str, told: Path) -> None:
    """Run `gateway serve` until it ends: without the shortcut, or counting what takes it."""
    from gateway.api.ingress.endpoint_cache import EndpointCache
    from gateway.api.ingress.shortcut import Shortcut

    begin, seen = Shortcut.begin, Counter[bool]()

    def counted(shortcut: Shortcut, *given: Any) -> bool:
        takes = begin(shortcut, *given)
        seen[takes] += 1
        return takes

    def ordinary(*_given: Any) -> bool:
        return False

    without = (patch.object(Shortcut, "begin", ordinary), patch.object(EndpointCache, "put", ordinary))
    with ExitStack() as patches:
        for one in without if way == "ordinary" else (patch.object(Shortcut, "begin", counted),):
            patches.enter_context(one)
        sys.argv = ["gateway", "serve"]
        try:
            runpy.run_module("gateway", run_name="__main__", alter_sys=True)
        finally:
            told.write_text(str(seen[True]))


# -- the whole


@dataclass
class Found:
    statuses: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)


async def compare(requests: int, seed: int, directory: Path) -> tuple[Found, int]:
    random, found, told = Random(seed), Found(), directory / "told"
    maker = Maker(random)
    async with (
        _side(directory / "short", "shortcut", told) as short,
        _side(directory / "long", "ordinary", directory / "none") as long,
    ):
        both = (short, long)
        images = _images(maker, random)
        for side in both:
            await side.prepare(maker.trusts, images)
        sent = 0
        while sent < requests and len(found.differences) < _SHOWN:
            made = [maker.make() for _ in range(1 if random.random() < 0.95 else random.randint(2, 4))]
            one, other = await asyncio.gather(*(side.ask(made) for side in both))
            sent += len(made)
            found.statuses.update(answer[9:12].decode() for answer in one)
            if one != other:
                found.differences.append(f"{one}\n  or {other}\n  to {made}")
            if random.random() < 1 / _CHANGED_EVERY:
                change = random.choice(_CHANGES).format(
                    of_app=f"WHERE application_id = 'a{random.randrange(len(images))}'",
                    of_endpoint=f"WHERE name = '{random.randrange(len(maker.trusts))}'",
                )
                for side in both:
                    await side.database.execute(change)
        for table, (ours, theirs) in enumerate(zip(*[await side.rows() for side in both], strict=True)):
            found.differences += _differences(table, ours, theirs)
    return found, int(told.read_text())


def _differences(table: int, ours: Sequence[bytes], theirs: Sequence[bytes]) -> Iterator[str]:
    if len(ours) != len(theirs):
        yield f"table {table}: {len(ours)} rows, or {len(theirs)}"
    for one, other in zip(ours, theirs, strict=False):
        if one != other:
            yield f"table {table}: {one!r}\n  or {other!r}"


def _images(maker: Maker, random: Random) -> list[str]:
    """Return images that the samples name, so that applications follow them."""
    named = {one.partition("@")[0] for sample in OURS for one in sample.about["_expect"]["refs"]}
    return random.sample(sorted(named), min(_APPLICATIONS, len(named)))


def main(requests: int, seed: int) -> int:
    leftovers.start_watcher()
    with tempfile.TemporaryDirectory(prefix="gateway-fuzz-") as place:
        for name in ("short", "long"):
            Path(place, name).mkdir()
        found, short = asyncio.run(compare(requests, seed, Path(place)))
    say(f"requests       {found.statuses.total()} each way, {short} on the shortcut, seed {seed}")
    say(f"answers        {dict(sorted(found.statuses.items()))}")
    say(f"differences    {len(found.differences)}")
    for one in found.differences[:_SHOWN]:
        say(re.sub(" {9,}", " … ", one)[:4000])
    return 1 if found.differences else 0


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        _serve(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1))
