"""Messages by Apprise: an address that hangs holds a bounded number of threads, and no place of another one."""

import asyncio

import pytest

from gateway.cli.demo.process import until
from gateway.notify import people
from gateway.notify.receiver import Undelivered
from tests.support.receivers import a_hole, a_hook


async def test_an_address_that_holds_too_many_messages_gets_no_more_and_others_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(people, "_DEADLINE", 0.01)
    async with a_hole() as hole, a_hook() as well:
        hanging = people.parse_address(f"json://127.0.0.1:{hole.port}/?rto=600")
        for _ in range(8):
            with pytest.raises(Undelivered, match="does not answer in time"):
                await people.send(hanging, "title", "body")
        await until(lambda: hole.swallowed(8), within=20)
        monkeypatch.setattr(people, "_DEADLINE", 20)
        with pytest.raises(Undelivered, match="8 earlier messages are still on their way"):
            await people.send(hanging, "title", "body")
        await people.send(people.parse_address(well.url.replace("http", "json")), "title", "body")
        assert b"title" in (await asyncio.wait_for(well.heard.get(), 20))[1]
