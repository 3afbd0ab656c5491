"""Who works on a deployment: one at a time, known by the epoch."""

import pytest

from gateway.model.deployments import Deployment, LeaseLost, Swap
from gateway.model.errors import Code, Postponed
from gateway.store import applications
from gateway.store.rollout_journal import PostgresJournal
from gateway.worker import claims, retry
from tests.support.api_client import VAULT, Web
from tests.support.claiming import claim_one

ENGINE = "leases-engine"
WAITS = Postponed(Code.REGISTRY_UNREACHABLE, "it does not answer")


async def claim(web: Web, owner: str, *, lease: float, held: tuple[str, ...] = ()) -> Deployment | None:
    return await claim_one(web.pool, owner, ENGINE, lease=lease, held=held)


@pytest.fixture
async def first(web: Web) -> Deployment:
    """A deployment claimed with a lease that has run out at once."""
    async with web.pool.acquire() as connection:
        await connection.execute(
            "INSERT INTO engines (engine_id, name, version, platform) VALUES ($1, '', '', '') ON CONFLICT DO NOTHING",
            ENGINE,
        )
    await web.mutate("application.create", name="Web", applicationId="app", dockerImage="acme/web")
    await web.mutate("application.deploy", applicationId="app")
    claimed = await claim(web, "first", lease=0)
    assert claimed is not None
    return claimed


async def test_what_a_gateway_works_on_still_it_does_not_claim_again(web: Web, first: Deployment) -> None:
    assert await claim(web, "first", lease=9, held=(first.deployment_id,)) is None
    again = await claim(web, "second", lease=9)
    assert again is not None
    assert (again.deployment_id, again.epoch) == (first.deployment_id, first.epoch + 1)


async def test_whoever_was_taken_over_from_touches_nothing_more(web: Web, first: Deployment) -> None:
    journal = PostgresJournal(web.pool, VAULT, first)
    assert await claim(web, "second", lease=9) is not None
    with pytest.raises(LeaseLost):
        await journal.ensure_lease()
    assert journal.lost


async def test_whoever_was_taken_over_from_opens_no_swap(web: Web, first: Deployment) -> None:
    journal = PostgresJournal(web.pool, VAULT, first)
    assert await claim(web, "second", lease=9) is not None
    swap = Swap("app", first.deployment_id, "web", None, None, "0" * 64)
    async with web.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, "app")
    with pytest.raises(LeaseLost):
        await journal.open_swap(swap, application, longest_call=9)
    assert await web.pool.fetchval("SELECT count(*) FROM swaps") == 0
    assert await web.pool.fetchval("SELECT object_id FROM deployments") is None


async def test_asking_renews_the_lease_and_is_not_repeated_while_half_of_it_is_left(
    web: Web, first: Deployment
) -> None:
    journal = PostgresJournal(web.pool, VAULT, first)
    await journal.extend_lease(9)
    assert await claim(web, "second", lease=9) is None
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE deployments SET epoch = epoch + 1")
    await journal.ensure_lease()


async def fall_silent(web: Web, *, takeovers: int | None = None) -> None:
    """Let the leases of all that runs end, as those of a gateway that was killed."""
    async with web.pool.acquire() as connection:
        await connection.execute(
            "UPDATE deployments SET lease_until = now() - interval '1 second', takeovers = coalesce($1, takeovers)"
            " WHERE status = 'running'",
            takeovers,
        )


async def test_each_takeover_in_a_row_is_counted(web: Web, first: Deployment) -> None:
    assert first.takeovers == 0
    second = await claim(web, "second", lease=0)
    third = await claim(web, "third", lease=9)
    assert second is not None
    assert third is not None
    assert (second.takeovers, third.takeovers) == (1, 2)
    await retry.postpone(web.pool, third, PostgresJournal(web.pool, VAULT, third), WAITS, deadline=9)
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE deployments SET next_attempt_at = now()")
    again = await claim(web, "fourth", lease=9)
    assert again is not None
    assert again.takeovers == 0


async def test_of_those_that_may_have_ended_their_gateways_one_runs_at_a_time_the_least_suspect_first(
    web: Web, first: Deployment
) -> None:
    await fall_silent(web, takeovers=4)
    for name, takeovers in (("second", 2), ("third", 0)):
        await web.mutate("application.create", name=name, applicationId=name, dockerImage="acme/web")
        await web.mutate("application.deploy", applicationId=name)
        async with web.pool.acquire() as connection:
            await connection.execute(
                "UPDATE deployments SET status = 'running', takeovers = $2, lease_until = now() - interval '1 second'"
                " WHERE application_id = $1",
                name,
                takeovers,
            )
    claimed = [await claim(web, "owner", lease=9) for _ in range(3)]
    assert [one and one.application_id for one in claimed] == ["third", "second", None]
    elsewhere = await claim(web, "another", lease=9)
    assert elsewhere is not None
    assert elsewhere.application_id == first.application_id


async def test_a_batch_has_the_next_of_all_applications_and_one_suspect(web: Web, first: Deployment) -> None:
    for name, takeovers in (("second", 2), ("third", 3), ("fourth", 0), ("fifth", 0)):
        await web.mutate("application.create", name=name, applicationId=name, dockerImage="acme/web")
        await web.mutate("application.deploy", applicationId=name)
        if takeovers:
            await web.pool.execute(
                "UPDATE deployments SET status = 'running', takeovers = $2, lease_until = now() - interval '1 second'"
                " WHERE application_id = $1",
                name,
                takeovers,
            )
    async with web.pool.acquire() as connection:
        found = await claims.claim(
            connection, owner="owner", choose=lambda _: ENGINE, running_ids=(first.deployment_id,), lease=9
        )
        again = await claims.claim(connection, owner="owner", choose=lambda _: ENGINE, running_ids=(), lease=9)
    assert sorted(one.application_id for one in found) == ["fifth", "fourth", "second"]
    assert [one.application_id for one in again] == [first.application_id]
    bound = await web.pool.fetch("SELECT application_id FROM applications WHERE engine_id = $1", ENGINE)
    assert sorted(row["application_id"] for row in bound) == ["app", "fifth", "fourth", "second"]


async def test_what_waits_for_its_turn_on_the_engine_is_queued_for_who_looks(web: Web, first: Deployment) -> None:
    journal = PostgresJournal(web.pool, VAULT, first)

    async def shown() -> tuple[str, str, str | None, str | None]:
        found = await web.query("deployment.one", deploymentId=first.deployment_id)
        return found["state"], found["status"], found["reason"] and found["reason"]["code"], found["waitsFor"]

    await journal.record_wait("the engine stops and starts 1 at once, now another")
    waits_for = "its turn: the engine stops and starts 1 at once, now another"
    assert await shown() == ("queued", "running", Code.SLOTS_TAKEN, waits_for)
    await journal.clear_wait()
    assert await shown() == ("running", "running", None, None)


async def test_a_row_that_cannot_be_read_ends_and_is_in_nobodys_way(web: Web, first: Deployment) -> None:
    await web.mutate("application.create", name="another", applicationId="another", dockerImage="acme/web")
    await web.mutate("application.deploy", applicationId="another")
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE deployments SET reference = '///' WHERE application_id = 'app'")
    claimed = await claim(web, "second", lease=9)
    assert claimed is not None
    assert claimed.application_id == "another"
    async with web.pool.acquire() as connection:
        row = await connection.fetchrow(
            "SELECT status, reason_code FROM deployments WHERE deployment_id = $1", first.deployment_id
        )
    assert row is not None
    assert tuple(row) == ("failed", "internal")


async def test_a_reason_that_a_newer_gateway_wrote_is_read_without_its_code(web: Web, first: Deployment) -> None:
    async with web.pool.acquire() as connection:
        await connection.execute("UPDATE deployments SET reason_code = 'of_tomorrow', reason_message = 'it rains'")
    found = await web.query("deployment.one", deploymentId=first.deployment_id)
    assert (found["reason"]["code"], found["reason"]["message"]) == ("internal", "it rains")
