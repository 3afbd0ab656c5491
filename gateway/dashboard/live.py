"""Tell open pages what has changed: one listener a gateway, one stream a tab.

The listener looks at the database several times a second, as long as a tab is open, and at once when a deployment is
queued: so all gateways tell the same, whichever of them rolls out. A tab names the topics of what it shows, and gets
events of these alone. A stream names topics (`overview`, `pending`, `application:ID`, `deployment:ID`), never content:
the page fetches what it shows, with the rights of the person who is signed in. A tab that reconnects names the last
event that it has seen, and gets what it missed; where that is not known, it fetches everything.
"""

import asyncio
import secrets
from collections import Counter, deque
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import orjson
from aiohttp import web

from gateway.api.context import CONTEXT, SHARE
from gateway.dashboard.sessions import SESSION, is_current
from gateway.model.errors import Unavailable
from gateway.store import overview, resource_owners
from gateway.store.database import Pool, statement
from gateway.store.overview import Change, Newest

_INTERVAL = 0.1  # seconds between two looks
# Seconds more after a change for each tab that it makes fetch: that must leave the processor to pushes.
_PAUSE_OF_TAB = 0.015
_MOST_PENDING = 500  # deployments that are looked at
_KEPT = 500  # events that a reconnecting tab may have missed
_BUFFER = 64  # events that a tab may be behind before it is dropped
_HEARTBEAT = 15.0  # seconds
#: an event that says nothing: a tab which hears none for long takes its connection for dead, and makes another
BEAT = b"event: beat\ndata: 0\n\n"
_SESSION_CHECK = 10.0  # seconds between looks whether the session is still valid
_SLOWEST_WRITE = 60.0  # seconds until a tab that reads nothing is dropped
_LONGEST_TOPICS = 4000  # characters
_RETRY = 1000  # milliseconds until a tab reconnects
_MOST_TABS = 1000
_MOST_TABS_OF_KEY = 500

#: a topic, and the application that it is about, None for a list: restricted keys hear of their applications alone
_Topic = tuple[str, str | None]
_Event = tuple[int, frozenset[_Topic]]
_EVER = datetime(1970, 1, 1, tzinfo=UTC)
_EVERYTHING: _Topic = ("everything", None)
_OVERVIEW: _Topic = ("overview", None)
_DEPLOYMENTS: _Topic = ("deployments", None)
#: what runs or waits
_PENDING: _Topic = ("pending", None)
#: what any change of a person may show in
LISTS = frozenset({_OVERVIEW, _DEPLOYMENTS, _PENDING})


def _topics(before: Mapping[str, Change], now: Mapping[str, Change]) -> set[_Topic]:
    """Return the topics of the deployments whose visible state has changed."""
    topics: set[_Topic] = set()
    for deployment_id in now.keys() | before.keys():
        one, other = now.get(deployment_id), before.get(deployment_id)
        changed = one or other
        if one != other and changed is not None:
            own = changed.application_id
            topics |= {_PENDING, _DEPLOYMENTS, (f"deployment:{deployment_id}", own), *_of_applications([own])}
            if one is None:  # the overview shows how it ended
                topics.add(_OVERVIEW)
    return topics


def _of_applications(application_ids: Iterable[str]) -> set[_Topic]:
    return {(f"application:{one}", one) for one in application_ids}


@dataclass(frozen=True, slots=True, eq=False)
class Tab:
    """An open tab: what it shows, None for all; and the events that it gets next. None ends it."""

    topics: frozenset[str] | None
    events: asyncio.Queue[_Event | None]

    def shows(self, topics: Iterable[_Topic]) -> bool:
        return self.topics is None or any(topic in self.topics or topic == _EVERYTHING[0] for topic, _ in topics)


class Changes:
    """What has changed, by topic, numbered; and the tabs that get it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        #: identifies this listener: numbers of another one mean nothing
        self.name = secrets.token_hex(6)
        self.number = 0
        self._events: deque[_Event] = deque(maxlen=_KEPT)
        self._tabs: set[Tab] = set()
        self._open: Counter[str] = Counter()
        self._wanted = asyncio.Event()
        self._soon = asyncio.Event()

    @property
    def tabs(self) -> int:
        return len(self._tabs)

    def has_place(self, key_id: str) -> bool:
        """Tell whether one more tab may be opened with this key: none may take all places."""
        return self._open.total() < _MOST_TABS and self._open[key_id] < _MOST_TABS_OF_KEY

    @asynccontextmanager
    async def subscribed(self, key_id: str = "", topics: frozenset[str] | None = None) -> AsyncIterator[Tab]:
        """Yield a tab. It gets None when it is too slow, or the gateway stops."""
        tab = Tab(topics, asyncio.Queue(_BUFFER + 1))
        self._tabs.add(tab)
        self._open[key_id] += 1
        self._wanted.set()
        try:
            yield tab
        finally:
            self._tabs.discard(tab)
            self._open -= Counter([key_id])
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

    def publish(self, topics: Collection[_Topic]) -> int:
        """Tell the tabs that show one of these topics; return how many there are."""
        self.number += 1
        event = (self.number, frozenset(topics))
        self._events.append(event)
        showing = [tab for tab in self._tabs if tab.shows(topics)]
        for tab in showing:
            if tab.events.qsize() >= _BUFFER:
                self._drop(tab)
            else:
                tab.events.put_nowait(event)
        return len(showing)

    def close(self) -> None:
        for tab in list(self._tabs):
            self._drop(tab)

    def _drop(self, tab: Tab) -> None:
        self._tabs.discard(tab)
        with suppress(asyncio.QueueFull):
            tab.events.put_nowait(None)

    def look_soon(self) -> None:
        """Look at the database without waiting for the next time: a deployment was queued, here or elsewhere."""
        self._soon.set()

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
        showing = self.publish({_EVERYTHING})
        early = is_owed = False
        while self._wanted.is_set():
            await asyncio.sleep(_PAUSE_OF_TAB * showing)
            early = await self._wait(may_be_early=not early)
            showing = 0
            pending_before, newest_before = pending, newest
            pending, newest = await self._look()
            topics = _topics(pending_before, pending) | await self._topics_of_newest(newest_before, newest)
            # A deployment that has come and gone between two looks shows in the overview: once nothing else happens.
            is_owed = (is_owed or newest.deployment_id != newest_before.deployment_id) and _OVERVIEW not in topics
            if is_owed and not topics:
                topics, is_owed = {_OVERVIEW}, False
            if topics:
                showing = self.publish(topics)

    async def _wait(self, *, may_be_early: bool) -> bool:
        """Wait for the next look; return whether it comes early, for a deployment that was queued.

        Every second look may: however many pushes come, they cause no more than twice as many looks.
        """
        if not may_be_early:
            await asyncio.sleep(_INTERVAL)
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL):
                    await self._soon.wait()
        early = may_be_early and self._soon.is_set()
        self._soon.clear()
        return early

    async def _topics_of_newest(self, before: Newest, now: Newest) -> set[_Topic]:
        topics: set[_Topic] = set()
        if now.deployment_id != before.deployment_id:
            topics |= {_PENDING, _DEPLOYMENTS}
        if now.delivery_id != before.delivery_id:
            topics.add(("inbox", None))
        if now.observed != before.observed:
            async with statement(self._pool) as connection:
                changed = await overview.select_observed_since(connection, before.observed or _EVER)
            topics |= {_OVERVIEW, *_of_applications(changed)}
        if now.audited != before.audited:
            async with statement(self._pool) as connection:
                changed = await overview.select_audited_since(connection, before.audited)
            topics |= LISTS | _of_applications(changed)
        return topics

    async def _look(self) -> tuple[dict[str, Change], Newest]:
        async with statement(self._pool) as connection:
            pending = await overview.select_pending_changes(connection, _MOST_PENDING)
            return pending, await overview.select_newest(connection)


CHANGES = web.AppKey("changes", Changes)


async def run_listener(application: web.Application) -> AsyncIterator[None]:
    """Run the listener for as long as the application runs; end the streams when it stops."""
    changes = application[CHANGES]
    rollouts = application[CONTEXT].rollouts
    rollouts.when_woken(changes.look_soon)
    async with rollouts.background_tasks.running("dashboard", partial(changes.listen)):
        yield


async def close_streams(application: web.Application) -> None:
    application[CHANGES].close()


async def stream(request: web.Request) -> web.StreamResponse:
    """Respond with the events, until the tab leaves, the session ends, or the gateway stops."""
    changes, session = request.app[CHANGES], request[SESSION]
    if not changes.has_place(session.caller.key_id):
        raise web.HTTPServiceUnavailable(text="Too many tabs are open", headers={"Retry-After": "30"})
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )
    async with changes.subscribed(session.caller.key_id, _asked(request)) as tab:
        # A tab that gets no events now connects again, and catches up: so it ends the stream when the database is away.
        with suppress(ConnectionError, TimeoutError, Unavailable):
            await _write_events(request, response, changes, tab)
    return response


def _asked(request: web.Request) -> frozenset[str] | None:
    """Return the topics that the page shows; None where it does not say."""
    topics = request.query.get("topics")
    return None if topics is None or len(topics) > _LONGEST_TOPICS else frozenset(topics.split())


async def _write_events(request: web.Request, response: web.StreamResponse, changes: Changes, tab: Tab) -> None:
    """Write until the session or the queue ends; raises ConnectionError, TimeoutError and Unavailable."""
    await response.prepare(request)
    missed = changes.missed(request.headers.get("Last-Event-ID") or request.query.get("after", ""))
    await _write(response, b"retry: %d\n\n" % _RETRY)
    await _send(request, response, changes, tab, missed or [(changes.number, frozenset({_EVERYTHING}))])
    clock = asyncio.get_running_loop().time
    checked = clock()
    while True:
        event: _Event | None = (changes.number, frozenset())
        try:
            async with asyncio.timeout(_HEARTBEAT):
                event = await tab.events.get()
        except TimeoutError:
            await _write(response, BEAT)
        if event is None:
            return
        if clock() - checked > _SESSION_CHECK:
            if not await is_current(request):
                return
            checked = clock()
        await _send(request, response, changes, tab, [event])


async def _write(response: web.StreamResponse, text: bytes) -> None:
    async with asyncio.timeout(_SLOWEST_WRITE):
        await response.write(text)


async def _send(
    request: web.Request, response: web.StreamResponse, changes: Changes, tab: Tab, events: Collection[_Event]
) -> None:
    found = [topic for topic in frozenset[_Topic]().union(*(event[1] for event in events)) if tab.shows([topic])]
    if topics := await _visible(request, found):
        number = max(event[0] for event in events)
        data = orjson.dumps(sorted(topics))
        await _write(response, b"id: %s-%d\nevent: changed\ndata: %s\n\n" % (changes.name.encode(), number, data))


async def _visible(request: web.Request, topics: Collection[_Topic]) -> set[str]:
    """Leave out the applications and deployments that a restricted key does not cover."""
    grants = request[SESSION].caller.grants
    covered: frozenset[str] = frozenset()
    if grants is not None and any(owner is not None for _, owner in topics):
        async with statement(request.app[SHARE]) as connection:
            covered = await resource_owners.select_covered(connection, grants)
    return {topic for topic, owner in topics if grants is None or owner is None or owner in covered}
