"""Production follows staging: it gets what staging has proven, once, and nothing else."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import pytest

from gateway.model.deployments import Kind, Status
from gateway.model.errors import Code, Postponed
from gateway.model.gates import Verdict
from gateway.model.promotions import PromotionState
from gateway.model.reference import Digest
from gateway.store.database import Pool
from tests.support.api_client import Web
from tests.support.promotion_world import MINUTE, PRODUCTION, SOAK, WINDOW, PromotionWorld, a_digest


async def state(world: PromotionWorld, number: int) -> PromotionState | None:
    one = await world.promotion(number)
    return one.state if one else None


async def proven(web: Web, **rule: object) -> PromotionWorld:
    """Return a world in which staging has just proven the first digest."""
    world = await PromotionWorld.create(web, **rule)
    await world.deploy_staging(1)
    await world.advance(SOAK)
    return world


async def test_production_gets_the_digest_that_staging_has_run_for_the_soak_and_not_before(web: Web) -> None:
    world = await PromotionWorld.create(web)
    await world.deploy_staging(1, window=WINDOW)
    await world.advance(SOAK - MINUTE)
    await world.promote()
    assert await world.queued() is None
    await world.advance(MINUTE)
    await world.promote()
    queued = await world.queued()
    assert queued is not None
    assert (str(queued.reference), queued.forced) == (f"docker.io/acme/production@{a_digest(1)}", False)
    await world.work()
    await world.promote()
    assert (world.ran, await state(world, 1)) == ([a_digest(1)], PromotionState.PROMOTED)
    assert await world.queued() is None
    image = await web.pool.fetchval("SELECT docker_image FROM applications WHERE application_id = 'production'")
    assert image == f"docker.io/acme/production@{a_digest(1)}"


@pytest.mark.parametrize("how", ["newer", "rollback", "stop", "unfollowed"])
async def test_what_waits_is_withdrawn_when_staging_goes_on(web: Web, how: str) -> None:
    world = await proven(web)
    await world.promote()
    match how:
        case "newer":
            await world.deploy_staging(2)
        case "rollback":
            await world.deploy_staging(2)
            await world.advance(SOAK)
            await world.promote()
            assert await state(world, 2) is PromotionState.QUEUED
            assert await world.roll_back_staging()
        case "stop":
            await world.ask_staging(Kind.STOP)
        case _:
            await web.pool.execute("DELETE FROM gates")
    await world.promote()
    assert await world.queued() is None
    assert await state(world, 2 if how == "rollback" else 1) is PromotionState.WITHDRAWN
    if how == "rollback":
        await world.conclude_staging()
        assert (await world.ask_gate(a_digest(2))).verdict is Verdict.REFUSED


async def test_trouble_in_the_window_takes_away_what_was_shown_even_if_nothing_is_rolled_back(web: Web) -> None:
    world = await PromotionWorld.create(web)
    await world.deploy_staging(1, window=2 * SOAK)
    await world.advance(SOAK + MINUTE)
    assert await world.trouble()  # there is no version to go back to
    await world.look()
    await world.advance(SOAK - MINUTE)
    await world.promote()
    assert (await state(world, 1), await world.queued()) == (None, None)
    assert (await world.ask_gate(a_digest(1))).verdict is Verdict.UNKNOWN
    await world.advance(MINUTE)
    await world.promote()
    assert await state(world, 1) is PromotionState.QUEUED


async def test_a_rollout_that_has_begun_goes_on_and_is_told_once(web: Web) -> None:
    world = await proven(web)
    await world.promote()
    await web.pool.execute(
        "UPDATE deployments SET status = 'running', lease_until = now() WHERE application_id = 'production'"
    )
    await world.deploy_staging(2)
    await world.promote()
    await world.promote()
    assert await state(world, 1) is PromotionState.QUEUED
    assert len(world.alerts) == 1
    assert "no longer proven" in world.alerts[0].title


async def test_a_proposal_waits_for_a_person_and_is_promoted_once(web: Web) -> None:
    world = await proven(web, mode="proposal")
    await world.promote()
    await world.promote()
    assert (await state(world, 1), await world.queued(), len(world.alerts)) == (PromotionState.PROPOSED, None, 1)
    assert f"gateway promotions promote production --digest {a_digest(1)}" in world.alerts[0].body


async def test_a_digest_that_the_registry_lacks_waits_with_what_to_do_and_is_asked_for_ever_more_seldom(
    web: Web,
) -> None:
    world = await proven(web)
    world.registry.lacks = {a_digest(1)}
    for _ in range(60):
        await world.promote()
        await world.advance(MINUTE)
    one = await world.promotion(1)
    assert one is not None
    assert one.state is PromotionState.WAITING
    assert f"crane copy docker.io/acme/staging@{a_digest(1)} docker.io/acme/production:TAG" in one.reason
    assert len(world.registry.asked) < 10
    assert len(world.alerts) == 1
    world.registry.lacks = set()
    await world.advance(60 * MINUTE)
    await world.promote()
    assert await state(world, 1) is PromotionState.QUEUED


async def test_a_registry_that_does_not_answer_delays_a_promotion_up_to_the_longest_wait(web: Web) -> None:
    world = await proven(web, wait=3600)
    world.registry.down = Postponed(Code.REGISTRY_UNREACHABLE, "it does not answer")
    await world.promote()
    assert await state(world, 1) is PromotionState.WAITING
    await world.advance(61 * MINUTE)
    await world.promote()
    one = await world.promotion(1)
    assert one is not None
    assert (one.state, one.reason) == (PromotionState.FAILED, "gave up: it does not answer")


async def test_what_a_person_asked_for_goes_first(web: Web) -> None:
    world = await proven(web)
    await world.deploy_production(7, forced=True)
    await world.promote()
    queued = await world.queued()
    assert queued is not None
    assert queued.forced
    await world.cancel_production()
    await world.promote()
    assert await state(world, 1) is PromotionState.QUEUED
    await world.deploy_production(7, forced=True)  # and one that comes later replaces it
    await world.promote()
    assert await state(world, 1) is PromotionState.DECLINED


async def test_a_push_to_production_does_not_end_a_promotion(web: Web) -> None:
    world = await proven(web)
    await world.promote()
    await world.deploy_production(7, forced=False)
    await world.promote()
    assert await state(world, 1) is PromotionState.WITHDRAWN or await state(world, 1) is PromotionState.QUEUED
    await world.promote()
    await world.work()
    assert world.ran == [a_digest(1)]


async def test_what_a_person_cancelled_or_production_has_left_does_not_come_again(web: Web) -> None:
    world = await proven(web)
    await world.promote()
    await world.cancel_production()
    for _ in range(3):
        await world.promote()
        await world.advance(MINUTE)
    assert (await state(world, 1), await world.queued()) == (PromotionState.DECLINED, None)


async def test_a_digest_that_comes_back_to_staging_is_promoted_only_after_another_soak(web: Web) -> None:
    world = await proven(web)
    await world.promote()
    await world.deploy_staging(2)
    await world.promote()
    assert await state(world, 1) is PromotionState.WITHDRAWN
    await world.deploy_staging(1)
    await world.promote()
    assert await state(world, 1) is PromotionState.WITHDRAWN
    await world.advance(SOAK)
    await world.promote()
    assert await state(world, 1) is PromotionState.QUEUED


async def test_a_chain_passes_a_digest_on_step_by_step(web: Web) -> None:
    world = await proven(web)
    await web.mutate("application.create", name="last", applicationId="last", dockerImage="acme/last")
    await world.follow("last", PRODUCTION)
    await world.promote()
    assert await web.pool.fetchval("SELECT count(*) FROM deployments WHERE application_id = 'last'") == 0
    assert [await web.pool.fetchval("SELECT count(*) FROM promotions")] == [1]


# -- random histories


@dataclass
class History:
    """Lets one thing happen after the other."""

    world: PromotionWorld
    rng: random.Random

    async def act(self) -> None:
        what: dict[Callable[[], Awaitable[None]], int] = {
            self.change_staging: 11,
            self.crash: 1,
            self.fall_ill: 1,
            self.go_unobserved: 2,
            self.wait: 8,
            self.promote: 8,
            self.work: 5,
            self.deploy_by_hand: 2,
        }
        (act,) = self.rng.choices(list(what), list(what.values()))
        await act()

    async def change_staging(self) -> None:
        """Ask something of staging, or let what was asked come to its end."""
        world, rng = self.world, self.rng
        window = rng.choice([timedelta(), WINDOW, WINDOW])
        if await waits(world):
            await world.conclude_staging(window=window)
            return
        what = rng.choices(["deploy", "roll back", "trouble", "stop", "start"], [4, 2, 3, 1, 1])[0]
        served = world.truth.digest is not None
        if what == "deploy":
            ends = rng.choice([Status.SUCCEEDED] * 4 + [Status.FAILED, Status.ROLLED_BACK] * served)
            await world.deploy_staging(rng.randrange(1, 5), ends, window=window)
        elif what == "roll back":
            await world.roll_back_staging()
        elif what == "trouble":
            await world.trouble()
        elif what == "stop" and served:
            world.truth.well = False
            await world.ask_staging(Kind.STOP)
        elif what == "start" and served and not world.truth.well:
            await world.ask_staging(Kind.START)

    async def crash(self) -> None:
        await self.world.crash()

    async def fall_ill(self) -> None:
        truth = self.world.truth
        well, truth.well = truth.well, False
        await self.world.advance(MINUTE)
        truth.well = well

    async def go_unobserved(self) -> None:
        await self.world.advance(self.rng.randrange(6, 60) * MINUTE, observed=False)

    async def wait(self) -> None:
        await self.world.advance(self.rng.randrange(1, 12) * MINUTE)

    async def promote(self) -> None:
        gateways = self.rng.choice([1, 1, 2])
        await asyncio.gather(*(self.world.promoter().promote_once(self.world.now) for _ in range(gateways)))

    async def work(self) -> None:
        await work(self.world)

    async def deploy_by_hand(self) -> None:
        if self.rng.random() < 0.3:
            await self.world.cancel_production()
        else:
            await self.world.deploy_production(self.rng.randrange(1, 5), forced=self.rng.random() < 0.5)


async def waits(world: PromotionWorld) -> bool:
    """Tell whether something is asked of staging."""
    found: bool = await world.pool.fetchval(
        "SELECT EXISTS (SELECT FROM deployments WHERE application_id = 'staging' AND status = 'queued')"
    )
    return found


async def work(world: PromotionWorld) -> None:
    def allowed(digest: Digest) -> None:
        assert digest in world.truth.proven, f"{digest} was not proven"

    await world.work(allowed)


async def history(world: PromotionWorld, seed: int, length: int) -> None:
    random_history = History(world, random.Random(seed))
    for _ in range(length):
        await random_history.act()
    # Whatever has happened: what staging runs well from now on comes to production, unless a person is against it.
    if await waits(world):
        await world.conclude_staging()
    await world.deploy_staging(9)
    await work(world)
    await world.cancel_production()
    await world.advance(SOAK)
    for _ in range(3):
        await world.promote()
        await work(world)
    assert world.ran[-1:] == [a_digest(9)]
    rows = await world.pool.fetch(
        "SELECT reference FROM deployments WHERE title LIKE 'Promoted%' AND NOT forced"
        " AND status NOT IN ('superseded', 'cancelled') AND reason_code IS DISTINCT FROM 'not_proven'"
    )
    assert max(Counter(row["reference"] for row in rows).values()) == 1, "a digest was promoted twice"


@pytest.mark.parametrize("seed", range(2))
async def test_production_never_runs_what_staging_has_not_proven(web: Web, seed: int) -> None:
    await history(await PromotionWorld.create(web), seed, 40)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 140))
async def test_production_never_runs_what_staging_has_not_proven_in_long_histories(web: Web, seed: int) -> None:
    await history(await PromotionWorld.create(web), seed, 200)


# -- kills


class Killed(BaseException):
    """The gateway was killed."""


class KillingPool:
    """A pool whose connections kill the gateway instead of running the statement with this number."""

    def __init__(self, pool: Pool, at: int) -> None:
        self._pool = pool
        self.left = at

    async def acquire(self, *, timeout: float) -> Any:
        return _Killing(await self._pool.acquire(timeout=timeout), self)

    async def release(self, connection: Any) -> None:
        await self._pool.release(connection.real)


class _Killing:
    def __init__(self, real: Any, pool: KillingPool) -> None:
        self.real = real
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.real, name)
        if name not in {"execute", "fetch", "fetchrow", "fetchval", "executemany"}:
            return found
        self._pool.left -= 1
        if self._pool.left < 0:
            raise Killed
        return found


async def test_a_gateway_that_is_killed_at_any_step_promotes_once(web: Web) -> None:
    world = await PromotionWorld.create(web)
    number = steps = 0
    finished = False
    while not finished:
        number += 1
        await world.deploy_staging(number)
        await world.advance(SOAK)
        killing = KillingPool(world.pool, steps)
        try:
            await world.promoter(cast(Any, killing)).promote_once(world.now)
            finished = True
        except Killed:
            steps += 1
        await world.promote()
        await world.work()
        await world.promote()
        assert world.ran == [a_digest(one) for one in range(1, number + 1)]
    assert steps > 15
    assert await web.pool.fetchval("SELECT count(*) FROM deployments WHERE application_id = 'production'") == number
