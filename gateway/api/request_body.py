"""Bodies of requests: read within a size and a time, and inflated only here, where somebody reads them."""

import asyncio
import zlib

from aiohttp import web

from gateway.api.connections import Connection
from gateway.model.errors import InvalidInput, TooLarge

_DEADLINE = 10.0  # seconds a sender has for its body
_GZIP, _ZLIB, _RAW = zlib.MAX_WBITS | 16, zlib.MAX_WBITS, -zlib.MAX_WBITS
_AS_IT_IS = frozenset({"", "identity"})
_FORMS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
_ENDED = "the body ended before its end, or is not encoded as its Content-Encoding says"


async def read_body(request: web.Request) -> bytes:
    """Return it inflated; raises TooLarge, InvalidInput, or HTTPRequestTimeout."""
    most = request.client_max_size
    if (request.content_length or 0) > most:
        raise _too_large(most)
    encoding = printable(",".join(request.headers.getall("Content-Encoding", ())).strip().lower())
    if encoding not in _AS_IT_IS and encoding not in _FORMS:
        raise InvalidInput(f"a body in the encoding {encoding!r} is not understood: send it as it is, or as gzip")
    try:
        async with asyncio.timeout(_DEADLINE):
            body = await _received(request, most)
    except TimeoutError as error:
        raise web.HTTPRequestTimeout from error
    except (ConnectionError, web.RequestPayloadError) as error:
        raise InvalidInput(_ENDED) from error
    if encoding in _AS_IT_IS or not body:
        return body
    inflated = await asyncio.to_thread(_inflated, body, _FORMS[encoding], most)
    if isinstance(request.protocol, Connection):
        request.protocol.hold(len(inflated))
    return inflated


def printable(text: str) -> str:
    """Return a text of a head that can be answered: what is not UTF-8 in it becomes a question mark."""
    return text.encode(errors="replace").decode()


async def _received(request: web.Request, most: int) -> bytes:
    received = bytearray()
    while chunk := await request.content.readany():
        received += chunk
        if len(received) > most:
            raise _too_large(most)
    return bytes(received)


def _inflated(body: bytes, form: int, most: int) -> bytes:
    if form == _ZLIB and body[0] & 0xF != zlib.DEFLATED:
        form = _RAW  # some call it deflate, without the head that says so
    inflater = zlib.decompressobj(form)
    try:
        inflated = inflater.decompress(body, most + 1)
    except zlib.error as error:
        raise InvalidInput(_ENDED) from error
    if len(inflated) > most:
        raise _too_large(most)
    if not inflater.eof or inflater.unused_data:
        raise InvalidInput(_ENDED)
    return inflated


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"the body is larger than the {most} bytes that are accepted; GATEWAY_BODY_LIMIT sets them")
