"""A listener hears of the events of its container, in whatever pieces and beside whatever others they come."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.docker.engine import events

DIES = b'{"Type": "container", "Action": "die", "Actor": {"ID": "mine", "Attributes": {}}}\n'
# No event of Docker's, but one of those that answer in its place may send it.
ODD = (
    b"",
    b"no JSON",
    b"[]",
    b"null",
    b'"die"',
    b'{"Action": "die"}',
    b'{"Action": "die", "Actor": {}}',
    b'{"Action": "die", "Actor": null}',
    b'{"Action": "die", "Actor": {"ID": ["mine"]}}',
)


class FakeEngine:
    """An engine that sends these pieces as its stream of events."""

    def __init__(self, *pieces: bytes) -> None:
        self.original: Any = self
        self._pieces = pieces

    @asynccontextmanager
    async def _query(self, _path: str, **_given: Any) -> AsyncIterator[Any]:
        yield SimpleNamespace(content=self)

    async def iter_any(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


@pytest.mark.parametrize(
    ("pieces", "concerned"),
    [
        ([DIES], True),
        ([DIES[:20], DIES[20:50], DIES[50:]], True),
        ([b'{"Action": "start", "Actor": {"ID": "mine"}}\n'], False),
        ([DIES.replace(b"mine", b"other")], False),
        *(([odd + b"\n", DIES], True) for odd in ODD),
        ([b" " * 2**20, b" " * 2**20 + b"\n", DIES], True),
    ],
)
async def test_a_listener_hears_of_the_events_of_its_container(pieces: list[bytes], concerned: bool) -> None:
    engine: Any = FakeEngine(*pieces)
    with events.listen_to(engine, "mine") as listener:
        heard = False
        async for _ in events.follow(engine):
            assert listener.hears
            heard |= listener.event.is_set()
        assert (heard, listener.hears) == (concerned, False)
        assert listener.event.is_set(), "the end of the stream is heard too"
