"""Workers in other processes hear of new deployments soon."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest
from aiohttp import web

from gateway.admin.context import Context
from gateway.api import notify
from gateway.api.context import CONTEXT
from gateway.store import queue
from gateway.store.database import Pool, listen
from tests.support.api_client import StubRollouts


async def test_the_first_commit_is_notified_without_waiting_for_others(
    web_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "_INTERVAL", 3600.0)
    application = web.Application()
    application[CONTEXT] = cast("Context", SimpleNamespace(pool=web_pool, rollouts=StubRollouts()))
    heard = asyncio.Event()
    notifier = notify.run_notifier(application)
    await anext(notifier)
    async with listen(web_pool, {queue.CHANNEL: heard.set}):
        notify.notify_workers(application)
        async with asyncio.timeout(30):
            await heard.wait()
    with pytest.raises(StopAsyncIteration):
        await anext(notifier)
