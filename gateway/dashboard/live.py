"""Tell open pages what has changed: one listener a gateway, one stream a tab.

The listener looks at the database several times a second, as long as a tab is open: so all gateways tell the same,
whichever of them rolls out. A stream names topics (`overview`, `application:ID`, `deployment:ID`), never content: the
page fetches what it shows, with the rights of the person who is signed in. A tab that reconnects names the last event
that it has seen, and gets what it missed; where that is not known, it is told to fetch everything.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial

import orjson
import structlog
from aiohttp import ClientConnectionResetError, web

from gateway.api.context import CONTEXT
from gateway.dashboard.sessions import SESSION, find
from gateway.model.api_keys import Grants
from gateway.model.errors import Unavailable
from gateway.store import overview, resource_owners
from gateway.store.database import Pool, statement
from gateway.store.overview import Change, Newest

_LOG = structlog.get_logger()

_INTERVAL = 0.15  # seconds between two looks
# Seconds more for each tab: a change makes all of them fetch, and that must leave the processor to pushes.
_INTERVAL_OF_TAB = 0.004
_MOST_PENDING = 500  # deployments that are looked at
_KEPT = 500  # events that a reconnecting tab may have missed
_BUFFER = 64  # events that a tab may be behind before it is dropped
_HEARTBEAT = 15.0  # seconds
_SESSION_CHECK = 30.0  # seconds between looks whether the session is still valid
_RETRY = 1000  # milliseconds until a tab reconnects
_MOST_TABS = 1000

#: applications that restricted keys must not hear of are left out of their streams
_Event = tuple[int, frozenset[str]]


def _topics(before: Mapping[str, Change], now: Mapping[str, Change]) -> set[str]:
    """Return the topics of the deployments whose visible state has changed."""
    topics: set[str] = set()
    for deployment_id in now.keys() | before.keys():
        one, other = now.get(deployment_id), before.get(deployment_id)
        changed = one or other
        if one != other and changed is not None:
            topics |= {
                "overview",
                "deployments",
                f"deployment:{deployment_id}",
                f"application:{changed.application_id}",
            }
    return topics


class Changes:
    """What has changed, by topic, numbered; and the tabs that are told."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        #: identifies this listener: numbers of another one mean nothing
        self.name = secrets.token_hex(6)
        self.number = 0
        self._events: deque[_Event] = deque(maxlen=_KEPT)
        self._tabs: set[asyncio.Queue[_Event | None]] = set()
        self._wanted = asyncio.Event()

    @property
    def tabs(self) -> int:
        return len(self._tabs)

    @asynccontextmanager
    async def subscribed(self) -> AsyncIterator[asyncio.Queue[_Event | None]]:
        """Yield the queue of a tab. It ends with None when the tab is too slow, or the gateway stops."""
        tab: asyncio.Queue[_Event | None] = asyncio.Queue(_BUFFER + 1)
        self._tabs.add(tab)
        self._wanted.set()
        try:
            yield tab
        finally:
            self._tabs.discard(tab)
            if not self._tabs:
                self._wanted.clear()

    def missed(self, last_event_id: str) -> list[_Event] | None:
        """Return the events after this one; None where they are not known any more."""
        name, _, number = last_event_id.partition("-")
        if name != self.name or not number.isdecimal() or len(number) > 18:  # noqa: PLR2004
            return None
        seen = int(number)
        if seen > self.number or (self._events and seen < self._events[0][0] - 1):
            return None
        return [event for event in self._events if event[0] > seen]

    def publish(self, topics: Collection[str]) -> None:
        self.number += 1
        event = (self.number, frozenset(topics))
        self._events.append(event)
        for tab in list(self._tabs):
            if tab.qsize() >= _BUFFER:
                self._drop(tab)
            else:
                tab.put_nowait(event)

    def close(self) -> None:
        for tab in list(self._tabs):
            self._drop(tab)

    def _drop(self, tab: asyncio.Queue[_Event | None]) -> None:
        self._tabs.discard(tab)
        with suppress(asyncio.QueueFull):
            tab.put_nowait(None)

    async def listen(self) -> None:
        """Publish what changes, for as long as a tab is open."""
        while True:
            await self._wanted.wait()
            with suppress(Unavailable):
                await self._listen_until_unwanted()
            await asyncio.sleep(_INTERVAL)

    async def _listen_until_unwanted(self) -> None:
        pending, newest = await self._look()
        # What has changed while nobody listened is not known.
        self.publish({"everything"})
        while self._wanted.is_set():
            await asyncio.sleep(_INTERVAL + _INTERVAL_OF_TAB * len(self._tabs))
            pending_before, newest_before = pending, newest
            pending, newest = await self._look()
            topics = _topics(pending_before, pending) | await self._topics_of_newest(newest_before, newest)
            if topics:
                self.publish(topics)

    async def _topics_of_newest(self, before: Newest, now: Newest) -> set[str]:
        topics: set[str] = set()
        if now.deployment_id != before.deployment_id:
            topics |= {"overview", "deployments"}
        if now.delivery_id != before.delivery_id:
            topics.add("inbox")
        if now.observed != before.observed and before.observed is not None:
            async with statement(self._pool) as connection:
                changed = await overview.select_observed_since(connection, before.observed)
            topics |= {"overview", *(f"application:{one}" for one in changed)}
        if now.audited != before.audited:
            async with statement(self._pool) as connection:
                changed = await overview.select_audited_since(connection, before.audited)
            topics |= {"overview", *(f"application:{one}" for one in changed)}
        return topics

    async def _look(self) -> tuple[dict[str, Change], Newest]:
        async with statement(self._pool) as connection:
            pending = await overview.select_pending_changes(connection, _MOST_PENDING)
            return pending, await overview.select_newest(connection)


CHANGES = web.AppKey("changes", Changes)


async def run_listener(application: web.Application) -> AsyncIterator[None]:
    """Run the listener for as long as the application runs; end the streams when it stops."""
    changes = application[CHANGES]
    async with application[CONTEXT].rollouts.background_tasks.running("dashboard", partial(changes.listen)):
        yield


async def close_streams(application: web.Application) -> None:
    application[CHANGES].close()


async def stream(request: web.Request) -> web.StreamResponse:
    """Respond with the events, until the tab leaves, the session ends, or the gateway stops."""
    changes, session = request.app[CHANGES], request[SESSION]
    if changes.tabs >= _MOST_TABS:
        raise web.HTTPServiceUnavailable(text="Too many tabs are open", headers={"Retry-After": "30"})
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    await response.prepare(request)
    async with changes.subscribed() as tab:
        missed = changes.missed(request.headers.get("Last-Event-ID") or request.query.get("after", ""))
        with suppress(ClientConnectionResetError, ConnectionError):
            await response.write(f"retry: {_RETRY}\n\n".encode())
            await _send(
                response, changes, await _visible(request, missed or [(changes.number, frozenset({"everything"}))])
            )
            checked = asyncio.get_running_loop().time()
            while True:
                try:
                    async with asyncio.timeout(_HEARTBEAT):
                        event = await tab.get()
                except TimeoutError:
                    await response.write(b": still here\n\n")
                    event = (changes.number, frozenset())
                if event is None:
                    break
                now = asyncio.get_running_loop().time()
                if now - checked > _SESSION_CHECK:
                    current = await find(request)
                    if current is None or current.caller != session.caller:
                        break
                    checked = now
                await _send(response, changes, await _visible(request, [event]))
    return response


async def _send(response: web.StreamResponse, changes: Changes, events: Collection[_Event]) -> None:
    topics = frozenset[str]().union(*(event[1] for event in events))
    if topics:
        number = max(event[0] for event in events)
        data = orjson.dumps(sorted(topics))
        await response.write(b"id: %s-%d\nevent: changed\ndata: %s\n\n" % (changes.name.encode(), number, data))


async def _visible(request: web.Request, events: Collection[_Event]) -> list[_Event]:
    """Leave out the applications and deployments that a restricted key does not cover."""
    grants = request[SESSION].caller.grants
    if grants is None:
        return list(events)
    named = {topic for _, topics in events for topic in topics if ":" in topic}
    hidden = (
        {topic for topic in named if not await _covers(request.app[CONTEXT].pool, grants, topic)} if named else set()
    )
    return [(number, topics - hidden) for number, topics in events]


async def _covers(pool: Pool, grants: Grants, topic: str) -> bool:
    kind, _, named = topic.partition(":")
    async with statement(pool) as connection:
        owner = await resource_owners.select_owner(connection, resource_owners.ResourceKind(kind), named)
    return owner is not None and grants.covers(application_id=owner.application_id, project_id=owner.project_id)
