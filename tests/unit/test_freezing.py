"""No request of any kind holds up the others: the loop is never busy for long. `make fuzz` sends more."""

import asyncio
import os
import time
from asyncio import events
from random import Random
from typing import Any

import pytest

from gateway.store import api_keys
from tests.fuzz.making import Known, Made, Maker
from tests.fuzz.requests import Conversation, Seen
from tests.support.api_client import Web

LONGEST = 0.15  # seconds of processor time: what else the machine does is not in it
_TRIES = 3
REQUESTS = int(os.environ.get("REQUESTS", "200"))


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, str]]:
    """What ran too long, by name."""
    found: list[tuple[float, str]] = []
    run = events.Handle._run  # noqa: SLF001

    def timed(handle: Any) -> None:
        began = time.thread_time()
        run(handle)
        if (took := time.thread_time() - began) > LONGEST:
            found.append((took, repr(handle)))

    monkeypatch.setattr(events.Handle, "_run", timed)
    return found


async def test_no_request_of_any_kind_holds_up_the_others(web: Web, longest: list[tuple[float, str]]) -> None:
    await web.mutate("application.create", name="app", applicationId="app-123", dockerImage="acme/app:v1")
    row = await web.query("application.one", applicationId="app-123")
    paths = [f"/api/deploy/{row['refreshToken']}"]
    paths += [await web.endpoint(source, "s") for source in ("generic", "distribution", "quay", "harbor")]
    async with web.pool.acquire() as connection:
        other, _ = await api_keys.insert_key(connection, "of the fuzzer")
    maker, random, seen = Maker(Known(tuple(paths), (other,)), Random(7)), Random(7), Seen()
    made = [[maker.make()] for _ in range(REQUESTS)]
    await web.post("/api/project.create", b"{")  # the description that every answer is held to is made once
    at_once = asyncio.Semaphore(20)

    async def talk(one: list[Made]) -> None:
        async with at_once:
            await Conversation(web.client.server.port, seen).hold(one, random)

    for _ in range(_TRIES):  # on a busy machine the same work takes more of a processor's time
        longest.clear()
        await asyncio.gather(*map(talk, made))
        if not longest:
            break
    assert seen.faults == []
    assert seen.statuses[200] > 0
    assert longest == []
    # Calls that are spelt wrong are taken for others by what holds answers to their descriptions.
    web.validator.violations.clear()
