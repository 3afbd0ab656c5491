"""A sample of `make faults`: killed around calls that change something, nothing is lost, and no release is mixed."""

import asyncio
from collections.abc import Iterable

import pytest

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.registry import PrivateRegistry
from gateway.model.configuration import Order
from tests.faults import strikes
from tests.faults.matrix import Tally, strike_once
from tests.faults.release_world import Bad, Scene, release_world, strike_release
from tests.faults.restored_world import restored_under_load
from tests.faults.world import Asked, world
from tests.support.real_parts import Pushes


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("orders", "struck"),
    [
        # In this order there is a time when neither serves.
        pytest.param((Order.STOP_FIRST,), ((Asked.PUSH, 7),), id="push"),
        pytest.param(Order, ((Asked.PUSH, 7),), id="push in either order", marks=pytest.mark.long),
        pytest.param(Order, ((Asked.PUSH, 3), (Asked.ROLLBACK, 4)), id="push and rollback", marks=pytest.mark.long),
    ],
)
async def test_a_kill_around_a_changing_call_loses_nothing(
    dockerd: PrivateEngine,
    pushes: Pushes,
    tmp_path_factory: pytest.TempPathFactory,
    orders: Iterable[Order],
    struck: tuple[tuple[Asked, int], ...],
) -> None:
    tally = Tally()
    place = tmp_path_factory.mktemp("kills")  # short enough for the address of a socket in it

    async def in_order(order: Order) -> None:
        after = order is Order.STOP_FIRST
        async with world(order, dockerd, f"{pushes.address}/{pushes.path}-{order}", place / order) as one:
            for asked, at in struck:
                assert await strike_once(one, tally, strikes.KILL, asked, at, after=after)

    await asyncio.gather(*map(in_order, orders))
    assert tally.violations == []


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_what_was_under_way_in_a_backup_is_finished_where_it_is_restored(
    dockerd: PrivateEngine, pushes: Pushes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tally, place = Tally(), tmp_path_factory.mktemp("restored")
    async with world(Order.STOP_FIRST, dockerd, f"{pushes.address}/{pushes.path}", place) as one:
        for asked, at in ((Asked.PUSH, 3), (Asked.ROLLBACK, 5)):
            assert await strike_once(one, tally, strikes.RESTORED, asked, at, after=True)
    assert tally.violations == []


@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_applications_under_pushes_go_on_where_their_backup_is_restored(
    dockerd: PrivateEngine,
    registry: PrivateRegistry,
    pushes: Pushes,
    postgres_server: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    tally, place = Tally(), tmp_path_factory.mktemp("restored")
    await restored_under_load(dockerd, registry, postgres_server, pushes.path, place, tally, rounds=2)
    assert tally.violations == []


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_kill_during_a_release_leaves_all_members_new_or_all_old(
    dockerd: PrivateEngine, pushes: Pushes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tally, place = Tally(), tmp_path_factory.mktemp("release")
    async with release_world(dockerd, f"{pushes.address}/{pushes.path}", place, size=3) as one:
        assert await strike_release(one, tally, strikes.KILL, Scene(Bad.EXITS, 3), 20, after=False)
    assert tally.violations == []
