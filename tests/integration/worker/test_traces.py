"""Traces reach a receiver of OTLP over HTTP, and whoever does not take them holds nobody up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import REGISTRY
from pydantic import SecretStr

from gateway.api.context import CONTEXT
from gateway.background import BackgroundTasks, cancel_and_wait
from gateway.model.errors import InvalidInput
from gateway.model.traces import trace_id
from gateway.worker.traces import Traces, parse_headers
from tests.support.api_client import Web


@asynccontextmanager
async def receiving(*statuses: int) -> AsyncIterator[tuple[str, asyncio.Queue[tuple[str, Any]]]]:
    """Yield the address of a receiver that answers with these, and what it got."""
    got: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
    left = iter(statuses)

    async def take(request: web.Request) -> web.Response:
        got.put_nowait((request.headers["Authorization"], await request.json()))
        return web.json_response({}, status=next(left))

    application = web.Application()
    application.router.add_post("/v1/traces", take)
    async with TestServer(application) as server:
        yield str(server.make_url("")).rstrip("/"), got


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("gateway_traces_total", {"outcome": outcome}) or 0.0


async def test_a_trace_is_sent_again_while_its_receiver_is_overloaded_and_dropped_when_that_refuses_it(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.background.POLL_INTERVAL", 0.0)
    application_id = await web.application("acme/web")
    await web.mutate("application.redeploy", applicationId=application_id)
    (queued,) = await web.query("deployment.all", applicationId=application_id)
    deployment_id = queued["deploymentId"]
    await web.mutate("deployment.cancel", deploymentId=deployment_id)
    sent, dropped = counted("sent"), counted("dropped")
    async with receiving(503, 200, 400) as (address, got):
        settings = web.client.app[CONTEXT].settings.model_copy(
            update={"otlp_endpoint": address, "otlp_headers": SecretStr("authorization=Bearer hidden")}
        )
        traces = Traces(web.pool, settings)
        task = BackgroundTasks().start("traces", traces.send_all)
        try:
            for one in ("nobody", deployment_id, deployment_id):
                traces.offer(one)
            requests = [await asyncio.wait_for(got.get(), 30) for _ in range(3)]
            async with asyncio.timeout(30):
                while counted("dropped") < dropped + 2:  # noqa: ASYNC110 - the answer is still on its way
                    await asyncio.sleep(0.01)
        finally:
            await cancel_and_wait(task)
    assert {login for login, _ in requests} == {"Bearer hidden"}
    assert requests[0] == requests[1] == requests[2]
    (resource,) = requests[0][1]["resourceSpans"]
    spans = resource["scopeSpans"][0]["spans"]
    assert [one["name"].split()[0] for one in spans] == ["redeploy", "queue"]
    assert {one["traceId"] for one in spans} == {trace_id(deployment_id)}
    assert (counted("sent") - sent, counted("dropped") - dropped) == (1, 2)


async def test_what_waits_is_bounded(web: Web) -> None:
    settings = web.client.app[CONTEXT].settings.model_copy(update={"otlp_endpoint": "http://127.0.0.1:9"})
    traces, dropped = Traces(web.pool, settings), counted("dropped")
    for number in range(1500):
        traces.offer(str(number))
    assert counted("dropped") - dropped == 500


def test_headers_are_parsed_and_an_error_does_not_repeat_them() -> None:
    assert parse_headers("authorization=Bearer a=b, x-scope=c") == {"authorization": "Bearer a=b", "x-scope": "c"}
    with pytest.raises(InvalidInput, match="GATEWAY_OTLP_HEADERS") as raised:
        parse_headers("hidden")
    assert "hidden" not in str(raised.value)
