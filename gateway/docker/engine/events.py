"""Follows the engine's events: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/System

Events are lost when the connection breaks. So an event only lets something happen sooner that happens anyway.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import aiohttp
import orjson

from gateway.docker.engine.client import Engine, translate_errors

# The engine matches "health_status" by prefix, and therefore all of these words.
_WATCHED = {
    "type": ["container", "service"],
    "event": ["create", "start", "die", "destroy", "rename", "pause", "unpause", "health_status", "update", "remove"],
}


_LEFT = {"type": ["network"], "event": ["disconnect"]}


# After these, a container that runs still runs, and is as well as before.
_HARMLESS = frozenset({"create", "start", "rename", "update"})
_LONGEST_LINE = 1024**2  # bytes; a longer one reaches no listener


async def follow(engine: Engine) -> AsyncGenerator[None, None]:
    """Yield when the subscription begins, and for each event, until the connection ends.

    Meanwhile, each Listener of `listen_to` gets the events of its container. Raises Postponed when the connection
    breaks.
    """
    listeners = _LISTENERS.setdefault(engine.original, _Listeners())
    async with _subscribed(engine, _WATCHED) as response:
        with listeners.followed():
            yield  # events before this point were not received
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                rest = rest if len(rest) < _LONGEST_LINE else b""
                for line in lines:
                    listeners.take(line)
                if chunk.strip():
                    yield


class Listener:
    """Hears of events of one container."""

    def __init__(self, all_of_engine: "_Listeners") -> None:
        self._all = all_of_engine
        self.event = asyncio.Event()

    @property
    def hears(self) -> bool:
        """Whether the engine's events are followed now."""
        return self._all.streams > 0

    async def wait(self, seconds: float) -> None:
        """Return after `seconds`, or as soon as an event may have changed how the container runs.

        An event since the last call counts, and so does the end of the stream of events.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.event.wait()
        self.event.clear()


@dataclass(slots=True, eq=False)
class _Listeners:
    """The listeners to the events of an engine by container, and how many streams are followed."""

    streams: int = 0
    by_container: defaultdict[str, set[Listener]] = field(default_factory=lambda: defaultdict(set))

    @contextmanager
    def followed(self) -> Iterator[None]:
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1
            for listener in set().union(*self.by_container.values()):
                listener.event.set()

    def take(self, line: bytes) -> None:
        if not self.by_container:
            return
        with suppress(ValueError, TypeError, AttributeError, LookupError):  # an event of an unknown form
            event = orjson.loads(line)
            if event.get("Action") not in _HARMLESS:
                for listener in self.by_container.get(event["Actor"]["ID"], ()):
                    listener.event.set()


_LISTENERS: WeakKeyDictionary[Engine, _Listeners] = WeakKeyDictionary()


@contextmanager
def listen_to(engine: Engine, container_id: str) -> Iterator[Listener]:
    """Listen for events of a container while the block runs."""
    listeners = _LISTENERS.setdefault(engine.original, _Listeners())
    listener = Listener(listeners)
    listeners.by_container[container_id].add(listener)
    try:
        yield listener
    finally:
        listeners.by_container[container_id].discard(listener)
        if not listeners.by_container[container_id]:
            del listeners.by_container[container_id]


async def follow_leaving(engine: Engine, network: str) -> AsyncGenerator[str, None]:
    """Yield the id of each container that has left the network, which frees the ports that it published.

    Raises Postponed when the connection breaks.
    """
    async with _subscribed(engine, _LEFT | {"network": [network]}) as response:
        async for line in response.content:
            about = orjson.loads(line)["Actor"]["Attributes"] if line.strip() else {}
            # The engine matches a network by the beginning of its name.
            if about.get("name") == network:
                yield str(about.get("container", ""))


@asynccontextmanager
async def _subscribed(engine: Engine, filters: Mapping[str, Sequence[str]]) -> AsyncIterator[aiohttp.ClientResponse]:
    params = {"filters": orjson.dumps(filters).decode()}
    with translate_errors(waiting_for="GET events"):
        async with engine._query("events", params=params) as response:  # noqa: SLF001 - our own subclass
            yield response
