"""Tests that alerts are sent in the background, counted, and never log an address."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import pytest
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestServer
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from gateway.background import BackgroundTasks
from gateway.cli.demo.process import until
from gateway.model.errors import InvalidInput
from gateway.worker.alerts import Alert, send_alerts
from tests.support.receivers import a_hole

Receiver: TypeAlias = tuple[BaseTestServer, "asyncio.Queue[Any]"]


def counted() -> float:
    return REGISTRY.get_sample_value("gateway_alerts_total", {"outcome": "failed"}) or 0.0


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    handlers: asyncio.Queue[Any] = asyncio.Queue()

    async def hear(request: web.Request) -> web.Response:
        await handlers.put(await request.json())
        return web.Response(status=500 if request.path == "/broken" else 200)

    application = web.Application()
    application.router.add_post("/{path}", hear)
    async with TestServer(application) as server:
        yield server, handlers


async def test_an_alert_reaches_each_address(receiver: Receiver) -> None:
    server, handlers = receiver
    address = f"json://127.0.0.1:{server.port}"
    async with send_alerts(f"{address}/one, {address}/two", BackgroundTasks()) as alerts:
        alerts.send(Alert("web: deploy failed", "denied"))
        told = [await handlers.get(), await handlers.get()]
    assert {(one["title"], one["message"]) for one in told} == {("web: deploy failed", "denied")}


async def test_an_address_that_never_answers_delays_no_other(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.worker.alerts._FLUSH_DEADLINE", 0.01)
    server, handlers = receiver
    async with a_hole() as hole:
        urls = f"json://127.0.0.1:{hole.port}?rto=600 json://127.0.0.1:{server.port}/one"
        async with send_alerts(urls, BackgroundTasks()) as alerts:
            for title in ("first", "second"):
                alerts.send(Alert(title, "denied"))
            told = [(await asyncio.wait_for(handlers.get(), 20))["title"] for _ in range(2)]
            await until(lambda: hole.swallowed(1), within=20)
            assert told == ["first", "second"]


async def test_a_failing_address_is_counted_and_not_logged(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    server, _ = receiver
    before = counted()
    with capture_logs() as logged:
        async with send_alerts(f"json://user:secret@127.0.0.1:{server.port}/broken", BackgroundTasks()) as alerts:
            alerts.send(Alert("web: deploy failed", "denied"))
            await alerts.flush()
    assert counted() == before + 1
    # A gateway that other tests share may log meanwhile.
    assert [line["event"] for line in logged if line["event"] != "Postponed"] == ["An alert could not be sent"]
    assert "secret" not in str(logged) + caplog.text


async def test_an_invalid_address_stops_the_start_and_is_not_repeated() -> None:
    with pytest.raises(InvalidInput, match="address 2") as caught:
        async with send_alerts("json://localhost,nonsense://secret", BackgroundTasks()):
            pass
    assert "secret" not in str(caught.value)


async def test_without_an_address_nothing_is_queued() -> None:
    async with send_alerts("", BackgroundTasks()) as alerts:
        alerts.send(Alert("t", "b"))
        await alerts.flush()
