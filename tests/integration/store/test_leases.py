"""Who works on a deployment: one at a time, known by the epoch."""

from datetime import timedelta

import asyncpg
import pytest

from gateway.model.deployments import Deployment, LeaseLost, Swap
from gateway.model.errors import Code, Postponed
from gateway.store import applications, leases
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


async def test_a_gateway_asks_one_question_while_nothing_is_due(web: Web) -> None:
    statements: list[str] = []

    def listen(query: asyncpg.connection.LoggedQuery) -> None:
        statements.append(query.query)

    async with web.pool.acquire() as connection:
        with connection.query_logger(listen):
            assert not await claims.claim(connection, owner="first", choose=lambda _: ENGINE, running_ids=(), lease=9)
    assert len(statements) == 1


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


async def add_silent(web: Web, takeovers: dict[str, int]) -> None:
    """Add applications, each with a deployment whose owner fell silent, after so many takeovers."""
    for name, number in takeovers.items():
        await web.mutate("application.create", name=name, applicationId=name, dockerImage="acme/web")
        await web.mutate("application.deploy", applicationId=name)
        await web.pool.execute(
            "UPDATE deployments SET status = 'running', takeovers = $2, lease_until = now() - interval '1 second'"
            " WHERE application_id = $1",
            name,
            number,
        )


async def claim_batch(web: Web, owner: str, held: tuple[str, ...] = ()) -> list[str]:
    async with web.pool.acquire() as connection:
        found = await claims.claim(connection, owner=owner, choose=lambda _: ENGINE, running_ids=held, lease=9)
    return sorted(one.application_id for one in found)


async def test_what_ended_five_gateways_runs_beside_no_other_suspect(web: Web, first: Deployment) -> None:
    await fall_silent(web, takeovers=4)
    await add_silent(web, {"second": 3, "third": 0})
    claimed = [await claim(web, "owner", lease=9) for _ in range(3)]
    assert [one and one.application_id for one in claimed] == ["third", "second", None]
    elsewhere = await claim(web, "another", lease=9)
    assert elsewhere is not None
    assert elsewhere.application_id == first.application_id
    await add_silent(web, {"fourth": 3, "fifth": 4})
    assert await claim(web, "another", lease=9) is None
    beside = await claim(web, "owner", lease=9)
    assert beside is not None
    assert beside.application_id == "fourth"


async def test_a_batch_has_the_next_of_all_applications_and_the_suspects_that_may_run_together(
    web: Web, first: Deployment
) -> None:
    await add_silent(web, {"second": 3, "third": 4, "fourth": 3, "fifth": 0})
    await web.mutate("application.create", name="sixth", applicationId="sixth", dockerImage="acme/web")
    await web.mutate("application.deploy", applicationId="sixth")
    assert await claim_batch(web, "owner", held=(first.deployment_id,)) == ["fifth", "fourth", "second", "sixth"]
    assert await claim_batch(web, "owner") == [first.application_id]
    assert await claim_batch(web, "another") == ["third"]
    bound = await web.pool.fetch("SELECT application_id FROM applications WHERE engine_id = $1", ENGINE)
    assert sorted(row["application_id"] for row in bound) == ["app", "fifth", "fourth", "second", "sixth", "third"]


async def add_many_silent(web: Web, takeovers: int) -> list[str]:
    """Add 34 applications, each with a deployment whose owner fell silent, after so many takeovers."""
    names = [f"one-{number:02}" for number in range(34)]
    await web.pool.execute(
        "INSERT INTO applications (application_id, name, app_name, docker_image, environment_id)"
        " SELECT name, name, name, 'acme/web', (SELECT environment_id FROM environments LIMIT 1)"
        " FROM unnest($1::text[]) AS name",
        names,
    )
    await web.pool.execute(
        "INSERT INTO deployments (application_id, kind, forced, title, reference, status, takeovers, started_at,"
        " lease_until, claimed_by, epoch) SELECT name, 'deploy', false, '', 'acme/web', 'running', $2, now(),"
        " now() - interval '1 second', 'killed', 1 FROM unnest($1::text[]) AS name",
        names,
        takeovers,
    )
    return names


async def test_a_gateway_runs_so_many_suspects_together_and_leaves_the_others(web: Web, first: Deployment) -> None:
    names = await add_many_silent(web, takeovers=3)
    held = (first.deployment_id,)
    together = await claim_batch(web, "owner", held)
    assert len(together) == 32
    assert await claim_batch(web, "owner", held) == []
    assert await claim_batch(web, "another", held) == sorted({*names} - {*together})


async def test_what_three_gateways_left_is_taken_over_at_once(web: Web, first: Deployment) -> None:
    names = await add_many_silent(web, takeovers=2)
    assert await claim_batch(web, "owner", (first.deployment_id,)) == names


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


async def test_nothing_is_claimed_for_an_engine_that_is_not_recorded_yet(web: Web, first: Deployment) -> None:
    await web.mutate("application.create", name="Other", applicationId="other", dockerImage="acme/other")
    await web.mutate("application.deploy", applicationId="other")
    engines = {await web.pool.fetchval("SELECT deployment_id FROM deployments WHERE status = 'queued'"): "unrecorded"}
    async with web.pool.acquire() as connection:
        assert await leases.claim_deployments(connection, "second", engines, timedelta(seconds=9)) == []
        await connection.execute(
            "INSERT INTO engines (engine_id, name, version, platform) VALUES ('unrecorded', '', '', '')"
        )
        assert len(await leases.claim_deployments(connection, "second", engines, timedelta(seconds=9))) == 1


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
