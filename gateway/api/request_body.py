"""Read request bodies: limited in size and time, and decompressed."""

import asyncio
import zlib

from aiohttp import web

from gateway.api.connections import Connection
from gateway.api.shortcut_connections import whole_body
from gateway.model.errors import InvalidInput, TooLarge

_DEADLINE = 10.0  # seconds for the whole body
_GZIP, _ZLIB, _RAW = zlib.MAX_WBITS | 16, zlib.MAX_WBITS, -zlib.MAX_WBITS
_UNENCODED = frozenset({"", "identity"})
_ENCODINGS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
_INCOMPLETE = "the body is incomplete, or its Content-Encoding is wrong"


async def read_body(request: web.Request) -> bytes:
    """Return the body, decompressed; raises TooLarge, InvalidInput or HTTPRequestTimeout."""
    most = request.client_max_size
    if (request.content_length or 0) > most:
        raise _too_large(most)
    encoding = printable(",".join(request.headers.getall("Content-Encoding", ())).strip().lower())
    if encoding not in _UNENCODED and encoding not in _ENCODINGS:
        raise InvalidInput(f"a body in the encoding {encoding!r} is not supported: send it unencoded, or as gzip")
    try:
        # What has come whole is taken as it is: to read it fails where the client has left since.
        if (body := whole_body(request.content) or b"") == b"":
            async with asyncio.timeout(_DEADLINE):
                body = await _received(request, most)
        elif len(body) > most:
            raise _too_large(most)
    except TimeoutError as error:
        raise web.HTTPRequestTimeout from error
    except (ConnectionError, web.RequestPayloadError) as error:
        raise InvalidInput(_INCOMPLETE) from error
    if encoding in _UNENCODED or not body:
        return body
    inflated = await asyncio.to_thread(_inflated, body, _ENCODINGS[encoding], most)
    if isinstance(request.protocol, Connection):
        request.protocol.hold(len(inflated))
    return inflated


def printable(text: str) -> str:
    """Return a text of the head with a question mark for each byte that is not UTF-8."""
    return text.encode(errors="replace").decode()


async def _received(request: web.Request, most: int) -> bytes:
    received = bytearray()
    try:
        while chunk := await request.content.readany():
            received += chunk
            if len(received) > most:
                raise _too_large(most)
    except RuntimeError as error:  # of aiohttp, if the client left before the body was read
        raise ConnectionResetError(str(error)) from error
    return bytes(received)


def _inflated(body: bytes, form: int, most: int) -> bytes:
    if form == _ZLIB and body[0] & 0xF != zlib.DEFLATED:
        form = _RAW  # some clients send raw deflate, without the zlib header
    inflater = zlib.decompressobj(form)
    try:
        inflated = inflater.decompress(body, most + 1)
    except zlib.error as error:
        raise InvalidInput(_INCOMPLETE) from error
    if len(inflated) > most:
        raise _too_large(most)
    if not inflater.eof or inflater.unused_data:
        raise InvalidInput(_INCOMPLETE)
    return inflated


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"the body is larger than {most} bytes, the limit that GATEWAY_BODY_LIMIT sets")
