"""What is done to the world when a call is reached."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.cli.demo.process import until
from gateway.docker.engine import services
from gateway.docker.engine.shield import run_to_completion
from gateway.model.errors import Unavailable
from tests.faults.world import World

_CALL = 60.0  # seconds that a call of the engine may take


@dataclass
class Fault:
    """A strike, and how the world is mended afterwards, before what must hold is looked at."""

    name: str
    strike: Callable[[World], Awaitable[None]]
    mend: Callable[[World], Awaitable[None]]
    cuts: bool = False
    late: float | None = None

    def on(self, world: World) -> "OnWorld":
        return OnWorld(self, world)


@dataclass
class OnWorld:
    """Implements engine_proxy.Strike."""

    fault: Fault
    world: World

    @property
    def cuts(self) -> bool:
        return self.fault.cuts

    @property
    def late(self) -> float | None:
        return self.fault.late

    async def __call__(self) -> None:
        await self.fault.strike(self.world)


def _signal(number: int) -> Callable[[World], Awaitable[None]]:
    async def strike(world: World) -> None:
        os.kill(world.gateway.pid, number)

    return strike


async def _start_again(world: World) -> None:
    """The gateway was killed: old or new, some container is there at every moment; then it is started."""
    await world.gateway.stop()
    if world.order == "start-first":
        await world.somebody_answers()
    await world.gateway.start()


async def _stopped_and_started(world: World) -> None:
    """The gateway ends in order: what is cut has been put back, so that somebody answers while there is none."""
    await world.gateway.stop()
    await world.somebody_answers()
    await world.gateway.start()


async def _lands(world: World) -> None:
    await _start_again(world)
    await world.proxy.landed()


def _stop_engine(number: int) -> Callable[[World], Awaitable[None]]:
    async def strike(world: World) -> None:
        await world.dockerd.stop(number)

    return strike


async def _start_engine(world: World) -> None:
    # What the killed one has left of its containerd may be in the way for a moment.
    for _ in range(3):
        try:
            return await world.dockerd.start()
        except Unavailable:
            await asyncio.sleep(1)
    return await world.dockerd.start()


async def _tell_engine(world: World) -> None:
    world.dockerd.tell()


async def _restart_engine(world: World) -> None:
    await world.dockerd.stop()
    await _start_engine(world)


async def _remove_service(world: World) -> None:
    found = await services.inspect(world.engine, await world.name())
    if found is not None:
        await services.remove(world.engine, found)


async def _set_image(world: World) -> None:
    """Do as docker service update --image does, with the image of another version."""
    found = await services.inspect(world.engine, await world.name())
    if found is None:
        return
    template = found.spec["TaskTemplate"]
    image = f"{world.image.rpartition(':')[0]}@{world.served[0]}"
    made = {**template, "ContainerSpec": {**template["ContainerSpec"], "Image": image}}
    await services.update(world.engine, found, {**found.spec, "TaskTemplate": made}, {})


async def _nothing(_world: World) -> None:
    """There is nothing to mend."""


async def _restart_database(world: World) -> None:
    # The gateway gives its call up meanwhile, and with it who serves that call here.
    await run_to_completion(world.database.restart())


async def _cut_database(world: World) -> None:
    world.database.wire.cut()


async def _stall_database(world: World) -> None:
    world.database.wire.stall()


async def _outlast_a_lease(world: World) -> None:
    async with asyncio.timeout(_CALL):
        await world.proxy.made.wait()
    await asyncio.sleep(3)
    await world.until_somebody_answers()


async def _mend_database(world: World) -> None:
    """The database is away for longer than a lease; what was begun is finished meanwhile, and somebody answers."""
    await _outlast_a_lease(world)
    world.database.wire.mend()


async def _be_read_only(world: World) -> None:
    await run_to_completion(world.database.be_read_only())


async def _let_nobody_in(world: World) -> None:
    await run_to_completion(world.database.let_in(0))


async def _fill_the_disk(world: World) -> None:
    await run_to_completion(world.database.fill_the_disk())


async def _database_refuses_no_more(world: World) -> None:
    """It refuses for longer than a lease; what was begun is finished meanwhile, and somebody answers."""
    await _outlast_a_lease(world)
    await world.database.refuse_nothing()


async def _back_up(world: World) -> None:
    await run_to_completion(world.back_up())


async def _back_up_and_kill(world: World) -> None:
    async def both() -> None:
        await world.back_up()
        await _signal(signal.SIGKILL)(world)

    # The gateway may give its call up meanwhile, and with it who serves that call here.
    await run_to_completion(both())


async def _restored(world: World) -> None:
    """The gateway is gone, and its database; the restored one finishes what was under way in the backup."""
    await world.gateway.stop()
    await world.restore()
    await world.gateway.start()


async def _taken_over(world: World) -> None:
    """Another gateway takes over and finishes; then the frozen one wakes, and must let all be as it is."""
    async with world.second_gateway() as second:
        second.key = world.gateway.key

        async def finished() -> bool | None:
            return await world.settled(second) or None

        await until(finished)
        await _signal(signal.SIGCONT)(world)
        # Whatever it was about to do, it does now, or at its next heartbeat.
        await asyncio.sleep(1)


KILL = Fault("gateway killed", _signal(signal.SIGKILL), _start_again, cuts=True)
KILL_LATE = Fault("gateway killed, its call lands later", _signal(signal.SIGKILL), _lands, cuts=True, late=0.5)
TERMINATE = Fault("gateway told to stop", _signal(signal.SIGTERM), _stopped_and_started)
ENGINE_STOPPED = Fault("engine stopped", _stop_engine(signal.SIGTERM), _start_engine, cuts=True)
ENGINE_KILLED = Fault("engine killed", _stop_engine(signal.SIGKILL), _start_engine, cuts=True)
ENGINE_RESTARTED = Fault("engine restarted in order", _tell_engine, _restart_engine)
SERVICE_REMOVED = Fault("service removed by hand", _remove_service, _nothing)
SET_IMAGE = Fault("image set by hand", _set_image, _nothing)
RESTORED = Fault("gateway killed, its database restored", _back_up_and_kill, _restored, cuts=True)
BACKED_UP = Fault("database backed up", _back_up, _nothing)
FROZEN = Fault("gateway frozen, taken over from, woken", _signal(signal.SIGSTOP), _taken_over)
DATABASE_RESTARTED = Fault("database restarted", _restart_database, _nothing)
DATABASE_CUT = Fault("database cut off", _cut_database, _mend_database)
DATABASE_STALLED = Fault("database stalled", _stall_database, _mend_database)
DATABASE_READ_ONLY = Fault("database read-only", _be_read_only, _database_refuses_no_more)
DATABASE_CLOSED = Fault("database lets nobody in", _let_nobody_in, _database_refuses_no_more)
DATABASE_FULL = Fault("database's disk full", _fill_the_disk, _database_refuses_no_more)

REFUSALS = (DATABASE_READ_ONLY, DATABASE_CLOSED, DATABASE_FULL)
