"""Applications that go out together: struck at any call, all of them run the new version at the end, or none does."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import aiohttp

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.images import Behaviour, Image, push
from gateway.cli.demo.process import FINISHED, GatewayProcess, Refused, free_port, until
from gateway.docker.container import names
from gateway.docker.engine import containers
from gateway.model.configuration import Order
from gateway.model.reference import Digest
from tests.faults.matrix import Tally
from tests.faults.strikes import Fault
from tests.faults.world import SETTINGS, Violation, World, lost, world

_WITHIN = 300.0  # seconds for a release, on a busy machine
_SWEPT_WITHIN = 90.0  # seconds; the state monitor looks once a minute


class Bad(Enum):
    """What is wrong with one member."""

    CANNOT_PULL = "cannot be pulled"
    EXITS = "exits at once"
    UNHEALTHY = "never becomes healthy"


@dataclass(frozen=True)
class Scene:
    """What is wrong with the first member of which wave; None: nothing."""

    bad: Bad | None = None
    wave: int = 1

    def __str__(self) -> str:
        return "all good" if self.bad is None else f"one of wave {self.wave} {self.bad.value}"


@dataclass
class ReleaseWorld(World):
    """Applications in three waves: every other one starts its new version first."""

    size: int = 10
    group: str = ""
    #: the digests that serve, and those that the tags name, by application
    old: dict[str, Digest] = field(default_factory=dict)
    new: dict[str, Digest] = field(default_factory=dict)
    pushed_for: Scene = field(default_factory=Scene)

    @property
    def members(self) -> list[str]:
        return [f"member-{self._apps}-{number}" for number in range(self.size)]

    def wave(self, name: str) -> int:
        return 1 + self.members.index(name) * 3 // self.size

    def image_of(self, name: str) -> str:
        return f"{self.repository}-{name}:latest"

    async def begin_anew(self) -> None:
        """Take other applications, which all serve a first version."""
        if self.group:
            await self._give_up()
        await self.clear()
        self._apps += 1
        self.old.clear()
        self.new.clear()
        await self.push_all(Scene())
        for number, name in enumerate(self.members):
            shown: dict[str, Any] = {
                "order": "stop-first",
                "ports": [{"targetPort": 8080, "publishedPort": free_port()}],
            }
            if number % 2:
                shown = {"order": "start-first", "networks": [self.network]}
            made = {"name": name, "applicationId": name, "dockerImage": self.image_of(name), "stopGrace": 1, "drain": 0}
            await self.gateway.mutate("application.create", {**made, **shown})
        members = [{"applicationId": name, "wave": self.wave(name)} for name in self.members]
        made = await self.gateway.mutate("group.create", {"name": f"group {self._apps}", "members": members})
        self.group = made["groupId"]
        await self.gateway.mutate("release.create", {"groupId": self.group})
        await self.released(Scene())

    async def _give_up(self) -> None:
        """End what goes on after a violation."""
        (newest, *_) = await self.gateway.query("release.all", groupId=self.group)
        if newest["finishedAt"] is None:
            await self.gateway.mutate("release.cancel", {"releaseId": newest["releaseId"]})
            await until(self.has_ended, within=_WITHIN)

    async def clear(self) -> None:
        for name in self.members if self._apps else ():
            for container in await containers.list_labelled(self.engine, name):
                await containers.remove(self.engine, container.container_id)

    async def push_all(self, scene: Scene) -> None:
        """Push the next version of each."""
        self._versions += 1
        bad = self._bad_one(scene)
        for name in self.members:
            image = Image(f"{name} {self._versions}")
            if name == bad and scene.bad is Bad.EXITS:
                image = Image(f"{name} {self._versions}", Behaviour.EXITS)
            elif name == bad and scene.bad is Bad.UNHEALTHY:
                image = Image(f"{name} {self._versions}", health="exit 1")
            self.new[name] = await push(image, self.image_of(name))
        self.pushed_for = scene

    def _bad_one(self, scene: Scene) -> str | None:
        return None if scene.bad is None else next(one for one in self.members if self.wave(one) == scene.wave)

    async def newest(self) -> str:
        """Return the newest release."""
        (newest, *_) = await self._patient(lambda: self.gateway.query("release.all", groupId=self.group))
        return str(newest["releaseId"])

    async def release(self, scene: Scene) -> None:
        """Ask for a release of new versions, of which one is bad."""
        wishes = [{"applicationId": self._bad_one(scene), "tag": "nowhere"}] if scene.bad is Bad.CANNOT_PULL else []
        with suppress(aiohttp.ClientError):  # struck already: it was taken, and the answer was lost
            await self.gateway.mutate("release.create", {"groupId": self.group, "members": wishes})

    async def has_ended(self, told_by: GatewayProcess | None = None) -> dict[str, Any] | None:
        """Return the newest release once it has ended, and all deployments with it."""
        gateway = told_by or self.gateway
        with suppress(aiohttp.ClientError, OSError, Refused):
            (newest, *_) = await gateway.query("release.all", groupId=self.group)
            if newest["finishedAt"] is not None:
                for name in self.members:
                    if not all(one["state"] in FINISHED for one in await gateway.deployments(name)):
                        return None
                found: dict[str, Any] = newest
                return found
        return None

    async def settled(self, told_by: GatewayProcess | None = None) -> bool:
        return await self.has_ended(told_by) is not None

    async def somebody_answers(self) -> None:
        """Look at nothing: each member is asked at the end."""

    async def until_somebody_answers(self, *, within: float = 30) -> None:
        """Look at nothing, as above."""

    async def released(self, scene: Scene) -> None:
        """Wait for the end; raises Violation unless all run the new version, or with a bad member all the old one."""
        try:
            ended = await until(self.has_ended, within=_WITHIN)
        except TimeoutError:
            (newest, *_) = await self.gateway.query("release.all", groupId=self.group)
            found = await self._one(newest)
            going = [(await self.gateway.deployments(name))[0] for name in self.members]
            why = [f"{one['kind']} {one['state']} {one['attempts']} {one['reason']}" for one in going]
            raise Violation(f"not ended after {_WITHIN:.0f} s: {_shown(found)}; {why}") from None
        expected = ("succeeded", self.new) if scene.bad is None else ("put_back", self.old)
        await self._until_swept()
        serving = {name: await self.serving_of(name) for name in self.members}
        if serving not in (self.old, self.new):
            raise Violation(f"mixed: {ended['state']}, {_shown(await self._one(ended))}")
        if (ended["state"], serving) != expected:
            raise Violation(f"it should have {expected[0]}: {ended['state']} {ended['reason']}")
        if await self.database.count("SELECT count(*) FROM swaps"):
            raise Violation("a swap is still open")
        self.old = dict(serving)

    async def _until_swept(self) -> None:
        """Wait while a container is there that never ran: a call of a killed gateway may be made after the end."""

        async def swept() -> bool | None:
            found = [one for name in self.members for one in await containers.list_labelled(self.engine, name)]
            return None if any(names.NEW in one.name and not one.running for one in found) else True

        with suppress(TimeoutError):  # then it is a violation
            await until(swept, within=_SWEPT_WITHIN)

    async def _one(self, ended: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = await self.gateway.query("release.one", releaseId=ended["releaseId"])
        return found

    async def serving_of(self, name: str) -> Digest:
        """Return what serves; raises Violation unless it is alone, with at most one kept, down for good."""
        found = await containers.list_labelled(self.engine, name)
        serving = [one for one in found if one.running or one.restarting]
        kept = [one for one in found if one not in serving]
        stray = any(".old." not in one.name or one.restart_policy["Name"] != "no" for one in kept)
        if len(serving) != 1 or len(kept) > 1 or stray:
            raise Violation(f"{name}: {[(one.name, one.running) for one in found]}")
        if not await self.answers(serving[0]):
            raise Violation(f"{name} does not answer")
        return Digest(serving[0].labels["gateway.digest"])


def _shown(found: dict[str, Any]) -> str:
    members = ", ".join(f"{one['name']} {one['state']}" for one in found["members"])
    return f"{found['state']} {found['reason']}: {members}"


async def strike_release(one: ReleaseWorld, tally: Tally, fault: Fault, scene: Scene, at: int, *, after: bool) -> bool:
    """Strike at one call of a release and look at what is left; False where there is no such call."""
    where = f"{fault.name} {'after' if after else 'before'} call {at} of a release, {scene}"
    call = None
    try:
        if one.old == one.new or one.pushed_for != scene:
            await one.push_all(scene)
        before = await one.newest()
        one.proxy.arm(fault.on(one), at, after=after)
        await one.release(scene)
        await first_of(one.proxy.struck.wait(), until(one.has_ended, within=_WITHIN))
        call = one.proxy.fired
        if call is None:
            one.proxy.disarm()
        else:
            tally.count(f"{fault.name}, {scene}", call)
            await one.proxy.made.wait()
            await fault.mend(one)
            if await one.newest() == before:  # it was struck while it cleaned up, before it was asked
                await one.release(scene)
        await one.released(scene)
    except Exception as error:
        if (said := lost(error)) is None:
            raise
        tally.violated(f"{where} ({call}): {said}")
        await one.revive()
        await one.begin_anew()
    finally:
        one.proxy.disarm()
    return call is not None


async def first_of(*awaited: Coroutine[Any, Any, object]) -> None:
    looking = [asyncio.create_task(one) for one in awaited]
    try:
        await asyncio.wait(looking, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)


async def at_calls_of_a_release(
    one: ReleaseWorld, tally: Tally, fault: Fault, scene: Scene, *, first: int = 0, step: int = 1
) -> None:
    """Strike at every `step`-th call, before and after it in turn."""
    at, after = first, bool(first % 2)
    while await strike_release(one, tally, fault, scene, at, after=after):
        at, after = at + step, not after if step % 2 else after


@asynccontextmanager
async def release_world(
    dockerd: PrivateEngine, repository: str, directory: Path, *, size: int = 10
) -> AsyncIterator[ReleaseWorld]:
    class Sized(ReleaseWorld):
        async def begin_anew(self) -> None:
            self.size = size
            await super().begin_anew()

    # Of many pulls at once, one may wait for longer than a single one does.
    settings = {**SETTINGS, "GATEWAY_PULL_STALL": "10"}
    async with world(Order.STOP_FIRST, dockerd, repository, directory, kind=Sized, settings=settings) as one:
        assert isinstance(one, ReleaseWorld)
        yield one
