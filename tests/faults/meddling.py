"""What a person, or a job of cron, does to an application's containers while a rollout has its hands on them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from gateway.docker.engine import containers
from gateway.docker.engine.containers import Container
from gateway.model.configuration import Order
from gateway.model.errors import RolloutError
from tests.faults.strikes import Fault
from tests.faults.world import RENAMED, World

_PAUSED = 0.6  # seconds
_CALL = 60.0  # seconds that a call of the engine may take
_GRACE = 1  # seconds

Act = Callable[[World, Container], Awaitable[None]]


async def _call(world: World, method: str, path: str) -> None:
    with suppress(RolloutError):  # there may be nothing to do it to
        await world.engine.call(method, path)


async def _remove(world: World, one: Container) -> None:
    await containers.remove(world.engine, one.container_id)


async def _rename(world: World, one: Container) -> None:
    await _call(world, "POST", f"containers/{one.container_id}/rename?name={RENAMED}{one.container_id[:12]}")


async def _stop(world: World, one: Container) -> None:
    await _call(world, "POST", f"containers/{one.container_id}/stop?t={_GRACE}")


async def _start(world: World, one: Container) -> None:
    if (world.proxy.fired or "").startswith("DELETE"):
        return  # all is done but for what is cleared away: what somebody starts then is his to run
    await _call(world, "POST", f"containers/{one.container_id}/start")


async def _pause(world: World, one: Container) -> None:
    await _call(world, "POST", f"containers/{one.container_id}/pause")


async def _disconnect(world: World, one: Container) -> None:
    call = world.proxy.fired or ""
    drains = world.order is Order.START_FIRST and call.endswith(("/update", "/stop")) and one.container_id not in call
    if drains or call.startswith(("DELETE", "POST images/")):
        return  # the new one has proven itself: what somebody disconnects then is his to connect
    for network in one.networks:
        body = {"Container": one.container_id, "Force": True}
        with suppress(RolloutError):
            await world.engine.call("POST", f"networks/{network}/disconnect", body=body)


async def _prune(world: World) -> None:
    await _call(world, "POST", "containers/prune")


async def _nothing(_world: World) -> None:
    """There is nothing to mend."""


async def _unpause(world: World) -> None:
    # On a busy machine the call that is struck takes longer than the pause.
    async with asyncio.timeout(_CALL):
        await world.proxy.made.wait()
    await asyncio.sleep(_PAUSED)
    for one in await containers.list_labelled(world.engine, world.app):
        if one.paused:
            await _call(world, "POST", f"containers/{one.container_id}/unpause")


def _to_old(act: Act) -> Callable[[World], Awaitable[None]]:
    async def strike(world: World) -> None:
        for one in await containers.list_labelled(world.engine, world.app):
            if one.labels["gateway.digest"] == world.served[-1]:
                await act(world, one)

    return strike


def _to_new(act: Act) -> Callable[[World], Awaitable[None]]:
    async def strike(world: World) -> None:
        for one in await containers.list_labelled(world.engine, world.app):
            if one.labels["gateway.digest"] not in world.served[-2:]:
                await act(world, one)

    return strike


PRUNED = Fault("stopped containers pruned", _prune, _nothing)
_ACTS: dict[str, tuple[Act, Callable[[World], Awaitable[None]]]] = {
    "removed": (_remove, _nothing),
    "renamed": (_rename, _nothing),
    "stopped": (_stop, _nothing),
    "started": (_start, _nothing),
    "paused": (_pause, _unpause),
    "disconnected": (_disconnect, _nothing),
}
MEDDLING = (
    PRUNED,
    *(Fault(f"old one {word} by hand", _to_old(act), mend) for word, (act, mend) in _ACTS.items()),
    *(Fault(f"new one {word} by hand", _to_new(act), mend) for word, (act, mend) in _ACTS.items()),
)
