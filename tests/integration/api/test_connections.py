"""Limits of connections, bodies and concurrent calls hold, and well-behaved clients do not notice others."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web
from yarl import URL

from gateway.api import health
from gateway.api.connections import Limits, Runner, Server, limits_for
from gateway.api.context import CONTEXT
from gateway.api.request_body import read_body
from gateway.api.rpc import dispatch, handlers
from gateway.api.rpc.procedure import Answer, Procedure
from gateway.store import api_keys, migrate
from tests.support.api_client import Web

SOON = 10  # seconds a test waits for what happens in one or two
JSON = b"Content-Type: application/json\r\n"


class Peer:
    """A client that sends bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def rest(self) -> bytes:
        """Return all that comes until the connection is closed."""
        found = bytearray()
        try:
            async with asyncio.timeout(SOON):
                while chunk := await self._reader.read(65536):
                    found += chunk
        except ConnectionError:
            pass
        return bytes(found)

    async def ask(self, request: bytes) -> tuple[int, Any]:
        self.send(request)
        async with asyncio.timeout(SOON):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = int(next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))[15:])
            return int(head.split()[1]), orjson.loads(await self._reader.readexactly(length) or b"null")

    def close(self) -> None:
        self._writer.close()


Connect = Callable[[], Awaitable[Peer]]


@asynccontextmanager
async def serving(**limits: Any) -> AsyncIterator[tuple[Connect, Server]]:
    """Serve an application that reads bodies, and one path that reads none."""

    async def echo(request: web.Request) -> web.Response:
        return web.json_response({"read": len(await read_body(request))})

    async def deaf(_request: web.Request) -> web.Response:
        return web.json_response({})

    async def large(_request: web.Request) -> web.Response:
        return web.Response(body=b"x" * (8 << 20))

    async def gone(_request: web.Request) -> web.Response:
        raise ConnectionResetError("the client is gone")

    application = web.Application(client_max_size=1 << 20)
    application.add_routes(
        [web.post("/", echo), web.route("*", "/deaf", deaf), web.get("/large", large), web.get("/gone", gone)]
    )
    runner = Runner(application, Limits(check_seconds=0.05, **limits), shutdown_timeout=0.1)
    async with AsyncExitStack() as stack:
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]

        async def connect() -> Peer:
            peer = Peer(*await asyncio.open_connection("127.0.0.1", port))
            stack.callback(peer.close)
            return peer

        assert isinstance(runner.server, Server)
        yield connect, runner.server


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"", b""),
        (b"POST / HT", b"408"),
        (b"POST / HTTP/1.1\r\nHost: x\r\n", b"408"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", b""),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", b""),
        (b"GET /deaf HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
        (b"POST /deaf HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", b"200"),
        (b"GET /deaf HTTP/1.1\r\nHost: x\r\n\r\nGET /deaf", b"200"),
    ],
)
async def test_an_incomplete_request_is_closed(sent: bytes, answered: bytes) -> None:
    async with serving(head_seconds=0.1, body_seconds=0.1, idle_seconds=0.1) as (connect, server):
        peer = await connect()
        peer.send(sent)
        assert (await peer.rest())[9:12] == answered
        await until(lambda: not server.connections)
        assert server.held == 0


async def test_an_answer_that_the_client_does_not_read_is_closed() -> None:
    async with serving(answer_seconds=0.1) as (connect, server):
        (await connect()).send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: len(server.connections) == 1)
        await until(lambda: not server.connections)


async def test_complete_requests_are_served_among_many_incomplete_ones() -> None:
    async with serving(connections=20) as (connect, server):
        for number in range(60):
            (await connect()).send(
                (b"", b"POST / HTTP/1.1\r\nHost", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n")[number % 3]
            )
            if number % 10 == 0:
                peer = await connect()
                assert await peer.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab") == (
                    200,
                    {"read": 2},
                )
                peer.close()
        await until(lambda: len(server.connections) <= 20)


async def test_the_memory_of_incomplete_requests_is_limited_in_total() -> None:
    async with serving(held=1 << 20) as (connect, server):
        for _ in range(40):
            (await connect()).send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n" + b"x" * 100_000)
            await asyncio.sleep(0)
        await until(lambda: len(server.connections) < 20)
        assert server.held <= 1 << 20
        peer = await connect()
        assert (await peer.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab"))[0] == 200


async def test_the_bytes_of_an_answered_request_are_released() -> None:
    async with serving() as (connect, server):
        peer = await connect()
        for size in (0, 10, 100_000):
            request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
            assert await peer.ask(request + b"x" * size) == (200, {"read": size})
            await until(lambda: server.held == 0)


async def test_a_head_is_limited_in_size() -> None:
    async with serving(head=10_000) as (connect, _server):
        peer = await connect()
        peer.send(b"GET /deaf HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (one, b"a" * 1000) for one in range(20)))
        assert (await peer.rest()).startswith(b"HTTP/1.1 431 ")


def encoded(size: int, form: str) -> bytes:
    if form == "gzip":
        return gzip.compress(bytes(size), mtime=0)
    deflater = zlib.compressobj(wbits=zlib.MAX_WBITS if form == "zlib" else -zlib.MAX_WBITS)
    return deflater.compress(bytes(size)) + deflater.flush()


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [
        ("gzip", encoded(1 << 20, "gzip"), (200, {"read": 1 << 20})),
        ("GZIP", encoded(10, "gzip"), (200, {"read": 10})),
        ("deflate", encoded(10, "zlib"), (200, {"read": 10})),
        ("deflate", encoded(10, "raw"), (200, {"read": 10})),
        ("identity", b"abc", (200, {"read": 3})),
        ("gzip", b"", (200, {"read": 0})),
        ("gzip", encoded((1 << 20) + 1, "gzip"), 413),
        ("gzip", 64 << 20, 413),
        ("gzip", encoded(10, "gzip")[:-1], 400),
        ("gzip", encoded(10, "gzip") + encoded(10, "gzip"), 400),
        ("gzip", b"abc", 400),
        ("deflate", b"\xff", 400),
        ("br", b"abc", 400),
        ("gzip, gzip", b"abc", 400),
        ("", b"x" * ((1 << 20) + 1), 413),
    ],
)
async def test_a_body_is_decompressed_within_the_limit(web: Web, name: str, body: bytes | int, expected: Any) -> None:
    if isinstance(body, int):  # made here, not while tests are collected, which each worker does
        body = encoded(body, name)
    async with serving() as (connect, _server):
        peer = await connect()
        head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Encoding: {name}\r\nContent-Length: {len(body)}\r\n\r\n"
        if not isinstance(expected, int):
            assert await peer.ask(head.encode() + body) == expected
    status, _ = await web.post("/api/application.update", body, **{"Content-Encoding": name})
    assert status == (expected if isinstance(expected, int) else 400)


async def test_a_body_that_is_not_read_is_not_decompressed(web: Web) -> None:
    for path in ("/healthz", "/api/application.all", "/nothing"):
        async with web.client.request("GET", path, data=b"no gzip", headers={"Content-Encoding": "gzip"}) as answer:
            assert answer.status == {"/healthz": 200, "/nothing": 404}.get(path, 401)


# -- what is no request


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nx-api-key: SECRET\n\r\n\r\n",
        b"POST / HTTP/1.1\r\nx-api-key : SECRET\r\n\r\n",
        b"POST / HTTP/1.1\r\nx-api-key: SECRET\0\r\n\r\n",
        b"SECRET / HTTP/1.1\r\n\r\n",
        b"GET SECRET HTTP/1.1\r\n\r\n",
        b"GET http://[SECRET HTTP/1.1\r\n\r\n",
        b"GET / HTTP/SECRET\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: SECRET\r\n\r\n",
        b"POST / HTTP/1.1\r\nX: SECRET" + b"a" * 20_000 + b"\r\n\r\n",
        b"\x16\x03\x01SECRET\r\n\r\n",
    ],
)
async def test_a_request_that_is_not_http_gets_a_json_error_and_is_not_logged(
    head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as (connect, _server):
        peer = await connect()
        peer.send(head)
        told, _, body = (await peer.rest()).partition(b"\r\n\r\n")
    assert told.split()[1] == b"400"
    assert orjson.loads(body)["error"]["code"] == "InvalidInput"
    assert b"SECRET" not in told + body
    assert "SECRET" not in caplog.text
    assert caplog.records == []


async def test_a_disconnected_client_is_not_logged_as_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as (connect, _server):
        peer = await connect()
        assert (await peer.ask(b"GET /gone HTTP/1.1\r\nHost: x\r\n\r\n"))[0] == 400
    assert caplog.records == []


async def test_an_error_of_aiohttp_has_an_error_code(web: Web) -> None:
    async def told(method: str, path: str, **headers: str) -> tuple[int, str]:
        async with web.client.request(method, path, headers=headers) as answer:
            return answer.status, (await answer.json())["error"]["code"]

    assert await told("GET", "/nothing") == (404, "NotFound")
    assert await told("DELETE", "/healthz") == (405, "MethodNotAllowed")
    assert await told("GET", "/webhooks/github/x") == (405, "MethodNotAllowed")
    assert await told("GET", "/healthz", Expect="wonders") == (417, "ExpectationFailed")
    assert await told("GET", "/a" * 5000) == (404, "NotFound")
    async with web.client.delete("/healthz") as answer:
        assert answer.headers["Allow"] == "GET,HEAD"


@pytest.mark.parametrize("path", ["{}", "/{}", "//{}", "{}/", "{}//", "//{}//"])
async def test_redundant_slashes_are_ignored(web: Web, path: str) -> None:
    async def status(method: str, plain: str) -> int:
        root = f"http://{web.client.server.host}:{web.client.server.port}"
        headers = {"Content-Type": "application/json", "Authorization": "Bearer s", "x-api-key": web.key}
        url = URL(root + path.format(plain), encoded=True)
        async with web.client.session.request(method, url, data=b'{"image": "acme/app:v1"}', headers=headers) as answer:
            return int(answer.status)

    endpoint = await web.endpoint("generic", "s")
    for plain in ("/", "/healthz", "/readyz", "/metrics", "/api/docs", "/api/health"):
        assert await status("GET", plain) == 200, plain
    for hook in (endpoint, endpoint.replace("/generic/", "//generic//")):
        assert await status("POST", hook) == 200, hook
    for call in ("/api/project.all", "//api//project.all", "/api/trpc/project.all", "/api//trpc//project.all"):
        assert await status("GET", call) == 200, call


def test_a_quarter_of_the_open_files_is_left_for_outgoing_connections() -> None:
    assert [limits_for(files, 1).connections for files in (64, 256, 1024, 65_536)] == [16, 192, 768, 4096]


# -- who has no key


async def test_the_body_of_an_unauthenticated_request_is_not_read(web: Web) -> None:
    for key in ("", "wrong"):
        for path in ("/api/application.update", "/api/trpc/application.update"):
            for body, more in ((b"{", {}), (b"no gzip", {"Content-Encoding": "gzip"}), (b"x" * (2 << 20), {})):
                status, _ = await web.post(path, body, **{"x-api-key": key, **more})
                assert status == 401


async def test_wrong_keys_of_one_address_are_limited_and_valid_keys_still_work(web: Web) -> None:
    assert (await web.get("/api/project.all"))[0] == 200
    seen: list[int] = []
    for number in range(80):
        status, _ = await web.post("/api/project.all", b"", **{"x-api-key": f"wrong {number}"})
        seen.append(status)
    assert seen[:60] == [401] * 60
    assert 429 in seen[60:]  # how many depends on how long the requests take
    assert (await web.post("/api/project.all", b"", **{"x-api-key": "wrong 3"}))[0] == 401
    assert (await web.get("/api/project.all"))[0] == 200
    # A valid key that is used for the first time is found, from the same address too.
    async with web.pool.acquire() as connection:
        late, _ = await api_keys.insert_key(connection, "late")
    assert (await web.post("/api/project.create", {"name": "p"}, **{"x-api-key": late}))[0] == 200
    # From elsewhere a key that was not seen before is looked up.
    elsewhere = {"x-api-key": "wrong again", "X-Forwarded-For": "192.0.2.7"}
    assert (await web.post("/api/project.all", b"", **elsewhere))[0] == 401


async def test_guessed_keys_hold_one_database_connection(web: Web) -> None:
    async def guess(number: int) -> int:
        headers = {"x-api-key": f"wrong {number}", "X-Forwarded-For": f"192.0.2.{number}"}
        return (await web.post("/api/project.all", b"", **headers))[0]

    held = [await web.pool.acquire() for _ in range(web.pool.get_max_size() - 1)]
    try:
        assert set(await asyncio.gather(*map(guess, range(40)))) == {401}
    finally:
        for connection in held:
            await web.pool.release(connection)


async def test_api_calls_leave_database_connections_to_webhooks(web: Web) -> None:
    application_id, hook = await web.application("acme/app:v1"), await web.endpoint("generic", "s")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with web.pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM applications FOR UPDATE")
        wish = {"applicationId": application_id, "description": "d"}
        calls = [asyncio.create_task(web.post("/api/application.update", wish)) for _ in range(20)]
        async with asyncio.timeout(SOON):
            held = 0
            while held < web.pool.get_max_size() // 2:
                await connection.execute("SELECT pg_stat_clear_snapshot()")
                held = await connection.fetchval(waiting)
            status, _ = await web.post(hook, {"image": "acme/other:v1"}, Authorization="Bearer s")
    assert status == 200
    assert {one[0] for one in await asyncio.gather(*calls)} == {200}


async def test_a_key_runs_a_limited_number_of_calls_at_once(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once: list[int] = []
    running = 0
    original = dispatch.answer

    async def answer(*given: Any) -> Any:
        nonlocal running
        running += 1
        at_once.append(running)
        try:
            return await original(*given)
        finally:
            running -= 1

    monkeypatch.setattr(handlers, "answer", answer)
    asked = [web.get("/api/project.all") for _ in range(20)]
    batch = "/api/trpc/" + ",".join(["project.all"] * 5) + "?batch=1"
    assert {one[0] for one in await asyncio.gather(*asked, *(web.get(batch) for _ in range(5)))} == {200}
    assert len(at_once) == 45
    assert max(at_once) <= 8


async def test_the_rest_of_a_batch_is_not_run_after_the_client_disconnects(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, over = asyncio.Event(), asyncio.Event()
    done: list[str] = []

    async def answer(_request: object, procedure: Procedure, *_: object) -> Answer:
        done.append(procedure.name)
        begun.set()
        await over.wait()
        return Answer([])

    monkeypatch.setattr(handlers, "answer", answer)
    asking = asyncio.create_task(web.get("/api/trpc/" + ",".join(["project.all"] * 50) + "?batch=1"))
    await begun.wait()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    for _ in range(3):
        await web.get("/healthz")
    over.set()
    for _ in range(3):
        await web.get("/healthz")
    assert done == ["project.all"]


async def test_a_batch_with_too_large_answers_fails_for_its_remaining_calls(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(*_: object) -> Answer:
        return Answer("x" * (6 << 20))

    monkeypatch.setattr(handlers, "answer", answer)
    status, answers = await web.get("/api/trpc/" + ",".join(["settings.getDokployVersion"] * 5) + "?batch=1")
    assert status == 207
    assert ["result" in one for one in answers] == [True, True, True, False, False]
    assert answers[-1]["error"]["json"]["data"]["code"] == "BAD_REQUEST"


async def test_concurrent_readiness_requests_share_one_database_connection(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    original = migrate.select_newer

    async def select_newer(connection: Any) -> int | None:
        asked.append(connection)
        return await original(connection)

    monkeypatch.setattr(migrate, "select_newer", select_newer)
    assert {one[0] for one in await asyncio.gather(*(web.get("/readyz") for _ in range(40)))} == {200}
    assert len(asked) < 10


async def test_concurrent_metrics_requests_share_one_refresh(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[object] = []

    async def observe(context: object) -> None:
        looks.append(context)
        await asyncio.sleep(0)

    monkeypatch.setattr(health, "_set_gauges", observe)
    context, gauges = web.client.app[CONTEXT], health.Gauges()
    await asyncio.gather(*(gauges.refresh(context) for _ in range(40)))
    assert len(looks) == 1
    await gauges.refresh(context)
    assert len(looks) == 2


async def test_a_revoked_key_is_rejected_at_once(web: Web) -> None:
    assert (await web.get("/api/project.all"))[0] == 200
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE api_keys SET revoked_at = now()")
    assert (await web.get("/api/project.all"))[0] == 401


# -- bytes beyond UTF-8


@pytest.mark.parametrize(
    "name", ["Content-Type", "Content-Encoding", "x-api-key", "X-Forwarded-For", "trpc-accept", "X-Foo", "Expect"]
)
async def test_an_undecodable_header_is_not_an_internal_error(web: Web, name: str) -> None:
    async with asyncio.timeout(SOON):
        for path in (
            "/api/project.create",
            "/api/trpc/project.create",
            "/api/deploy/x",
            "/webhooks/github/x",
            "/healthz",
        ):
            reader, writer = await asyncio.open_connection(web.client.server.host, web.client.server.port)
            headers = {
                "Content-Type": "application/json",
                "x-api-key": web.key,
                "Connection": "close",
                "Content-Length": "2",
            }
            lines = [f"{key}: {value}".encode() for key, value in headers.items() if key != name]
            lines += [name.encode() + b": \xff\xfe"]
            writer.write(b"POST %s HTTP/1.1\r\n%s\r\n\r\n{}" % (path.encode(), b"\r\n".join(lines)))
            status = int((await reader.read(12))[9:])
            assert 400 <= status < 500, path
            writer.close()
