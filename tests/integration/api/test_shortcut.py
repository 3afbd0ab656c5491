"""A sender cannot tell whether its request took the shortcut."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web as aiohttp_web
from aiohttp.http_parser import RawRequestMessage

from gateway.api.connections import Limits, Runner, Server
from gateway.api.ingress.deadline import respond_within
from gateway.api.ingress.shortcut import Head, Shortcut
from gateway.api.request_body import read_body
from gateway.api.shortcut_connections import SHORTCUT, Respond
from gateway.model.errors import DatabaseUnavailable
from gateway.sources import SOURCES
from gateway.store.accept import UNDECIDED, Acceptance
from tests.integration.api.test_webhooks import application, ecr, github, signed
from tests.support.api_client import Web

SOON = 10  # seconds
_CHANGES = re.compile(rb"[0-9a-f]{8}-[0-9a-f-]{27}|(?<=Date: )[^\r]*")


class Sender:
    """A client that keeps one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def answer(self) -> bytes:
        async with asyncio.timeout(SOON):
            head = await self._reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            return head + await self._reader.readexactly(int(found[1]) if found else 0)

    async def ask(self, *packets: bytes) -> bytes:
        for number, packet in enumerate(packets):
            await asyncio.sleep(0.02 if number else 0)  # the one before is received by itself
            self.writer.write(packet)
        return await self.answer()

    async def rest(self) -> bytes:
        """Return all that comes until the connection is closed."""
        async with asyncio.timeout(SOON):
            return await self._reader.read()


@asynccontextmanager
async def sender(port: int) -> AsyncIterator[Sender]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Sender(reader, writer)
    finally:
        writer.close()


def post(path: str, body: bytes, headers: dict[str, str]) -> tuple[bytes, bytes]:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode(), body


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each request that may take the shortcut, whether it began on it."""
    found: list[bool] = []
    begin = Shortcut.begin

    def noted(shortcut: Shortcut, head: Head, body: bytes, respond: Respond) -> bool:
        found.append(begin(shortcut, head, body, respond))
        return found[-1]

    monkeypatch.setattr(Shortcut, "begin", noted)
    return found


def hub(repository: str) -> bytes:
    return b'{"push_data":{"tag":"latest","pushed_at":1},"repository":{"repo_name":"%b"}}' % repository.encode()


async def both_ways(web: Web, path: str, body: bytes, headers: Callable[[bytes], dict[str, str]]) -> list[bytes]:
    """Send a body whole, another one with the same head if it is not signed, and one in pieces.

    Returns the last response and the first one, without what is never the same.
    """
    async with sender(web.client.port) as one:
        answers = [
            await one.ask(b"".join(post(path, body + b"  ", headers(body + b"  ")))),
            await one.ask(b"".join(post(path, body + b"\n ", headers(body + b"\n ")))),
            await one.ask(*post(path, body + b" ", headers(body + b" "))),
        ]
    whole, again, in_pieces = (_CHANGES.sub(b"", answer) for answer in answers)
    assert again == whole
    return [in_pieces, whole]


@pytest.mark.parametrize(
    ("source", "body", "headers", "status"),
    [
        ("dockerhub", hub("acme/web"), lambda _: {}, b"202"),
        ("dockerhub", hub("acme/none"), lambda _: {"X-Forwarded-For": "192.0.2.1"}, b"200"),
        ("github", github(), signed, b"202"),
        ("ecr", ecr(), lambda _: {"x-api-key": "s"}, b"202"),
    ],
)
async def test_a_delivery_is_answered_alike(
    web: Web, begun: list[bool], source: str, body: bytes, headers: Callable[[bytes], dict[str, str]], status: bytes
) -> None:
    for image in ("acme/web", "ghcr.io/acme/web", "123456789012.dkr.ecr.eu-west-1.amazonaws.com/acme/web"):
        await application(web, image)
    path = await web.endpoint(source, "s")
    await web.post(path, body, **headers(body))  # the endpoint is known from now on
    begun.clear()
    in_pieces, whole = await both_ways(web, path, body, headers)
    assert begun == [True, True]
    assert in_pieces == whole
    assert whole[9:12] == (b"200" if source == "ecr" else status)  # its event's id makes it a duplicate


@pytest.mark.parametrize(
    ("source", "body", "headers", "status"),
    [
        ("github", github(), lambda _: signed(b"another"), b"401"),
        ("dockerhub", b"}", lambda _: {}, b"400"),
        ("dockerhub", hub("acme/web"), lambda _: {"Content-Encoding": "x-unknown"}, b"400"),
        ("distribution", b"[]", lambda _: {"Authorization": "Bearer s"}, b"200"),
        ("github", b'{"zen":"x"}', signed, b"200"),
    ],
)
async def test_what_is_no_delivery_is_answered_alike(
    web: Web, begun: list[bool], source: str, body: bytes, headers: Callable[[bytes], dict[str, str]], status: bytes
) -> None:
    path = await web.endpoint(source, "s")
    await web.post(path, github(), **signed(github()))
    begun.clear()
    in_pieces, whole = await both_ways(web, path, body, headers)
    assert any(begun) == (status == b"200" and source == "github")
    assert in_pieces == whole
    assert whole[9:12] == status


@pytest.mark.parametrize("source", ["dockerhub", "ecr"])
@pytest.mark.parametrize("error", [DatabaseUnavailable("it is away"), ValueError("a defect")])
async def test_a_failure_is_answered_alike(
    web: Web, source: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_given: Any, **_more: Any) -> Any:
        raise error

    path, body = await web.endpoint(source, "s"), hub("acme/web") if source == "dockerhub" else ecr()
    await web.post(path, body, **{"x-api-key": "s"})
    monkeypatch.setattr("gateway.queue.accept.accept", fails)
    monkeypatch.setattr("gateway.queue.ingest.ingest_delivery", fails)
    in_pieces, whole = await both_ways(web, path, body, lambda _: {"x-api-key": "s"})
    assert in_pieces == whole
    assert whole[9:10] == b"5"


async def test_a_delivery_that_a_batch_cannot_decide_gets_no_further_time(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0.05
    given: list[float] = []

    async def decides_nothing(_connection: Any, deliveries: list[Any], *_given: Any) -> list[Acceptance]:
        await asyncio.sleep(taken)
        return [UNDECIDED] * len(deliveries)

    async def noted(application: Any, seconds: float, work: Any) -> Any:
        given.append(seconds)
        return await respond_within(application, seconds, work)

    path, body = await web.endpoint("dockerhub", "s"), hub("acme/web")
    await web.post(path, body)
    monkeypatch.setattr("gateway.queue.accept.accept", decides_nothing)
    monkeypatch.setattr("gateway.api.ingress.pipeline.respond_within", noted)
    in_pieces, whole = await both_ways(web, path, body, lambda _: {})
    assert in_pieces == whole
    assert len(given) == 6  # each found its endpoint, and stored the delivery
    assert max(given) <= SOURCES["dockerhub"].response_deadline - taken


async def test_requests_that_do_not_take_the_shortcut_are_counted_once(web: Web, begun: list[bool]) -> None:
    path = await web.endpoint("github", "s", rate=24)  # four at once
    async with sender(web.client.port) as one:
        requests = [b"".join(post(path, b"{}", {"X-Hub-Signature-256": "sha256=no"})) for _ in range(5)]
        statuses = [(await one.ask(request))[9:12] for request in requests]
    assert statuses == [b"401"] * 4 + [b"503"]
    assert begun == [False] * 5


async def test_a_whole_delivery_is_stored_though_its_sender_leaves_at_once(web: Web) -> None:
    path = await web.endpoint("dockerhub", "s")
    for stored in (1, 2):  # the endpoint is known the second time
        async with sender(web.client.port) as one:
            one.writer.write(b"".join(post(path, hub("acme/web") + b" " * stored, {})))
        async with asyncio.timeout(SOON):
            while await web.count("deliveries") < stored:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


# -- connections, with a shortcut that a test controls


class Held:
    """Takes the requests to /short, and keeps them until the test answers."""

    def __init__(self) -> None:
        self.begun: list[tuple[bytes, Respond]] = []
        #: bodies of the requests that went the other way
        self.echoed: list[bytes] = []
        self.came = asyncio.Event()

    def read(self, message: RawRequestMessage) -> str | None:
        return message.path if message.path in {"/short", "/defect"} else None

    def begin(self, head: str, body: bytes, respond: Respond) -> bool:
        if head == "/defect":
            raise RuntimeError("a defect")
        self.begun.append((body, respond))
        self.came.set()
        return True

    async def next(self) -> tuple[bytes, Respond]:
        async with asyncio.timeout(SOON):
            await self.came.wait()
        self.came.clear()
        return self.begun[-1]


SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nshort"


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Held, Sender, Runner]]:
    async def echo(request: aiohttp_web.Request) -> aiohttp_web.Response:
        held.echoed.append(body := await read_body(request))
        return aiohttp_web.Response(body=body)

    app = aiohttp_web.Application()
    app.router.add_post("/{path}", echo)
    app[SHORTCUT] = held = Held()
    runner = Runner(app, Limits(check_seconds=0.05, body_seconds=0.1, idle_seconds=SOON), shutdown_timeout=SOON)
    await runner.setup()
    try:
        await aiohttp_web.TCPSite(runner, "127.0.0.1", 0).start()
        async with sender(runner.addresses[0][1]) as one:
            yield held, one, runner
    finally:
        await runner.cleanup()


async def became(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def request(path: str, body: bytes) -> bytes:
    return b"".join(post(path, body, {}))


async def test_requests_of_one_connection_are_answered_in_their_order() -> None:
    async with serving() as (held, one, runner):
        one.writer.write(request("/short", b"1"))
        body, respond = await held.next()
        assert body == b"1"
        # Two more come meanwhile; longer than a body may take, since this one has come.
        one.writer.write(request("/short", b"2") + request("/long", b"3"))
        await asyncio.sleep(0.3)
        assert len(held.begun) == 1
        respond(SHORT)
        assert (await one.answer()).endswith(b"short")
        assert [(await one.answer())[-1:] for _ in range(2)] == [b"2", b"3"]
        one.writer.write(request("/short", b"4"))
        _, respond = await held.next()
        respond(SHORT)
        assert (await one.answer()).endswith(b"short")
        assert isinstance(runner.server, Server)
        assert runner.server.held == 0


async def test_a_request_that_is_given_back_is_answered_with_its_body() -> None:
    async with serving() as (held, one, _):
        for body in (b"given back", b"again"):
            one.writer.write(request("/short", body))
            _, respond = await held.next()
            respond(None)
            assert (await one.answer()).endswith(body)
        assert (await one.ask(request("/defect", b"a defect"))).endswith(b"a defect")


@pytest.mark.parametrize("response", [SHORT, None])
async def test_a_server_that_stops_answers_what_has_begun(response: bytes | None) -> None:
    async with serving() as (held, one, runner):
        one.writer.write(request("/short", b"short"))
        _, respond = await held.next()
        stopping = asyncio.create_task(runner.cleanup())
        await asyncio.sleep(0.05)
        respond(response)
        assert (await one.rest()).endswith(b"short")
        await stopping


async def test_the_request_of_a_sender_that_has_left_is_handled() -> None:
    async with serving() as (held, one, runner):
        server = runner.server
        assert isinstance(server, Server)
        for response in (SHORT, None):
            async with sender(runner.addresses[0][1]) as gone:
                gone.writer.write(request("/short", b"given back"))
                _, respond = await held.next()
            await became(lambda: any(connection.transport is None for connection in server.connections))
            assert held.echoed == []
            respond(response)
            await became(lambda: len(server.connections) == 1)
        assert held.echoed == [b"given back"]
        assert (await one.ask(request("/long", b"2"))).endswith(b"2")
        assert server.held == 0
