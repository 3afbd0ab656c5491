"""Tests releases on a real engine: applications that go out together, or not at all."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest

from gateway.admin import gates
from gateway.admin.groups import GroupChange, create_group
from gateway.cli.demo.images import Behaviour
from gateway.cli.demo.process import until
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine
from gateway.gates import catalog
from gateway.model.deployments import Deployment, Kind, Status
from gateway.model.errors import Code
from gateway.model.gates import Candidate, Decision, GateSetting, Level
from gateway.model.releases import MemberState, ReleaseState
from gateway.queue import release
from gateway.store import deployments, gate_verdicts, queue, releases
from gateway.store.database import Pool
from gateway.store.gates import Owner
from gateway.store.pagination import Page
from gateway.store.releases import Release, ReleaseMember
from gateway.worker.supervisor import Supervisor
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, DeployedApp, an_application
from tests.support.told_gate import PASSES, REFUSES, WAITS, Told


@dataclass
class Together:
    """Applications that go out together; each runs v1."""

    pool: Pool
    apps: list[DeployedApp]
    pushes: list[Pushes]
    waves: list[int]

    async def begin(self, **options: object) -> str:
        waves = {one.application_id: wave for one, wave in zip(self.apps, self.waves, strict=True)}
        requested = await release.request_release(self.pool, name="shop", waves=waves, **options)  # type: ignore[arg-type]
        return requested.release_id

    async def look(self, release_id: str) -> tuple[Release, list[ReleaseMember]]:
        async with self.pool.acquire() as connection:
            return await releases.select_release(connection, release_id), await releases.select_members(
                connection, release_id
            )

    async def until(self, release_id: str, *states: ReleaseState) -> Release:
        async def look() -> Release | None:
            found, _ = await self.look(release_id)
            return found if found.state in states else None

        return await until(look, within=240)

    async def ended(self, release_id: str) -> Release:
        return await self.until(release_id, ReleaseState.SUCCEEDED, ReleaseState.PUT_BACK, ReleaseState.FAILED)

    async def serving(self) -> list[str]:
        return [(await app.serving()).labels["gateway.digest"] for app in self.apps]

    async def push_all(self, version: str) -> list[str]:
        return [await pushes(version) for pushes in self.pushes]

    async def held(self, number: int) -> list[Deployment]:
        async with self.pool.acquire() as connection:
            return await deployments.select_deployments_of(connection, [self.apps[number].application_id], Page(20))


@pytest.fixture
async def together(pool: Pool, engine: Engine, supervisor: Supervisor, pushes: Pushes) -> AsyncIterator[Together]:
    """Three applications in two waves, which run v1."""
    every = [replace(pushes, path=f"{pushes.path}{letter}") for letter in "abc"]
    apps = [await an_application(pool, engine, one) for one in every]
    one = Together(pool, apps, every, [1, 1, 2])
    for app in apps:
        await app.set(configuration={"order": "stop-first", "stopGrace": 1})
    await one.push_all("v1")
    await asyncio.gather(*(app.ask(Kind.DEPLOY) for app in apps))
    yield one
    for app in apps:
        await asyncio.gather(*(containers.remove(engine, each.container_id) for each in await app.containers()))


async def test_a_release_brings_all_members_in_waves(together: Together) -> None:
    new = await together.push_all("v2")
    ended = await together.ended(await together.begin())
    assert (ended.state, ended.reason) == (ReleaseState.SUCCEEDED, None)
    assert await together.serving() == new
    _, members = await together.look(ended.release_id)
    assert [one.member.state for one in members] == [MemberState.MOVED] * 3
    moved = [(await together.held(number))[0] for number in range(3)]
    async with together.pool.acquire() as connection:
        rows = await connection.fetch(
            "SELECT application_id, min(s.started_at) FILTER (WHERE step = 'create') AS created,"
            " min(s.started_at) FILTER (WHERE step = 'swap') AS swapped"
            " FROM steps s JOIN deployments USING (deployment_id) WHERE deployment_id = ANY($1) GROUP BY 1",
            [one.deployment_id for one in moved],
        )
    swapped = {row["application_id"]: row for row in rows}
    assert max(one["created"] for one in swapped.values()) < min(one["swapped"] for one in swapped.values())
    assert moved[2].finished_at is not None
    last = together.apps[2].application_id
    assert all(one.finished_at is not None and one.finished_at < swapped[last]["swapped"] for one in moved[:2])


@pytest.fixture
def told(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()
    monkeypatch.setattr(supervisor.context, "gates", {"told": told.gate()})
    monkeypatch.setattr(catalog, "GATES", {"told": told.gate()})
    return told


@pytest.mark.long
async def test_all_wait_for_the_gate_of_one_and_none_is_asked_to_put_back(together: Together, told: Told) -> None:
    before = await together.serving()
    gated = together.apps[0]
    owner = Owner(Level.APPLICATION, gated.application_id)
    await gates.create(together.pool, VAULT, owner, kind="told", rule={"key": "it"})
    told.answers["it"] = WAITS
    new = await together.push_all("v2")
    await together.pushes[2]("v2", behaviour=Behaviour.EXITS)
    release_id = await together.begin()

    async def others_wait() -> bool | None:
        _, members = await together.look(release_id)
        states = {one.application_id: one.member.state for one in members}
        waits = [states.pop(gated.application_id), *states.values()]
        return True if told.asked and waits == [MemberState.PREPARING, *[MemberState.PREPARED] * 2] else None

    await until(others_wait)
    assert await together.serving() == before

    async def only_the_new_one(_setting: GateSetting, candidate: Candidate) -> Decision:
        return PASSES if candidate.digest == new[0] else REFUSES

    told.choose = only_the_new_one
    async with together.pool.acquire() as connection:
        await gate_verdicts.wake(connection, [(await together.held(0))[0].deployment_id])
        await queue.notify(connection)
    ended = await together.ended(release_id)
    assert ended.reason is not None
    assert (ended.state, ended.reason.code) == (ReleaseState.PUT_BACK, Code.EXITED)
    assert await together.serving() == before
    assert (await together.held(0))[0].kind is Kind.ROLLBACK


@pytest.mark.long
async def test_a_member_that_cannot_be_pulled_leaves_all_untouched(together: Together) -> None:
    before = [(await app.serving()).container_id for app in together.apps]
    await together.push_all("v2")
    wish = {together.apps[2].application_id: release.Wish(tag="nowhere")}
    ended = await together.ended(await together.begin(wishes=wish))
    assert ended.state is ReleaseState.PUT_BACK
    assert ended.reason is not None
    assert ended.reason.code is Code.NOT_FOUND
    assert [(await app.serving()).container_id for app in together.apps] == before
    for app in together.apps[:2]:
        cancelled = await app.ended((await app.newest()).deployment_id)
        assert cancelled.reason is not None
        assert (cancelled.status, cancelled.reason.code) == (Status.CANCELLED, Code.RELEASE_FAILED)
        assert len(await app.containers()) == 1


@pytest.mark.long
async def test_trouble_of_a_member_in_its_monitor_window_puts_all_back(together: Together) -> None:
    before = await together.serving()
    for app in together.apps:
        await app.set(configuration={"order": "stop-first", "stopGrace": 1, "watch": 60})
    for pushes in together.pushes[1:]:
        await pushes("v2")
    await together.pushes[0]("v2", behaviour=Behaviour.EXITS_LATER)
    ended = await together.ended(await together.begin())
    assert ended.reason is not None
    assert (ended.state, ended.reason.code) == (ReleaseState.PUT_BACK, Code.EXITED)
    assert await together.serving() == before
    for app in together.apps:
        await app.end_monitoring()


@pytest.mark.long
async def test_pushes_of_several_members_go_out_together(together: Together) -> None:
    change = GroupChange("pushed", settle=1, waves={one.application_id: 1 for one in together.apps})
    group = await create_group(together.pool, change)
    new = await together.push_all("v2")
    for app, pushes in zip(together.apps, together.pushes, strict=True):
        await app.pushed(pushes.name(), pushes.path.encode())

    async def begun() -> str | None:
        async with together.pool.acquire() as connection:
            found = await releases.select_releases(connection, group_id=group.group_id)
        return found[0].release_id if found else None

    ended = await together.ended(await until(begun))
    assert (ended.state, await together.serving()) == (ReleaseState.SUCCEEDED, new)
    _, members = await together.look(ended.release_id)
    assert len(members) == len(together.apps)


@pytest.mark.long
async def test_a_configuration_that_no_gate_has_seen_is_not_deployed(together: Together) -> None:
    before = await together.serving()
    await together.push_all("v2")
    last = together.apps[2]
    release_id = await together.begin()

    async def is_prepared() -> bool | None:
        _, members = await together.look(release_id)
        return members[2].member.state is MemberState.PREPARED or None

    await until(is_prepared)
    await last.set(environment="A=1")
    ended = await together.ended(release_id)
    assert ended.reason is not None
    assert (ended.state, ended.reason.code) == (ReleaseState.PUT_BACK, Code.RELEASE_FAILED)
    assert await together.serving() == before


async def test_a_member_that_fails_in_the_last_wave_puts_all_back(together: Together) -> None:
    before = await together.serving()
    kept = (await together.apps[0].serving()).container_id
    for pushes in together.pushes[:2]:
        await pushes("v2")
    await together.pushes[2]("v2", behaviour=Behaviour.EXITS)
    ended = await together.ended(await together.begin())
    assert ended.state is ReleaseState.PUT_BACK
    assert ended.reason is not None
    assert ended.reason.code is Code.EXITED
    assert await together.serving() == before
    assert (await together.apps[0].serving()).container_id == kept
    rolled_back = (await together.held(0))[0]
    assert (rolled_back.kind, rolled_back.status, rolled_back.release_id) == (
        Kind.ROLLBACK,
        Status.SUCCEEDED,
        ended.release_id,
    )
