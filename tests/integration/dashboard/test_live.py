"""A tab gets what has changed, and nothing that its key may not see."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest

from gateway.dashboard import live
from gateway.dashboard.live import CHANGES, Changes
from gateway.model.api_keys import Grants, Permission
from gateway.store import api_keys
from tests.integration.dashboard.test_pages import signed_in
from tests.integration.dashboard.visitor import Visitor
from tests.support.api_client import Web


@pytest.fixture
async def visitor(web: Web) -> Visitor:
    found = Visitor(web)
    await found.sign_in()
    return found


class Tab:
    """The open stream of a tab."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.last = ""

    async def topics(self) -> set[str]:
        """Return the topics of the next event."""
        async with asyncio.timeout(20):
            while True:
                line = (await self._response.content.readline()).decode().strip()
                if line.startswith("id: "):
                    self.last = line.removeprefix("id: ")
                if line.startswith("data: ["):  # a beat has none
                    return set(orjson.loads(line.removeprefix("data: ")))

    async def ended(self) -> None:
        async with asyncio.timeout(20):
            while await self._response.content.readline():
                pass

    async def until(self, *topics: str) -> set[str]:
        """Return all topics up to the last of these."""
        heard: set[str] = set()
        while not heard.issuperset(topics):
            heard |= await self.topics()
        return heard


@asynccontextmanager
async def tab(visitor: Visitor, query: str = "", **headers: str) -> AsyncIterator[Tab]:
    cookie = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())
    async with visitor.web.client.get(f"/dashboard/live{query}", headers={"Cookie": cookie, **headers}) as response:
        assert response.status == 200
        yield Tab(response)


async def test_a_push_reaches_every_tab(visitor: Visitor) -> None:
    application_id = await visitor.web.application("registry.example/web:v1")
    async with tab(visitor) as one, tab(visitor) as other:
        for each in (one, other):
            await each.until("everything")
        await visitor.web.push("registry.example/web:v1")
        for each in (one, other):
            heard = await each.until(f"application:{application_id}", "inbox")
            assert {"pending", "deployments"} <= heard
            await each.until("overview")


async def test_a_deployment_that_is_queued_reaches_a_tab_before_the_next_look_is_due(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_INTERVAL", 600.0)
    application_id = await visitor.web.application("registry.example/web:v1")
    async with tab(visitor) as one:
        await one.until("everything")
        await one.until("everything")  # from here on, the listener knows what there was
        await visitor.web.push("registry.example/web:v1")
        await one.until(f"application:{application_id}")


async def test_a_tab_that_reconnects_gets_what_it_missed(visitor: Visitor) -> None:
    application_id = await visitor.web.application("registry.example/web:v1")
    async with tab(visitor) as watching:
        async with tab(visitor) as leaving:
            await leaving.until("everything")
        await watching.until("everything")
        await visitor.web.push("registry.example/web:v1")
        await watching.until(f"application:{application_id}")
        async with tab(visitor, **{"Last-Event-ID": leaving.last}) as back:
            assert f"application:{application_id}" in await back.topics()
    async with tab(visitor, **{"Last-Event-ID": "elsewhere-5"}) as strange:
        assert "everything" in await strange.topics()


async def test_a_restricted_key_does_not_hear_of_other_applications(web: Web) -> None:
    own, other = await web.application("registry.example/own:v1"), await web.application("registry.example/other:v1")
    visitor = await signed_in(web, Permission.READ, Grants(frozenset({own})))
    async with tab(visitor) as one:
        await one.until("everything")
        await web.push("registry.example/other:v1")
        await web.push("registry.example/own:v1")
        heard = await one.until(f"application:{own}")
        assert not {topic for topic in heard if other in topic}


async def test_a_stream_ends_with_its_session(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_SESSION_CHECK", 0.0)
    async with tab(visitor) as one:
        await one.until("everything")
        async with visitor.web.pool.acquire() as connection:
            await api_keys.revoke_keys(connection, "tests")
        await one.ended()


async def test_no_key_takes_all_places(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_MOST_TABS_OF_KEY", 1)
    async with tab(visitor):
        assert (await visitor.get("/dashboard/live")).status == 503
        other = await signed_in(visitor.web, Permission.READ)
        async with tab(other) as one:
            await one.until("everything")


async def test_the_first_observation_of_all_reaches_a_tab(visitor: Visitor) -> None:
    application_id = await visitor.web.application("registry.example/web:v1")
    async with tab(visitor) as one:
        await one.until("everything")
        await one.until("everything")  # from here on, the listener knows what there was
        async with visitor.web.pool.acquire() as connection:
            await connection.execute(
                "INSERT INTO observations (application_id, state) VALUES ($1, 'running')", application_id
            )
        assert "overview" in await one.until(f"application:{application_id}")


async def test_a_tab_hears_only_of_what_it_shows(visitor: Visitor) -> None:
    one, other = [await visitor.web.application(f"registry.example/{name}:v1") for name in ("one", "other")]
    changes: Changes = visitor.web.client.app[CHANGES]
    async with tab(visitor, f"?topics=application:{one}+inbox") as shown:
        await shown.until("everything")
        assert changes.publish({(f"application:{other}", other), ("overview", None)}) == 0
        assert changes.publish({(f"application:{one}", one), ("overview", None)}) == 1
        assert await shown.until(f"application:{one}") == {f"application:{one}"}


async def test_a_tab_that_has_left_frees_its_place(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_HEARTBEAT", 0.05)
    changes: Changes = visitor.web.client.app[CHANGES]
    async with tab(visitor) as one:
        await one.until("everything")
        assert changes.tabs == 1
    async with asyncio.timeout(20):
        while changes.tabs:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_tab_that_does_not_read_is_dropped(web: Web) -> None:
    changes: Changes = web.client.app[CHANGES]
    async with changes.subscribed() as slow:
        for number in range(200):
            changes.publish({(f"topic {number}", None)})
        seen: list[Any] = []
        while (event := await slow.events.get()) is not None:
            seen.append(event)
        assert len(seen) < 200
        assert changes.tabs == 0
