"""Each descriptor is closed once, also when TLS fails."""

import asyncio
import socket
import ssl
import struct
from pathlib import Path

import pytest
import uvloop

from gateway.event_loop import EventLoop

ATTEMPTS = 100
_AT_ONCE = struct.pack("ii", 1, 0)  # a close resets the connection


async def _connect_in_vain() -> list[int]:
    """Begin TLS where each connection is reset; return what descriptors the given sockets still name."""
    loop, context = asyncio.get_running_loop(), ssl.create_default_context()
    with socket.create_server(("127.0.0.1", 0), backlog=ATTEMPTS) as server:
        server.setblocking(False)

        async def reset() -> None:
            while True:
                accepted, _ = await loop.sock_accept(server)
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
                accepted.close()

        async def begin() -> int:
            sock = socket.socket()
            sock.setblocking(False)
            await loop.sock_connect(sock, server.getsockname())
            with pytest.raises(OSError):  # noqa: PT011 - reset, or broken pipe
                await loop.create_connection(asyncio.Protocol, ssl=context, server_hostname="localhost", sock=sock)
            return sock.fileno()

        resetting = asyncio.create_task(reset())
        try:
            return [await begin() for _ in range(ATTEMPTS)]
        finally:
            resetting.cancel()
            await asyncio.wait([resetting])


def _open_sockets() -> int:
    return sum(str(one.readlink()).startswith("socket:") for one in Path("/proc/self/fd").iterdir() if one.is_symlink())


def test_a_socket_whose_tls_was_reset_is_closed_by_the_loop_alone() -> None:
    before = _open_sockets()
    left = uvloop.run(_connect_in_vain(), loop_factory=EventLoop)
    assert set(left) == {-1}
    assert _open_sockets() == before
