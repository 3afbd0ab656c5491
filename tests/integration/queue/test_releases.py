"""Releases in the database: what is claimed, what waits, and what a member's other requests do."""

import asyncio
import random
from datetime import datetime, timedelta, tzinfo
from typing import Any

import pytest

from gateway.model.deployments import Deployment, Kind
from gateway.model.errors import Code, Reason
from gateway.queue import release
from gateway.store import groups, leases, release_deployments, releases
from gateway.store.database import listen
from gateway.worker.alerts import AlertQueue
from gateway.worker.releases import ReleaseCoordinator
from tests.support.api_client import Web
from tests.support.rehearsal import ENGINE, Rehearsal


@pytest.fixture
async def rehearsal(web: Web) -> Rehearsal:
    """Three applications, each of which serves a version."""
    one = Rehearsal(web, random.Random(1))
    await one.begin("a", "b", "c")
    return one


async def prepared(rehearsal: Rehearsal, number: int = 3) -> None:
    for _ in range(number):
        claimed = await rehearsal.claim()
        assert claimed is not None
        await rehearsal.work(claimed)


async def states(rehearsal: Rehearsal, release_id: str) -> tuple[str, dict[str, str]]:
    found = await rehearsal.one(release_id)
    return found["state"], {one["applicationId"]: one["state"] for one in found["members"]}


async def queued(rehearsal: Rehearsal, name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = await rehearsal.web.query("deployment.all", applicationId=name)
    return found[0]


async def waits_for(rehearsal: Rehearsal, name: str) -> str:
    newest = (await queued(rehearsal, name))["deploymentId"]
    return str((await rehearsal.web.query("deployment.one", deploymentId=newest))["waitsFor"])


async def test_prepared_members_hold_no_claim_and_wait_for_their_wave(rehearsal: Rehearsal) -> None:
    begun = await rehearsal.release(await rehearsal.group({"a": 1, "b": 1, "c": 2}))
    await prepared(rehearsal)
    waiting = await queued(rehearsal, "a")
    assert (waiting["state"], waiting["reason"]["code"], waiting["attempts"]) == ("queued", Code.RELEASE_WAITS, 0)
    assert await rehearsal.claim() is None
    await rehearsal.advance()
    assert await states(rehearsal, begun["releaseId"]) == ("moving", {"a": "moving", "b": "moving", "c": "prepared"})
    for _ in "ab":
        claimed = await rehearsal.claim()
        assert claimed is not None
        assert (claimed.application_id in "ab", claimed.takeovers) == (True, 0)
        await rehearsal.work(claimed)
    await rehearsal.advance()
    await rehearsal.work_until_idle()
    assert await states(rehearsal, begun["releaseId"]) == ("succeeded", {"a": "moved", "b": "moved", "c": "moved"})


async def test_a_gateway_whose_clock_is_ahead_does_not_prepare_for_ever(
    rehearsal: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.now(tz) + timedelta(hours=1)

    monkeypatch.setattr("gateway.queue.release.datetime", Ahead)
    begun = await rehearsal.release(await rehearsal.group({"a": 1, "b": 1, "c": 1}))
    await prepared(rehearsal)
    await rehearsal.advance()
    assert (await states(rehearsal, begun["releaseId"]))[0] == "moving"


async def test_a_push_that_comes_before_the_release_moves_takes_the_members_place(rehearsal: Rehearsal) -> None:
    begun = await rehearsal.release(await rehearsal.group({"a": 1, "b": 1, "c": 2}))
    await prepared(rehearsal)
    await rehearsal.web.mutate("application.redeploy", applicationId="b")
    await rehearsal.advance()
    _, members = await states(rehearsal, begun["releaseId"])
    assert members == {"a": "prepared", "b": "preparing", "c": "prepared"}
    newest = await queued(rehearsal, "b")
    assert (newest["releaseId"], newest["kind"]) == (begun["releaseId"], "redeploy")
    await rehearsal.work_until_idle()
    assert (await rehearsal.one(begun["releaseId"]))["state"] == "succeeded"
    assert rehearsal.serves["b"] == newest["deploymentId"]


async def test_what_is_asked_of_a_member_while_the_release_moves_comes_after_it(rehearsal: Rehearsal) -> None:
    begun = await rehearsal.release(await rehearsal.group({"a": 1, "b": 1, "c": 2}))
    await prepared(rehearsal)
    await rehearsal.advance()
    await rehearsal.web.mutate("application.stop", applicationId="a")
    await rehearsal.web.mutate("application.redeploy", applicationId="c")
    first = [await rehearsal.claim(), await rehearsal.claim()]
    assert {one.kind for one in first if one} == {Kind.DEPLOY}
    assert await rehearsal.claim() is None
    for one in first:
        assert one is not None
        await rehearsal.work(one)
    assert await rehearsal.claim() is None  # the stop of `a` waits for the wave of `c`
    async with rehearsal.web.pool.acquire() as connection:
        await release_deployments.mark_held(connection, leases.HELD)
    assert (await queued(rehearsal, "a"))["reason"]["code"] == Code.RELEASE_WAITS
    await rehearsal.advance()
    await rehearsal.work_until_idle()
    assert (await rehearsal.one(begun["releaseId"]))["state"] == "succeeded"
    assert rehearsal.serves["a"] is None
    assert (await queued(rehearsal, "c"))["kind"] == "redeploy"


async def test_a_member_that_fails_puts_those_back_that_moved_before_anything_newer(rehearsal: Rehearsal) -> None:
    before = dict(rehearsal.serves)
    begun = await rehearsal.release(
        await rehearsal.group({"a": 1, "b": 2, "c": 3}), members=[{"applicationId": "a", "tag": "v2"}]
    )
    await prepared(rehearsal)
    await rehearsal.advance()
    first = await rehearsal.claim()
    assert first is not None
    await rehearsal.work(first)
    assert (await rehearsal.web.query("application.one", applicationId="a"))["dockerImage"] == "acme/a:v2"
    await rehearsal.web.push("docker.io/acme/a:v2")
    assert await waits_for(rehearsal, "a") == f"release {begun['releaseId']}, which the application belongs to"
    await rehearsal.advance()
    second = await rehearsal.claim()
    assert second is not None
    await rehearsal.work(second, fails=True)
    await rehearsal.advance()
    back = await rehearsal.claim()
    while back is not None and back.application_id == "c":  # which was only prepared
        await rehearsal.work(back)
        back = await rehearsal.claim()
    assert back is not None
    assert (back.application_id, back.kind, back.rolls_back_to) == ("a", Kind.ROLLBACK, before["a"])
    await rehearsal.work(back, fails=True)
    await rehearsal.advance()
    assert (await rehearsal.one(begun["releaseId"]))["state"] == "putting_back"
    async with rehearsal.web.pool.acquire() as connection:
        await connection.execute("UPDATE deployments SET finished_at = finished_at - interval '1 minute'")
    await rehearsal.advance()
    again = await rehearsal.claim()
    assert again is not None
    await rehearsal.work(again)
    await rehearsal.advance()
    assert rehearsal.serves == before
    found = await rehearsal.one(begun["releaseId"])
    assert (found["state"], found["reason"]["code"]) == ("put_back", Code.EXITED)
    assert (await rehearsal.web.query("application.one", applicationId="a"))["dockerImage"] == "acme/a:v1"
    later = await rehearsal.claim()
    assert later is not None
    assert (later.application_id, later.release_id) == ("a", None)  # the push, which waited


async def test_a_member_that_is_postponed_while_it_moves_makes_way_for_nobody(rehearsal: Rehearsal) -> None:
    await rehearsal.release(await rehearsal.group({"a": 1}))
    await prepared(rehearsal, 1)
    await rehearsal.advance()
    await rehearsal.web.mutate("application.redeploy", applicationId="a")
    moving = await rehearsal.claim()
    assert moving is not None
    await rehearsal.work(moving, away=True)
    assert await rehearsal.claim() is None
    async with rehearsal.web.pool.acquire() as connection:
        await connection.execute("UPDATE deployments SET lease_until = now() - interval '1 s' WHERE status = 'running'")
    again = await rehearsal.claim()
    assert again is not None
    assert (again.deployment_id, again.takeovers, again.attempts) == (moving.deployment_id, 0, 2)


async def test_pushes_of_a_group_that_settles_go_out_as_one_release(rehearsal: Rehearsal) -> None:
    group_id = await rehearsal.group({"a": 1, "b": 2}, settle=5)
    await rehearsal.web.push("docker.io/acme/a:v1", "docker.io/acme/c:v1")
    await rehearsal.web.push("docker.io/acme/b:v1")
    alone = await rehearsal.claim()
    assert alone is not None
    assert alone.application_id == "c"  # no member
    assert await rehearsal.claim() is None
    assert (await waits_for(rehearsal, "a")).startswith("a release of group ")
    async with rehearsal.web.pool.acquire() as connection:
        assert await groups.select_settled(connection) == []
        await connection.execute("UPDATE deployments SET requested_at = requested_at - interval '6 s'")
        assert await groups.select_settled(connection) == [group_id]
    release_id = await release.gather(rehearsal.web.pool, group_id)
    assert release_id is not None
    _, members = await states(rehearsal, release_id)
    assert members == {"a": "preparing", "b": "preparing"}
    await rehearsal.work(alone)
    await rehearsal.work_until_idle()
    assert (await rehearsal.one(release_id))["state"] == "succeeded"


async def test_releases_are_looked_at_as_soon_as_a_group_gathers_and_rarely_while_none_does(
    rehearsal: Rehearsal,
) -> None:
    pool, woken = rehearsal.web.pool, asyncio.Event()
    coordinator = ReleaseCoordinator(pool, AlertQueue([]))
    assert not await coordinator.advance_all()
    async with listen(pool, {releases.CHANNEL: woken.set}):
        group_id = await rehearsal.group({"a": 1, "b": 2})
        await woken.wait()
        assert not await coordinator.advance_all(), "it does not gather"
        woken.clear()
        await rehearsal.web.mutate("group.update", groupId=group_id, settle=5)
        await woken.wait()
    assert await coordinator.advance_all()


async def test_an_application_is_in_one_open_release(rehearsal: Rehearsal) -> None:
    first = await rehearsal.release(await rehearsal.group({"a": 1, "b": 1}))
    other = await rehearsal.group({"b": 1, "c": 1, "a": 2})
    status, answer = await rehearsal.web.post("/api/trpc/release.create", {"groupId": other})
    assert (status, first["releaseId"] in answer["error"]["json"]["message"]) == (409, True)
    await rehearsal.web.mutate("release.cancel", releaseId=first["releaseId"])
    await rehearsal.advance()
    assert (await rehearsal.one(first["releaseId"]))["state"] == "put_back"
    assert len((await rehearsal.release(other))["members"]) == 3


async def test_the_next_release_ends_one_that_only_waits_for_monitor_windows(rehearsal: Rehearsal) -> None:
    group_id = await rehearsal.group({"a": 1, "b": 1})
    rehearsal.window = 60.0
    begun = await rehearsal.release(group_id)
    await rehearsal.work_until_idle()
    await rehearsal.web.push("docker.io/acme/a:v1")
    await rehearsal.advance()
    assert (await rehearsal.one(begun["releaseId"]))["state"] == "proving"
    assert await rehearsal.claim() is None  # the push waits
    second = await rehearsal.release(group_id)
    assert (await rehearsal.one(begun["releaseId"]))["state"] == "succeeded"
    assert await rehearsal.web.count("watches") == 0
    rehearsal.window = 0.0
    await rehearsal.work_until_idle()
    assert (await rehearsal.one(second["releaseId"]))["state"] == "succeeded"


async def test_stopped_members_are_left_out_and_first_deployments_are_stopped_when_put_back(
    rehearsal: Rehearsal,
) -> None:
    await rehearsal.begin("new", served=False)
    await rehearsal.web.mutate("application.stop", applicationId="c")
    await rehearsal.work_until_idle()
    begun = await rehearsal.release(await rehearsal.group({"new": 1, "a": 2, "c": 1}))
    assert begun["leftOut"] == [{"applicationId": "c", "reason": "it is stopped"}]
    await prepared(rehearsal, 2)
    await rehearsal.advance()
    await rehearsal.work_one("new")
    assert rehearsal.serves["new"] is not None
    await rehearsal.advance()
    await rehearsal.work_one("a", fails=True)
    await rehearsal.advance()
    await rehearsal.work_until_idle()
    assert rehearsal.serves["new"] is None
    assert (await rehearsal.one(begun["releaseId"]))["state"] == "put_back"


async def test_a_release_is_put_back_though_the_engine_of_a_later_member_is_away(rehearsal: Rehearsal) -> None:
    before = dict(rehearsal.serves)
    begun = await rehearsal.release(await rehearsal.group({"a": 1, "b": 2}))
    await prepared(rehearsal, 2)
    await rehearsal.advance()
    await rehearsal.work_one("a")
    async with rehearsal.web.pool.acquire() as connection:
        await connection.execute(
            "INSERT INTO engines (engine_id, name, version, platform) VALUES ('away', '', '', '')"
            " ON CONFLICT DO NOTHING;"
            " UPDATE applications SET engine_id = 'away' WHERE application_id = 'b'"
        )
    await rehearsal.advance()
    assert await rehearsal.claim() is None
    away = Reason(Code.ENGINE_UNREACHABLE, "nobody answers")
    async with rehearsal.web.pool.acquire() as connection:
        await leases.mark_waiting(connection, None, "away", away)
    assert (await queued(rehearsal, "b"))["reason"]["code"] == away.code
    await rehearsal.web.mutate("release.cancel", releaseId=begun["releaseId"])
    await rehearsal.advance()
    await rehearsal.advance()
    await rehearsal.work_one("a")
    await rehearsal.advance()
    assert (await rehearsal.one(begun["releaseId"]))["state"] == "put_back"
    assert rehearsal.serves == before
    async with rehearsal.web.pool.acquire() as connection:  # it answers again: what was created there is removed
        await connection.execute("UPDATE applications SET engine_id = $1 WHERE application_id = 'b'", ENGINE)
    late = await rehearsal.claim()
    assert late is not None
    assert (late.application_id, late.cancelled_at is not None) == ("b", True)


async def test_members_and_groups_may_go_while_a_release_moves(rehearsal: Rehearsal) -> None:
    await rehearsal.begin("new", served=False)
    group_id = await rehearsal.group({"a": 1, "b": 2, "new": 3})
    begun = await rehearsal.release(group_id)
    await prepared(rehearsal, 3)
    await rehearsal.advance()
    await rehearsal.web.mutate("group.remove", groupId=group_id)
    await rehearsal.web.mutate("application.delete", applicationId="a")
    await rehearsal.work_until_idle()
    found = await rehearsal.one(begun["releaseId"])
    assert (found["state"], {one["applicationId"] for one in found["members"]}) == ("succeeded", {"b", "new"})
    assert "a" not in rehearsal.serves


async def test_cancelling_the_deployment_of_a_member_puts_the_release_back(rehearsal: Rehearsal) -> None:
    begun = await rehearsal.release(await rehearsal.group({"a": 1, "b": 1}))
    await prepared(rehearsal, 2)
    await rehearsal.web.mutate("deployment.cancel", deploymentId=(await queued(rehearsal, "a"))["deploymentId"])
    await rehearsal.advance()
    assert (await rehearsal.one(begun["releaseId"]))["state"] == "put_back"
    await rehearsal.work_until_idle()
    assert [(await queued(rehearsal, name))["state"] for name in "ab"] == ["cancelled", "cancelled"]
    await rehearsal.web.mutate("application.deploy", applicationId="a")
    await rehearsal.work_one("a")


async def test_only_a_person_ends_a_release_that_cannot_be_put_back(rehearsal: Rehearsal) -> None:
    begun = await rehearsal.release(await rehearsal.group({"a": 1, "b": 2}))
    given = {"releaseId": begun["releaseId"], "abandon": True}
    status, _ = await rehearsal.web.post("/api/trpc/release.cancel", given)
    assert status == 409
    await prepared(rehearsal, 2)
    await rehearsal.advance()
    await rehearsal.work_one("a")
    await rehearsal.web.mutate("release.cancel", releaseId=begun["releaseId"])
    await rehearsal.advance()
    await rehearsal.work_one("a", fails=True)
    await rehearsal.advance()
    await rehearsal.web.mutate("release.cancel", **given)
    await rehearsal.advance()
    assert (await rehearsal.one(begun["releaseId"]))["state"] == "failed"
    await rehearsal.web.mutate("application.redeploy", applicationId="a")
    await rehearsal.work_one("a")


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.long) for n in range(2, 30))])
async def test_a_release_ends_all_new_or_all_old_whatever_else_is_asked(web: Web, seed: int) -> None:
    chance = random.Random(seed)
    one = Rehearsal(web, chance)
    names = "abcde"
    await one.begin(*names)
    group_id = await one.group({name: chance.randint(1, 3) for name in names})
    for _ in range(1 if seed == 1 else 3):
        before = dict(one.serves)
        begun = await one.release(group_id)
        held: list[Deployment] = []
        for _ in range(400):
            await one.advance()
            if (await one.one(begun["releaseId"]))["state"] in {"succeeded", "put_back"}:
                break
            await _happens(one, chance, begun["releaseId"], held)
        else:
            raise AssertionError(await one.one(begun["releaseId"]))
        found = await one.one(begun["releaseId"])
        serving = {each["applicationId"]: one.serves[each["applicationId"]] for each in found["members"]}
        if found["state"] == "succeeded":
            assert serving == {each["applicationId"]: each["deploymentId"] for each in found["members"]}
        else:
            assert serving == {name: before[name] for name in serving}
        for each in held:
            await one.work(each)
        await one.work_until_idle()
        for name in names:  # what a person has stopped
            await web.mutate("application.deploy", applicationId=name)
        await one.work_until_idle()


async def _happens(one: Rehearsal, chance: random.Random, release_id: str, held: list[Deployment]) -> None:
    """Let a worker, a person or a registry do something."""
    roll, name = chance.random(), chance.choice("abcde")
    if roll < 0.5:
        if (claimed := await one.claim()) is not None:
            assert claimed.release_id == release_id
            held.append(claimed)
    elif roll < 0.9 and held:
        claimed = held.pop(chance.randrange(len(held)))
        await one.work(claimed, fails=chance.random() < 0.08, away=chance.random() < 0.1)
    elif roll < 0.93:
        await one.web.push(f"docker.io/acme/{name}:v1")
    elif roll < 0.95:
        await one.web.mutate("application.redeploy", applicationId=name)
    elif roll < 0.955:
        await one.web.mutate("application.stop", applicationId=name)
    else:  # time passes
        async with one.web.pool.acquire() as connection:
            await connection.execute(
                """
                UPDATE deployments
                   SET next_attempt_at = least(next_attempt_at, now()), finished_at = finished_at - interval '2 min',
                       lease_until = CASE WHEN lease_until < now() + interval '1 day' AND claimed_by IS NULL THEN now()
                                          ELSE lease_until END
                """
            )
