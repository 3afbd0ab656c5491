"""Staging, and production, which follows it: struck anywhere, production gets what staging has proven, that alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from gateway.cli.demo.engine import PrivateEngine
from gateway.cli.demo.images import Behaviour, Image, push
from gateway.cli.demo.process import FINISHED, Refused, free_port, until
from gateway.docker.engine import containers
from gateway.docker.engine.labels import APPLICATION, DIGEST
from gateway.model.configuration import Order
from gateway.model.reference import Digest
from tests.faults.matrix import Tally
from tests.faults.release_world import first_of
from tests.faults.strikes import Fault
from tests.faults.world import Violation, World, lost, world

_WITHIN = 300.0  # seconds from a push to staging until production runs it, on a busy machine
_SOAK = 2  # seconds


class Scene(Enum):
    """What is brought while a fault strikes, and so whether production gets it."""

    GOOD = "a version that runs well on staging"
    BAD = "a version that staging puts back"
    UNPROVEN = "a person deploys to production what staging never ran"

    @property
    def is_promoted(self) -> bool:
        return self is Scene.GOOD


@dataclass
class PromotionWorld(World):
    """`app` is staging, which is told of pushes; production gets images by promotion alone. Both serve `serving`."""

    production: str = ""
    serving: Digest | None = None
    #: what staging has proven
    proven: set[Digest] = field(default_factory=set)
    #: when the engine's events were looked at last, in seconds
    _looked: float = 0.0

    async def begin_anew(self) -> None:
        """Take two other applications, which both serve a first version."""
        await self.clear()
        self._apps += 1
        self.app, self.production, self.count = f"staging-{self._apps}", f"production-{self._apps}", 0
        self.image = f"{self.repository}-{self._apps}:latest"
        self.proven.clear()
        self._unanswered = None
        for name in (self.app, self.production):
            made = {"name": name, "applicationId": name, "dockerImage": self.image, "stopGrace": 1}
            ports = [{"targetPort": 8080, "publishedPort": free_port()}]
            await self.gateway.mutate(
                "application.create", {**made, "ports": ports, "autoDeploy": name == self.app, "watch": 0}
            )
        rule = {"follows": self.app, "soak": f"{_SOAK}s"}
        await self.gateway.mutate("gate.create", {"applicationId": self.production, "kind": "promotion", "rule": rule})
        self._looked = datetime.now(UTC).timestamp()
        await self.comes_true(Scene.GOOD, await self.bring(Scene.GOOD))

    async def clear(self) -> None:
        for name in (self.app, self.production) if self._apps else ():
            for container in await containers.list_labelled(self.engine, name):
                await containers.remove(self.engine, container.container_id)

    async def bring(self, scene: Scene) -> Digest:
        """Push a version to staging, or let a person deploy one to production; return its digest."""
        if scene is not Scene.UNPROVEN:
            behaviour = Behaviour.SERVES if scene is Scene.GOOD else Behaviour.EXITS
            digest = await self.pushed(Image(f"{self.app} {self._versions + 1}", behaviour))
            await self.notify(digest)
            return digest
        self._versions += 1
        other = self.image.removesuffix("latest") + "other"
        digest = await push(Image(f"{self.app} {self._versions}"), other)
        with suppress(aiohttp.ClientError):  # struck already: it was taken, and the answer was lost
            await self.gateway.mutate("application.deploy", {"applicationId": self.production, "dockerImage": other})
        return digest

    async def somebody_answers(self) -> None:
        """Look at nothing: both are asked at the end."""

    async def until_somebody_answers(self, *, within: float = 30) -> None:
        """Look at nothing, as above."""

    async def has_come(self, scene: Scene, digest: Digest) -> bool | None:
        """Tell whether all has ended, and production has had its chance of this digest."""
        with suppress(aiohttp.ClientError, OSError, Refused):
            for name in (self.app, self.production):
                if not all(one["state"] in FINISHED for one in await self.gateway.deployments(name)):
                    return None
            if scene is Scene.GOOD:
                rows = await self.gateway.query("promotion.all", applicationId=self.production)
                return any((one["digest"], one["state"]) == (digest, "promoted") for one in rows) or None
            there = self.app if scene is Scene.BAD else self.production
            return any(one["digest"] == digest for one in await self.gateway.deployments(there)) or None
        return None

    async def comes_true(self, scene: Scene, digest: Digest) -> None:
        """Wait for the end; raises Violation unless both run what they should, and production ran nothing unproven."""
        try:
            await until(lambda: self.has_come(scene, digest), within=_WITHIN)
        except TimeoutError:
            rows = await self._patient(lambda: self.gateway.query("promotion.all", applicationId=self.production))
            going = [(await self.gateway.deployments(name))[:1] for name in (self.app, self.production)]
            told = [f"{one['kind']} {one['state']} {one['digest']} {one['reason']}" for it in going for one in it]
            raise Violation(f"{digest} has not come after {_WITHIN:.0f} s: {told}; {rows[:2]}") from None
        if scene.is_promoted:
            self.serving = digest
            self.proven.add(digest)
        await self._nothing_unproven_ran()
        for name in (self.app, self.production):
            await self._serves(name)
        if await self.database.count("SELECT count(*) FROM swaps"):
            raise Violation("a swap is still open")

    async def _serves(self, name: str) -> None:
        found = await containers.list_labelled(self.engine, name)
        serving = [one for one in found if one.running or one.restarting]
        if [one.labels[DIGEST] for one in serving] != [self.serving]:
            raise Violation(f"{name} should run {self.serving} alone: {[(one.name, one.running) for one in found]}")
        if not await self.answers(serving[0]):
            raise Violation(f"{name} does not answer")

    async def _nothing_unproven_ran(self) -> None:
        """Raises Violation where production started what staging had not run for the soak before.

        The engine itself tells what was started, and when.
        """
        since, self._looked = self._looked, datetime.now(UTC).timestamp() + 1
        filters = orjson.dumps({"event": ["start"], "label": [APPLICATION]}).decode()
        params = {"since": f"{since - 1:.3f}", "until": f"{self._looked:.3f}", "filters": filters}
        async with self.engine._query("events", "GET", params=params) as answer:  # noqa: SLF001 - a stream with an end
            events = [orjson.loads(line) for line in (await answer.text()).splitlines()]
        staged: dict[str, int] = {}
        for one in events:
            labels, at = one["Actor"]["Attributes"], int(one["timeNano"])
            digest = labels.get(DIGEST)
            if labels[APPLICATION] == self.app:
                staged[digest] = at
            elif labels[APPLICATION] == self.production:
                ran = (at - staged[digest]) / 1e9 if digest in staged else None
                if digest not in self.proven or (ran is not None and digest == self.serving and ran < _SOAK):
                    raise Violation(f"production started {digest}, which staging had run for {ran} s")


async def strike_promotion(
    one: PromotionWorld, tally: Tally, fault: Fault, scene: Scene, at: int, *, after: bool
) -> bool:
    """Strike at one call while a version is brought, and look at what is left; False where there is no such call."""
    call = None

    async def strike(wanted: list[Digest]) -> None:
        nonlocal call
        one.proxy.arm(fault.on(one), at, after=after)
        wanted.append(await one.bring(scene))
        await first_of(one.proxy.struck.wait(), until(lambda: one.has_come(scene, wanted[0]), within=_WITHIN))
        call = one.proxy.fired
        if call is None:
            one.proxy.disarm()
        else:
            tally.count(f"{fault.name}, {scene.value}", call)
            await one.proxy.made.wait()
            await fault.mend(one)

    where = f"{fault.name} {'after' if after else 'before'} call {at} of a promotion, {scene.value}"
    await _struck(one, tally, where, scene, strike)
    return call is not None


async def strike_between(one: PromotionWorld, tally: Tally, fault: Fault, delay: float) -> bool:
    """Strike so many seconds after staging has got a version; False where production had got it before."""
    early = True

    async def strike(wanted: list[Digest]) -> None:
        nonlocal early
        wanted.append(await one.bring(Scene.GOOD))
        await until(lambda: _is_staged(one, wanted[0]))
        await asyncio.sleep(delay)
        early = not await one.has_come(Scene.GOOD, wanted[0])
        tally.count(f"{fault.name}, while it is proven", f"after {delay:.1f} s")
        await fault.strike(one)
        await fault.mend(one)

    await _struck(one, tally, f"{fault.name} {delay:.1f} s after staging got it", Scene.GOOD, strike)
    return early


async def at_calls_of_a_promotion(
    one: PromotionWorld, tally: Tally, fault: Fault, scene: Scene, *, after: bool, first: int = 0, step: int = 1
) -> None:
    """Strike at every `step`-th call."""
    at = first
    while await strike_promotion(one, tally, fault, scene, at, after=after):
        at += step


async def at_moments_of_a_promotion(one: PromotionWorld, tally: Tally, fault: Fault, *, every: float) -> None:
    """Strike later and later, until production has got the version before."""
    delay = 0.0
    while await strike_between(one, tally, fault, delay):
        delay += every


async def _is_staged(one: PromotionWorld, digest: Digest) -> bool | None:
    newest = (await one.rows())[0]
    return (newest["state"], newest["digest"]) == ("succeeded", digest) or None


async def _struck(one: PromotionWorld, tally: Tally, where: str, scene: Scene, strike: Any) -> None:
    wanted: list[Digest] = []
    try:
        await strike(wanted)
        await one.send_again()
        await one.comes_true(scene, wanted[0])
    except Exception as error:
        if (said := lost(error)) is None:
            raise
        tally.violated(f"{where}: {said}")
        await one.revive()
        await one.begin_anew()
    finally:
        one.proxy.disarm()


@asynccontextmanager
async def promotion_world(dockerd: PrivateEngine, repository: str, directory: Path) -> AsyncIterator[PromotionWorld]:
    async with world(Order.STOP_FIRST, dockerd, repository, directory, kind=PromotionWorld) as one:
        assert isinstance(one, PromotionWorld)
        yield one
