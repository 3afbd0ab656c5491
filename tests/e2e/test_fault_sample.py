"""A sample of `make faults`: killed around calls that change something, nothing is lost in either order."""

import asyncio

import pytest

from gateway.cli.demo.engine import PrivateEngine
from gateway.model.configuration import Order
from tests.faults import strikes
from tests.faults.matrix import Tally, strike_once
from tests.faults.world import Asked, World, world
from tests.support.real_parts import Pushes


@pytest.mark.timeout(600)
async def test_a_kill_around_a_changing_call_loses_nothing_in_either_order(
    dockerd: PrivateEngine, pushes: Pushes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tally = Tally()
    place = tmp_path_factory.mktemp("kills")  # short enough for the address of a socket in it

    async def every_tenth_call(one: World, asked: Asked, *, after: bool) -> None:
        at = 0
        while await strike_once(one, tally, strikes.KILL, asked, at, after=after):
            at += 10

    async def in_order(order: Order) -> None:
        async with world(order, dockerd, f"{pushes.address}/{pushes.path}-{order}", place / order) as one:
            await every_tenth_call(one, Asked.PUSH, after=order is Order.STOP_FIRST)
            await every_tenth_call(one, Asked.ROLLBACK, after=order is Order.START_FIRST)

    await asyncio.gather(*map(in_order, Order))
    assert tally.violations == []
    assert tally.struck[strikes.KILL.name] >= 5
