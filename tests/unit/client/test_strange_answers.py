"""A server that is no gateway, or a hostile one: the client ends, and says what is wrong."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from gateway.client.address import Address
from gateway.client.http import HttpGateway
from gateway.model.errors import MAX_MESSAGE_LENGTH, Conflict, GatewayError, InvalidInput, Unavailable

_Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def answering(answer: _Answer) -> AsyncIterator[HttpGateway]:
    """Yield a client of a server that answers each request in this way."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        gateway = HttpGateway.at(Address.parse(f"http://127.0.0.1:{port}"), "gw_1")
        try:
            yield gateway
        finally:
            gateway.close()


def whole(status: str, body: bytes) -> _Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body))
        await writer.drain()

    return answer


@pytest.mark.parametrize(
    ("first", "part"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 200 OK\r\nX-Header: ", b" "),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["body", "chunks", "header", "interim answers"],
)
async def test_an_answer_that_comes_byte_by_byte_for_ever_is_given_up(first: bytes, part: bytes) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        while True:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.05)

    async with answering(answer) as gateway:
        with pytest.raises(Unavailable, match="does not answer in time"):
            await gateway.exchange("GET", "/healthz", patience=0.5)


@pytest.mark.parametrize("body", [b"", b'{"a": 1}'])
async def test_an_answer_that_ends_too_early_is_none(body: bytes) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + body)
        await writer.drain()

    async with answering(answer) as gateway:
        with pytest.raises(Unavailable, match="cannot be reached: its answer ends too early"):
            await gateway.call("application.delete")


async def test_a_long_message_is_shortened() -> None:
    async with answering(whole("409 Conflict", b'{"message": "%s"}' % (b"a" * 1_000_000))) as gateway:
        with pytest.raises(Conflict) as raised:
            await gateway.call("application.all")
    assert len(str(raised.value)) == MAX_MESSAGE_LENGTH


@pytest.mark.parametrize("issues", [b"[1]", b'[{"path": 5, "message": 1}]', b'[{"path": ["a"]}]', b"{}", b"null"])
async def test_issues_of_another_form_leave_the_message(issues: bytes) -> None:
    async with answering(whole("400 Bad Request", b'{"message": "no", "issues": %s}' % issues)) as gateway:
        with pytest.raises(InvalidInput, match=r"^no$"):
            await gateway.call("application.all")


async def test_a_first_line_that_is_no_answer_has_no_effect_on_a_terminal() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x1b[2J\r\n\r\n")
        await writer.drain()

    async with answering(answer) as gateway:
        with pytest.raises(GatewayError, match=r"cannot be reached: \\x1b\[2J$"):
            await gateway.call("application.all")
