"""Faults that strike elsewhere than at the engine's calls: the registry, the disk, the application itself, a twin."""

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.images import Behaviour, Image
from gateway.cli.demo.process import until
from gateway.docker.engine import containers
from gateway.docker.engine.client import connect
from gateway.model.configuration import Order
from tests.faults import strikes
from tests.faults.matrix import Tally
from tests.faults.strikes import SET_IMAGE
from tests.faults.wire import Break, Wire
from tests.faults.world import Asked, Violation, World, lost

_BALLAST = 1_000_000  # bytes
_LOOKS = 4  # seconds in which each watch window is looked at some times


@asynccontextmanager
async def _scene(world: World, tally: Tally, name: str) -> AsyncIterator[None]:
    tally.count(name, name)
    try:
        yield
    except Exception as error:
        if (said := lost(error)) is None:
            raise
        tally.violated(f"{name}, {world.order}: {said}")
        await world.revive()
        await world.begin_anew()


async def registry_breaks(world: World, tally: Tally, wire: Wire) -> None:
    """What the registry sends ends at its first word, or in the midst of a layer."""
    for how in Break:
        for size in (0, _BALLAST // 2):
            async with _scene(world, tally, f"registry {how.value}"):
                digest = await world.pushed(Image(f"{how.value} {size}", ballast=_BALLAST))
                wire.break_after(how, size)
                await world.notify(digest)

                async def waits() -> bool | None:
                    (newest, *_) = await world.rows()
                    return True if newest["state"] == "queued" and newest["reason"] else None

                try:
                    await until(waits)
                finally:
                    wire.mend()
                await world.somebody_answers()
                await world.ends(digest)


async def disk_full(world: World, tally: Tally) -> None:
    """The image does not fit: it fails and says so, the old one serves on, and the next one that fits is deployed."""
    async with _scene(world, tally, "disk full"):
        await world.notify(await world.pushed(Image("too big", ballast=DISK)))
        await until(lambda: _settled(world))
        newest = (await world.rows())[0]
        if newest["state"] != "failed" or newest["reason"]["code"] != "no_space":
            raise Violation(f"a full disk is told as {newest['state']}: {newest['reason']}")
        await world.one_serves(world.served[-1])
        await world.ends(await world.ask(Asked.PUSH))


async def _settled(world: World) -> bool | None:
    return await world.settled() or None


#: bytes of the small disk
DISK = 96 * 1024**2


async def kills_each_gateway(world: World, tally: Tally) -> None:
    """Whatever a rollout does first ends its gateway, before the swap and in it: it ends, and the next one is done."""
    for at in (0, _IN_THE_SWAP):
        async with _scene(world, tally, "each gateway killed"):
            await world.struck(strikes.KILL.on(world), Asked.PUSH, at, after=False)
            for _ in range(_MORE_THAN_ENOUGH):
                await world.gateway.stop()
                world.proxy.arm(strikes.KILL.on(world), 0, after=False)
                await world.gateway.start()
                if not await _is_struck_again(world):
                    break
            world.proxy.disarm()
            await until(lambda: _settled(world))
            newest = (await world.rows())[0]
            if newest["state"] != "failed" or newest["reason"]["code"] != "gateway_killed":
                raise Violation(f"what kills each gateway is told as {newest['state']}: {newest['reason']}")
            await world.ends(await world.ask(Asked.PUSH))


_IN_THE_SWAP = 5  # the call that stops the old one, or one beside it
_MORE_THAN_ENOUGH = 20  # gateways


async def _is_struck_again(world: World) -> bool:
    """Return once the gateway is killed, or has ended what kills it."""

    async def looked() -> bool | None:
        return True if world.proxy.struck.is_set() else False if await world.settled() else None

    return await until(looked)


async def few_connections(world: World, tally: Tally) -> None:
    """The database has three connections for the gateway, which is told of push after push."""
    async with _scene(world, tally, "twenty pushes, three connections"):
        await world.database.let_in(3)
        before = world.count
        for _ in range(19):
            await world.notify(await world.pushed())
        await world.notify(digest := await world.pushed())
        world.count = before + 1  # those that came while another waited have joined it
        await world.ends(digest)
        await world.database.refuse_nothing()


#: serves until it is told that it is sick, and never again
_SICK_LATER = (
    b"#!/bin/busybox sh\n[ -f /sick ] && exit 5\n/bin/busybox httpd -f -p 8080 -h /www &\n"
    b"trap 'kill $!; exit 0' TERM\nwhile [ ! -f /sick ]; do /bin/busybox sleep 0.05; done; exit 4\n"
)


async def crash_loops(world: World, tally: Tally) -> None:
    """A new one that loops is put back; one that serves and then loops is replaced by the next that is well."""
    async with _scene(world, tally, "new one in a crash loop"):
        await world.notify(await world.pushed(Image(f"{world.app} loops {world.count}", Behaviour.EXITS)))
        await until(lambda: _settled(world))
        newest = (await world.rows())[0]
        if newest["state"] not in {"failed", "rolled_back"} or newest["reason"]["code"] != "exited":
            raise Violation(f"a crash loop is told as {newest['state']}: {newest['reason']}")
        await world.one_serves(world.served[-1])
    async with _scene(world, tally, "old one in a crash loop"):
        sick = await world.pushed(Image(f"{world.app} sick {world.count}", files={"entry": _SICK_LATER}))
        await world.notify(sick)
        await world.ends(sick)
        await world.inside("touch", "/sick")

        async def loops() -> bool | None:
            found = await containers.inspect(world.engine, await world.name())
            return True if found is not None and found.restarting else None

        await until(loops)
        await world.ends(await world.ask(Asked.PUSH))


async def networks_made_anew(world: World, tally: Tally) -> None:
    """A stopped application is started, and a kept version recalled, after their network was made anew."""
    if world.order is not Order.START_FIRST:
        return
    async with _scene(world, tally, "network made anew"):
        serving, before = world.served[-1], world.served[-2]
        await world.ask_for("stop")
        await _make_network_anew(world)
        await world.ask_for("start")
        await world.one_serves(serving)
        await world.clear_running()
        await _make_network_anew(world)
        back = await world.ask(Asked.ROLLBACK)
        if back != before:
            raise Violation(f"{before[:19]} should be gone back to, not {back[:19]}")
        await world.ends(back)


async def _make_network_anew(world: World) -> None:
    found = await world.engine.call("GET", f"networks/{world.network}")
    await world.engine.call("DELETE", f"networks/{world.network}")
    body = {"Name": world.network, "IPAM": {"Config": found["IPAM"]["Config"]}}
    await world.engine.call("POST", "networks/create", body=body)


async def deaf_to_sigterm(world: World, tally: Tally) -> None:
    for behaviour in (Behaviour.IGNORES_SIGTERM, Behaviour.SERVES):
        async with _scene(world, tally, "application deaf to SIGTERM"):
            digest = await world.pushed(Image(f"{world.app} {behaviour.name} {world.count}", behaviour))
            await world.notify(digest)
            await world.ends(digest)


async def set_aside_stays_down(world: World, tally: Tally) -> None:
    """What was replaced stays down when the engine starts again, though it was one that is always started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        async with _scene(world, tally, "engine restarted with one set aside"):
            digest = await world.ask(Asked.PUSH)
            await world.ends(digest)
            await world.dockerd.stop(number)
            await world.dockerd.start()
            if number == signal.SIGKILL:
                # Docker 20.10 stops what still runs then, and takes it for stopped by a person: unless-stopped.
                await world.ask_for("start")
            await world.until_somebody_answers()
            await world.one_serves(digest)


async def two_engines_of_one_id(world: World, clone: PrivateEngine, tally: Tally) -> None:
    """What runs on one is not missed on the other, and neither waits for the other, or stands for it."""
    async with _scene(world, tally, "two engines of one id"), connect(clone.host) as engine:
        if (await engine.identify()).engine_id != (await world.engine.identify()).engine_id:
            raise RuntimeError("the engines have an id each")
        server = await world.gateway.mutate("server.create", {"name": "clone", "host": clone.host})
        there = replace(
            world, order=Order.STOP_FIRST, dockerd=clone, engine=engine, repository=f"{world.repository}-there",
            server_id=server["serverId"], served=[], app="", count=0, _apps=0,
        )  # fmt: skip
        try:
            await there.begin_anew()
            for one in (world, there, world, there):
                await one.ends(await one.ask(Asked.PUSH))
            await clone.stop()
            await world.ends(await world.ask(Asked.PUSH))
            wanted = await there.ask(Asked.PUSH)
            await asyncio.sleep(_LOOKS)  # while the other one answers to its id
            await clone.start()
            await there.ends(wanted)
            await asyncio.sleep(_LOOKS)  # at the windows of both
            for one in (world, there):
                await one.one_serves(one.served[-1])
                if len(await one.rows()) != one.count:
                    raise Violation(f"{one.app} was deployed without being asked: {(await one.rows())[0]}")
        finally:
            await there.clear()


async def image_set_by_hand(world: World, tally: Tally) -> None:
    """Somebody sets another image around each call of an update: nothing is said to serve that does not."""
    at, called = 0, True
    while called:
        for after in (False, True):
            async with _scene(world, tally, "image set by hand"):
                wanted, call = await world.struck(SET_IMAGE.on(world), Asked.PUSH, at, after=after)
                world.proxy.disarm()
                called = call is not None
                await until(lambda: _settled(world))
                (newest, *_) = await world.rows()
                if newest["state"] == "succeeded":
                    await world.one_serves(wanted)
                await world.ends(await world.ask(Asked.PUSH))
        at += 1


async def two_gateways(world: World, tally: Tally, *, pushes: int = 6) -> None:
    """Two work on one queue, and one is killed at last: each push is deployed, none twice."""
    async with world.second_gateway():
        for number in range(pushes):
            async with _scene(world, tally, "two gateways at once"):
                digest = await world.ask(Asked.PUSH)
                if number == pushes - 1:
                    os.kill(world.gateway.pid, signal.SIGKILL)
                    await world.gateway.stop()
                    await world.gateway.start()
                await world.ends(digest)


async def backup_of_an_earlier_moment(world: World, tally: Tally) -> None:
    """What was deployed after a backup serves on when it is restored, whatever was under way in it, until a push."""
    for at in itertools.count():
        async with _scene(world, tally, "a backup of an earlier moment"):
            wanted, call = await world.struck(strikes.BACKED_UP.on(world), Asked.PUSH, at, after=False)
            await world.ends(wanted)
            if call is None:
                return
            newer = await world.ask(Asked.PUSH)
            await world.ends(newer)
            before = await _serving(world)
            await world.gateway.stop()
            await world.restore()
            await world.gateway.start()
            world.count -= 1  # the backup does not know the newest

            async def ended() -> bool | None:
                return await world.settled() or None

            await until(ended)
            await world.one_serves(newer)
            if (after := await _serving(world)) != before:
                raise Violation(f"backed up before call {at} ({call}): {before} was replaced by {after}")
            await world.ends(await world.ask(Asked.PUSH))


async def _serving(world: World) -> list[str]:
    found = await containers.list_labelled(world.engine, world.app)
    return [one.container_id for one in found if one.running]
