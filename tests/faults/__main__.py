"""`make faults` and `make soak`: faults on engines of their own, counted; exit code 1 when anything was lost."""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

from gateway.cli.demo.engine import private_engine
from gateway.cli.demo.images import Behaviour
from gateway.cli.demo.process import free_port
from gateway.cli.demo.registry import PrivateRegistry, private_registry
from gateway.model.configuration import Order
from gateway.store.embedded_postgres import embedded_postgres
from tests.faults import meddling, scenes, strikes
from tests.faults.database import small_disk
from tests.faults.matrix import Tally, at_every_call, strike_once
from tests.faults.outbox_world import through_kills
from tests.faults.promotion_world import (
    PromotionWorld,
    at_calls_of_a_promotion,
    at_moments_of_a_promotion,
    promotion_world,
)
from tests.faults.promotion_world import Scene as PromotionScene
from tests.faults.release_world import Bad, ReleaseWorld, Scene, at_calls_of_a_release, release_world
from tests.faults.restored_world import restored_under_load
from tests.faults.service_world import service_world
from tests.faults.wire import wire
from tests.faults.world import Asked, World, world
from tests.support import leftovers
from tests.support.real_parts import SIDE_BY_SIDE

Part = Callable[[PrivateRegistry, Path, Tally], Awaitable[None]]

AROUND = (False, True)
#: faults that leave the engine as it is, and where they strike
GATEWAY = (
    *((strikes.KILL, asked, after) for asked in Asked for after in AROUND),
    *((strikes.TERMINATE, Asked.PUSH, after) for after in AROUND),
    *((strikes.FROZEN, Asked.PUSH, after) for after in AROUND),
    (strikes.KILL_LATE, Asked.PUSH, False),
)
WARM = tuple((fault, Asked.PUSH, after) for fault in (strikes.KILL, strikes.TERMINATE) for after in AROUND)
DATABASE = tuple(
    (fault, Asked.PUSH, False) for fault in (strikes.DATABASE_RESTARTED, strikes.DATABASE_CUT, strikes.DATABASE_STALLED)
)
REFUSALS = tuple((fault, Asked.PUSH, False) for fault in strikes.REFUSALS)
#: of a soak: mostly kills
AT_RANDOM = (*(strikes.KILL,) * 12, *strikes.REFUSALS, *meddling.MEDDLING, strikes.ENGINE_RESTARTED)
ENGINE = tuple(
    (fault, Asked.PUSH, after) for fault in (strikes.ENGINE_STOPPED, strikes.ENGINE_KILLED) for after in AROUND
)


RESTORED = tuple((strikes.RESTORED, asked, after) for asked in Asked for after in AROUND)
RESTARTED = tuple((strikes.ENGINE_RESTARTED, asked, after) for asked in Asked for after in AROUND)
PERSON = (
    *((fault, Asked.PUSH, after) for fault in meddling.MEDDLING for after in AROUND),
    (meddling.PRUNED, Asked.ROLLBACK, False),
)


def every(
    order: Order,
    faults: tuple[tuple[strikes.Fault, Asked, bool], ...],
    *,
    always: bool = False,
    warm: bool = False,
    behaviour: Behaviour = Behaviour.SERVES,
) -> Part:
    async def part(registry: PrivateRegistry, directory: Path, tally: Tally) -> None:
        async with (
            private_engine(arguments=SIDE_BY_SIDE) as dockerd,
            world(order, dockerd, f"{registry.address}/{directory.name}", directory, always=always) as one,
        ):
            one.behaviour, one.warm = behaviour, warm
            for fault, asked, after in faults:
                await at_every_call(one, tally, fault, asked, after=after)
            if always:
                await scenes.set_aside_stays_down(one, tally)
            elif faults is RESTORED:
                await scenes.backup_of_an_earlier_moment(one, tally)
            elif faults is PERSON:
                await scenes.crash_loops(one, tally)
                await scenes.networks_made_anew(one, tally)
            elif faults is REFUSALS:
                await scenes.few_connections(one, tally)
                await scenes.kills_each_gateway(one, tally)
            else:
                await scenes.deaf_to_sigterm(one, tally)

    return part


def every_service(order: Order) -> Part:
    async def part(_registry: PrivateRegistry, directory: Path, tally: Tally) -> None:
        async with service_world(order, directory) as one:
            for fault, asked, after in (*GATEWAY, *DATABASE, *ENGINE):
                await at_every_call(one, tally, fault, asked, after=after)

    return part


def meddled_service(order: Order) -> Part:
    async def part(_registry: PrivateRegistry, directory: Path, tally: Tally) -> None:
        async with service_world(order, directory) as one:
            for fault in (strikes.SERVICE_REMOVED, strikes.ENGINE_RESTARTED):
                for after in AROUND:
                    await at_every_call(one, tally, fault, Asked.PUSH, after=after)
            await scenes.image_set_by_hand(one, tally)

    return part


async def clones(registry: PrivateRegistry, directory: Path, tally: Tally) -> None:
    """Engines of one machine read one key, and so have one id."""
    async with (
        private_engine(arguments=SIDE_BY_SIDE) as dockerd,
        private_engine(arguments=SIDE_BY_SIDE) as clone,
        world(Order.START_FIRST, dockerd, f"{registry.address}/clones", directory) as one,
    ):
        await scenes.two_engines_of_one_id(one, clone, tally)


async def twins(registry: PrivateRegistry, directory: Path, tally: Tally) -> None:
    async with private_engine(arguments=SIDE_BY_SIDE) as dockerd:
        for order in Order:
            async with world(order, dockerd, f"{registry.address}/twins-{order}", directory / order) as one:
                await scenes.two_gateways(one, tally)


Strikes = Callable[[ReleaseWorld, Tally], Awaitable[None]]


def releases(strike_all: Strikes) -> Part:
    """Ten applications in three waves on an engine of their own."""

    async def part(registry: PrivateRegistry, directory: Path, tally: Tally) -> None:
        async with (
            private_engine(arguments=SIDE_BY_SIDE) as dockerd,
            release_world(dockerd, f"{registry.address}/{directory.name}", directory) as one,
        ):
            await strike_all(one, tally)

    return part


def killed(*, after: bool) -> Strikes:
    async def strike_all(one: ReleaseWorld, tally: Tally) -> None:
        await at_calls_of_a_release(one, tally, strikes.KILL, Scene(), first=int(after), step=2)

    return strike_all


def killed_with(bad: Bad) -> Strikes:
    async def strike_all(one: ReleaseWorld, tally: Tally) -> None:
        for wave in (1, 2, 3):
            await at_calls_of_a_release(one, tally, strikes.KILL, Scene(bad, wave), first=wave, step=9)

    return strike_all


async def disturbed(one: ReleaseWorld, tally: Tally) -> None:
    for fault in (strikes.TERMINATE, strikes.FROZEN, strikes.DATABASE_RESTARTED, strikes.DATABASE_CUT):
        for scene in (Scene(), Scene(Bad.EXITS, 3)):
            await at_calls_of_a_release(one, tally, fault, scene, first=5, step=23)


def promotion(strike_all: Callable[[PromotionWorld, Tally], Awaitable[None]]) -> Part:
    """Staging and production on an engine of their own."""

    async def part(registry: PrivateRegistry, directory: Path, tally: Tally) -> None:
        async with (
            private_engine(arguments=SIDE_BY_SIDE) as dockerd,
            promotion_world(dockerd, f"{registry.address}/{directory.name}", directory) as one,
        ):
            await strike_all(one, tally)

    return part


def promoted(scene: PromotionScene) -> Part:
    async def strike_all(one: PromotionWorld, tally: Tally) -> None:
        for after in AROUND:
            await at_calls_of_a_promotion(one, tally, strikes.KILL, scene, after=after)

    return promotion(strike_all)


async def while_it_is_proven(one: PromotionWorld, tally: Tally) -> None:
    for fault in (strikes.KILL, strikes.TERMINATE, strikes.FROZEN, strikes.DATABASE_RESTARTED):
        await at_moments_of_a_promotion(one, tally, fault, every=1 if fault is strikes.KILL else 4)


async def told(_registry: PrivateRegistry, directory: Path, tally: Tally) -> None:
    """10,000 events through 50 kills, to receivers that are down, slow, and answer 429 and 5xx."""
    events, kills = int(os.environ.get("EVENTS", "10000")), int(os.environ.get("KILLS", "50"))
    await through_kills(directory, tally, events=events, kills=kills)


async def many_restored(registry: PrivateRegistry, directory: Path, tally: Tally) -> None:
    """Nine applications under pushes, restored elsewhere ROUNDS=10 times."""
    rounds = int(os.environ.get("ROUNDS", "10"))
    async with private_engine(arguments=SIDE_BY_SIDE) as dockerd, embedded_postgres(directory / "server") as server:
        await restored_under_load(dockerd, registry, server, directory.name, directory / "world", tally, rounds=rounds)


async def supplies(registry: PrivateRegistry, directory: Path, tally: Tally) -> None:
    """What images come from, and what they are kept on."""
    host, _, port = registry.address.rpartition(":")
    async with (
        wire(lambda: asyncio.open_connection(host, int(port))) as leads_there,
        small_disk(directory / "disk", scenes.DISK) as disk,
        private_engine(arguments=(*SIDE_BY_SIDE, "--data-root", str(disk))) as dockerd,
        world(Order.STOP_FIRST, dockerd, f"127.0.0.1:{leads_there.port}/supplies", directory / "world") as one,
    ):
        await scenes.registry_breaks(one, tally, leads_there)
        await scenes.disk_full(one, tally)


PARTS: dict[str, Part] = {
    **{f"gateway-{order}": every(order, GATEWAY) for order in Order},
    "gateway-warm": every(Order.STOP_FIRST, WARM, warm=True),
    **{f"database-{order}": every(order, DATABASE) for order in Order},
    **{f"refusals-{order}": every(order, REFUSALS) for order in Order},
    **{f"engine-{order}": every(order, ENGINE, always=True) for order in Order},
    **{f"restarted-{order}": every(order, RESTARTED, behaviour=Behaviour.FINISHES) for order in Order},
    **{f"restored-{order}": every(order, RESTORED) for order in Order},
    **{f"person-{order}": every(order, PERSON) for order in Order},
    **{f"service-{order}": every_service(order) for order in Order},
    **{f"meddled-service-{order}": meddled_service(order) for order in Order},
    "restored-many": many_restored,
    "clones": clones,
    "twins": twins,
    "supplies": supplies,
    "releases-before": releases(killed(after=False)),
    "releases-after": releases(killed(after=True)),
    **{f"releases-{bad.name.lower()}": releases(killed_with(bad)) for bad in Bad},
    "releases-disturbed": releases(disturbed),
    **{f"promotion-{scene.name.lower()}": promoted(scene) for scene in PromotionScene},
    "promotion-proving": promotion(while_it_is_proven),
    "outbox": told,
}


async def faults(names: list[str], directory: Path) -> bool:
    tally, at_once = Tally(), asyncio.Semaphore(os.cpu_count() or 1)
    async with private_registry(directory / "registry", free_port()) as registry:

        async def run(name: str) -> None:
            async with at_once:
                began = time.monotonic()
                try:
                    await PARTS[name](registry, directory / name, tally)
                except Exception as error:  # the other parts go on
                    traceback.print_exc()
                    tally.violated(f"{name} ended early: {error!r}")
                print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)  # noqa: T201

        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(run(name), name=name)
    return tally.show()


async def soak(minutes: float, directory: Path) -> bool:
    """Strike at random for so many minutes, in both orders at once: kills, a database that refuses, a person's hand."""
    tally, began = Tally(), time.monotonic()

    async def kill_on(one: World) -> None:
        while time.monotonic() - began < minutes * 60:
            asked, at, after = random.choice(list(Asked)), random.randrange(13), random.choice(AROUND)
            await strike_once(one, tally, random.choice(AT_RANDOM), asked, at, after=after)

    async def run(registry: PrivateRegistry, number: int, order: Order) -> None:
        name = f"soak-{number}-{order}"
        async with (
            private_engine(arguments=SIDE_BY_SIDE) as dockerd,
            world(order, dockerd, f"{registry.address}/{name}", directory / name) as one,
        ):
            await kill_on(one)

    async with (
        private_registry(directory / "registry", free_port()) as registry,
        asyncio.TaskGroup() as group,
    ):
        for number in range(os.cpu_count() or 1):
            for order in Order:
                group.create_task(run(registry, number, order))
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")  # noqa: T201
    return tally.show()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("part", nargs="*", choices=[[], *PARTS], help="all, where none is named")
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    given = parser.parse_args()
    leftovers.start_watcher()
    with tempfile.TemporaryDirectory(prefix="gateway-faults-") as place:
        directory = Path(place)
        kept = soak(given.soak, directory) if given.soak else faults(given.part or list(PARTS), directory)
        return 0 if asyncio.run(kept) else 1


sys.exit(main())
