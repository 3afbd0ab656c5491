"""Requests whose heads are known are answered as if each was parsed, wherever their packets begin and end."""

import asyncio
import re
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from aiohttp import web
from aiohttp.http_parser import RawRequestMessage

from gateway.api.connections import Connection, Limits, Server
from gateway.api.shortcut_connections import KnownHeads, Respond

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_END = b"\r\n\r\n"


class Echo:
    """Takes the requests to /short, if it wants to, and keeps them until the test answers with their body."""

    def __init__(self) -> None:
        self.wants = True
        self.begun: list[tuple[bytes, Respond]] = []
        #: how many of its requests came with a head that it had to read, and how many there were
        self.read_heads = self.came = 0

    def read(self, message: RawRequestMessage) -> str | None:
        if message.path != "/short":
            return None
        self.read_heads += 1
        return message.path

    def begin(self, head: str, body: bytes, respond: Respond) -> bool:
        assert head == "/short"
        self.came += 1
        if self.wants:
            self.begun.append((body, respond))
        return self.wants


class Sent(asyncio.Transport):
    """Keeps what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.data += bytes(data)

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.1", 1) if name == "peername" else default

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


async def _echo(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=await request.read())


def make_server(shortcut: Echo, limits: Limits | None = None) -> Server:
    inner = web.Server(_echo)
    return Server(inner, limits or Limits(), {"access_log": None, "auto_decompress": False}, shortcut)


async def connected(server: Server) -> tuple[Connection, Sent]:
    connection, sent = server(), Sent()
    connection.connection_made(sent)
    await asyncio.sleep(0)  # aiohttp's task waits now
    return connection, sent


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0)


def request(path: str, body: bytes, more: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (path.encode(), more, len(body), body)


def responses(sent: bytes) -> list[bytes]:
    """Return the bodies of the responses that were sent whole."""
    found = []
    while _END in sent:
        head, _, rest = sent.partition(_END)
        length = _LENGTH.search(head)
        assert length is not None
        found.append(rest[: int(length[1])])
        sent = rest[int(length[1]) :]
    return found


def answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def packets(random: Random, stream: list[bytes]) -> list[bytes]:
    """Return the requests as they may come: by themselves for a while, then some together, and some in pieces."""
    found = [b""]
    odd = random.randrange(2 * len(stream))
    for number, one in enumerate(stream):
        how = random.random() if number >= odd else 1
        if how < 0.2:
            found[-1] += one
        elif how < 0.4:
            cut = random.randrange(len(one))
            found += [one[:cut], one[cut:]]
        else:
            found.append(one)
    return [one for one in found if one]


async def _history(seed: int) -> Echo:
    random, shortcut = Random(seed), Echo()
    server = make_server(shortcut)
    connection, sent = await connected(server)
    bodies = [b"%d" % random.randrange(10 ** random.choice([1, 1, 1, 3])) for _ in range(30)]
    # What is in a body may look like a request.
    bodies = [random.choice([one, one, one, request("/short", one), b"\r\n\r\n" + one]) for one in bodies]
    stream = [request(random.choice(["/short", "/short", "/short", "/long"]), one) for one in bodies]
    for packet in packets(random, stream):
        shortcut.wants = random.random() < 0.9
        connection.data_received(packet)
        for _ in range(random.choice([0, 5, 5, 5])):
            await asyncio.sleep(0)
        while shortcut.begun and random.random() < 0.9:
            body, respond = shortcut.begun.pop(0)
            respond(None if random.random() < 0.2 else answer(body))

    def all_answered() -> bool:
        while shortcut.begun:
            body, respond = shortcut.begun.pop(0)
            respond(answer(body))
        return len(responses(sent.data)) == len(bodies)

    await until(all_answered)
    assert responses(sent.data) == bodies
    assert server.held == 0
    connection.connection_lost(None)
    await server.shutdown(0)
    return shortcut


async def test_requests_with_known_heads_are_answered_in_order_however_they_come() -> None:
    histories = [await _history(seed) for seed in range(40)]
    read, came = sum(one.read_heads for one in histories), sum(one.came for one in histories)
    assert read > 100
    assert came - read > 100


@pytest.mark.parametrize("response", [b"short", None])
@pytest.mark.parametrize("event", ["left", "closed", "more"])
async def test_a_request_with_a_known_head_outlives_its_connection(event: str, response: bytes | None) -> None:
    handled: list[bytes] = []

    async def noted(request: web.BaseRequest) -> web.StreamResponse:
        handled.append(await request.read())
        return web.Response(body=handled[-1])

    shortcut = Echo()
    server = Server(web.Server(noted), Limits(), {"access_log": None}, shortcut)
    connection, sent = await connected(server)
    connection.data_received(request("/short", b"1"))
    _, respond = shortcut.begun.pop()
    respond(answer(b"1"))
    connection.data_received(request("/short", b"2"))
    ((body, respond),) = shortcut.begun
    assert shortcut.read_heads == 1
    assert body == b"2"
    if event == "left":
        connection.connection_lost(None)
    elif event == "closed":
        connection.close()
    else:
        connection.data_received(request("/long", b"3"))
    respond(response and answer(response))
    expected = ([] if response else [b"2"]) + ([b"3"] if event == "more" else [])
    await until(lambda: handled == expected and (event == "left" or len(responses(sent.data)) == 2 + (event == "more")))
    assert responses(sent.data)[1:] == (
        [] if event == "left" else [response or b"2", *([b"3"] if event == "more" else [])]
    )
    connection.connection_lost(None)
    await server.shutdown(0)


def test_the_heads_used_the_longest_ago_are_forgotten() -> None:
    known = KnownHeads()
    for number in range(251):
        known.put(b"POST /%d\r\n\r\nbody" % number, number, 4)
        assert known.get(b"POST /0\r\n\r\n1234") is not None
    assert known.get(b"POST /1\r\n\r\n1234") is None
    assert known.get(b"POST /0\r\n\r\n123") is None
    assert known.get(b"POST /0\r\n\r\n12345") is None
    known.put(b"POST /%b\r\n\r\nbody" % (b"x" * 5000), 0, 4)
    assert known.get(b"POST /%b\r\n\r\nbody" % (b"x" * 5000)) is None
