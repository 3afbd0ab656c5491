"""Follow the log of an application's container in a tab: lines in the order of the engine, none left out.

A slow tab slows the reading: the engine keeps the lines meanwhile. A tab that reconnects names the time of the last
line that it has, and goes on after it. When the container is replaced the stream ends, and the tab connects to the new
one. When the session ends, or the key may not read the log any more, the stream ends within seconds.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import orjson
from aiohttp import web

from gateway.admin.engine_status import host_of
from gateway.api.context import CONTEXT, SHARE
from gateway.dashboard.live import BEAT
from gateway.dashboard.procedures import call, may_still
from gateway.dashboard.sessions import SESSION
from gateway.docker import application_logs
from gateway.model.errors import GatewayError
from gateway.store import applications
from gateway.store.database import statement

#: from when on a log can be shown
AGES: Mapping[str, timedelta | None] = {
    "all": None,
    "10m": timedelta(minutes=10),
    "1h": timedelta(hours=1),
    "24h": timedelta(days=1),
    "7d": timedelta(days=7),
}
_LINES = 1000  # that a new tab gets, unless it says from when on
_MOST_AT_ONCE = 1000  # lines of one event
_MOST_STREAMS = 100
_MOST_STREAMS_OF_KEY = 50
_RIGHTS_CHECK = 5.0  # seconds between looks whether the log may still be read
_SLOWEST_WRITE = 60.0  # seconds until a tab that reads nothing is dropped
_HEARTBEAT = 15.0  # seconds
_RETRY = 1500  # milliseconds until a tab reconnects
_PROCEDURE = "application.readLogs"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: who follows a log, by the id of their key
STREAMS: web.AppKey[dict[asyncio.Task[None], str]] = web.AppKey("log_streams")


async def stream(request: web.Request) -> web.StreamResponse:
    """Respond with the lines as they come, until the tab leaves or the container ends."""
    application_id = request.match_info["application_id"]
    # It has the rights, and says why there is no log.
    await call(request, _PROCEDURE, applicationId=application_id, tail=1)
    streams, key_id = request.app[STREAMS], request[SESSION].caller.key_id
    if len(streams) >= _MOST_STREAMS or list(streams.values()).count(key_id) >= _MOST_STREAMS_OF_KEY:
        return web.Response(status=503, text="Too many logs are followed", headers={"Retry-After": "30"})
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    writing = asyncio.create_task(_respond(request, response, application_id), name="log stream")
    streams[writing] = key_id
    try:
        # A tab whose stream ends early connects again.
        with suppress(asyncio.CancelledError, ConnectionError, TimeoutError):
            await writing
    finally:
        del streams[writing]
        writing.cancel()
    return response


async def _respond(request: web.Request, response: web.StreamResponse, application_id: str) -> None:
    """Write the lines; raises ConnectionError and TimeoutError."""
    await response.prepare(request)
    await _write(response, b"retry: %d\n\n" % _RETRY)
    after = request.headers.get("Last-Event-ID") or request.query.get("after", "")
    lines = _lines(request, application_id, after)
    coming: asyncio.Task[list[tuple[str, str]]] | None = None
    clock = asyncio.get_running_loop().time
    checked = written = clock()
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(lines))
            done, _ = await asyncio.wait({coming}, timeout=_RIGHTS_CHECK)
            if clock() - checked >= _RIGHTS_CHECK:
                if not await may_still(request, _PROCEDURE, applicationId=application_id):
                    return
                checked = clock()
            if not done:
                if clock() - written >= _HEARTBEAT:
                    await _write(response, BEAT)
                    written = clock()
                continue
            together = coming.result()
            coming = None
            for first in range(0, len(together), _MOST_AT_ONCE):
                part = together[first : first + _MOST_AT_ONCE]
                newest, text = part[-1][0].encode(), orjson.dumps(part)
                await _write(response, b"id: %s\nevent: lines\ndata: %s\n\n" % (newest, text))
            written = clock()
    except StopAsyncIteration:
        await _write(response, b"event: ended\ndata: []\n\n")
    except GatewayError as error:
        await _write(response, b"event: ended\ndata: %s\n\n" % orjson.dumps([str(error)]))
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.wait({coming})
        await lines.aclose()


async def _write(response: web.StreamResponse, text: bytes) -> None:
    async with asyncio.timeout(_SLOWEST_WRITE):
        await response.write(text)


async def _lines(request: web.Request, application_id: str, after: str) -> AsyncGenerator[list[tuple[str, str]], None]:
    context = request.app[CONTEXT]
    async with statement(request.app[SHARE]) as connection:
        application = await applications.select_application(connection, context.vault, application_id)
    if application.engine_id is None:
        return
    host = host_of(context.rollouts, application)
    swarm = host.identity is not None and host.identity.swarm_manager
    since = _unix(after)
    # A tab that has lines goes on after them.
    begin = since or _unix_before(AGES.get(request.query.get("since", "")))
    lines = "all" if begin else str(_LINES)
    found = application_logs.follow(host.engine, application, swarm=swarm, lines=lines, since=begin or "0")
    async for together in found:
        # The engine takes `since` as "at or after".
        fresh = [line for line in together if line[0] > after] if since else together
        if fresh:
            yield fresh


def _unix(moment: str) -> str | None:
    """Return a time of the engine's log as a Unix time with nanoseconds; None for any other text."""
    whole, _, fraction = moment.removesuffix("Z").partition(".")
    try:
        seconds = (datetime.fromisoformat(whole).replace(tzinfo=UTC) - _EPOCH) // timedelta(seconds=1)
    except ValueError:
        return None
    return f"{seconds}.{fraction:0<9}" if fraction.isdecimal() and len(fraction) <= 9 else None  # noqa: PLR2004


def _unix_before(age: timedelta | None) -> str | None:
    """Return the Unix time so long ago."""
    return None if age is None else f"{int((datetime.now(UTC) - age).timestamp())}"


async def close_streams(application: web.Application) -> None:
    for writing in application[STREAMS].copy():
        writing.cancel()
