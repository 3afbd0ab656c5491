"""Tests which version a rollback goes back to."""

import pytest

from gateway.model.deployments import Kind
from gateway.model.errors import Conflict
from gateway.model.reference import Digest
from gateway.queue import enqueue
from gateway.store import applications, queue, versions
from tests.support.api_client import VAULT, Web
from tests.support.served_versions import record_version

IMAGE = "registry.example.com/web:latest"
PUSH = {"push_data": {"tag": "latest"}, "repository": {"repo_name": "acme/web"}}


async def served(web: Web, number: int) -> str:
    """Let the application have served a version, `number` minutes after the first one; return its deployment."""
    digest = Digest(f"sha256:{number:064x}")
    async with web.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, "app")
        made = await connection.fetchval(
            """
            INSERT INTO deployments (application_id, kind, forced, status, title, reference, digest, replaced,
                                     finished_at)
            VALUES ('app', 'deploy', false, 'succeeded', '', $1, $2, true, now() - make_interval(mins => 60 - $3))
            RETURNING deployment_id
            """,
            IMAGE,
            digest,
            number,
        )
        await record_version(connection, made, application)
    return str(made)


async def created(web: Web) -> None:
    await web.mutate("application.create", name="Web", applicationId="app", dockerImage="acme/web")


async def test_rollbacks_go_back_step_by_step(web: Web) -> None:
    await created(web)
    first, second, _ = [await served(web, number) for number in range(3)]
    await web.mutate("application.rollback", applicationId="app", title="Back")
    (queued,) = [one for one in await web.query("deployment.all", applicationId="app") if one["state"] == "queued"]
    assert (queued["kind"], queued["rollsBackTo"], queued["title"]) == ("rollback", second, "Back")
    async with web.pool.acquire() as connection:
        await connection.execute(
            "UPDATE deployments SET status = 'succeeded', replaced = true, finished_at = now() WHERE status = 'queued'"
        )
        assert await versions.select_previous(connection, "app") == first


async def rolled_back(web: Web, to: str | None, number: int) -> None:
    """Let a rollback to the version of `to`, or to what was adopted, have served `number` minutes after the first."""
    async with web.pool.acquire() as connection:
        await connection.execute(
            """
            INSERT INTO deployments (application_id, kind, forced, status, title, rolls_back_to, digest, spec_hash, ran,
                                     replaced, finished_at)
            SELECT 'app', 'rollback', true, 'succeeded', '', $1, v.digest, v.spec_hash, v.ran, true,
                   now() - make_interval(mins => 60 - $2)
              FROM (SELECT 1) AS one LEFT JOIN deployments v ON v.deployment_id = $1
            """,
            to,
            number,
        )


async def test_a_rollback_goes_back_to_what_an_earlier_rollback_restored(web: Web) -> None:
    await created(web)
    first, _ = await served(web, 1), await served(web, 2)
    await rolled_back(web, first, 3)
    await served(web, 4)
    async with web.pool.acquire() as connection:
        assert await versions.select_previous(connection, "app") == first
    await rolled_back(web, first, 5)
    async with web.pool.acquire() as connection:
        assert await versions.select_previous(connection, "app") is None  # nothing served before the first one


async def test_a_rollback_goes_back_to_the_adopted_version(web: Web) -> None:
    await created(web)
    await served(web, 1)
    await rolled_back(web, None, 2)
    await served(web, 3)
    async with web.pool.acquire() as connection:
        assert await versions.select_previous(connection, "app") is None


async def test_a_rollback_without_an_earlier_version_says_how_to_choose_one(web: Web) -> None:
    await created(web)
    await served(web, 1)
    async with web.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, "app")
    with pytest.raises(Conflict, match=r"Choose one with --to: gateway deployments list app$"):
        await enqueue.request_rollback(web.pool, VAULT, application, to=None, title="")
    with pytest.raises(Conflict, match="Web was not adopted"):
        await enqueue.request_rollback(web.pool, VAULT, application, to=enqueue.ADOPTED, title="")


async def test_a_rollback_skips_redeploys_of_what_serves(web: Web) -> None:
    await created(web)
    first, second, third = await served(web, 1), await served(web, 2), await served(web, 3)
    async with web.pool.acquire() as connection:
        await connection.execute(
            """
            UPDATE deployments d SET digest = s.digest, spec_hash = 'a'
              FROM deployments s
             WHERE s.deployment_id = $1 AND d.deployment_id = ANY($2)
            """,
            second,
            [second, third],
        )
        assert await versions.select_previous(connection, "app") == first
        await connection.execute("UPDATE deployments SET spec_hash = 'b' WHERE deployment_id = $1", third)
        assert await versions.select_previous(connection, "app") == second


async def test_a_version_that_never_served_is_no_target(web: Web) -> None:
    await created(web)
    status, answer = await web.post("/api/trpc/application.rollback", {"applicationId": "app"})
    assert (status, answer["error"]["json"]["data"]["code"]) == (409, "CONFLICT")
    await web.mutate("application.deploy", applicationId="app")
    (queued,) = await web.query("deployment.all", applicationId="app")
    async with web.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, "app")
        with pytest.raises(Conflict, match="never served"):
            await versions.select_version(connection, VAULT, application, queued["deploymentId"])
    status, _ = await web.post("/api/trpc/application.rollback", {"applicationId": "app", "deploymentId": "nobody"})
    assert status == 404


@pytest.mark.parametrize("forced", [True, False])
async def test_a_push_supersedes_an_automatic_rollback(web: Web, forced: bool) -> None:
    await created(web)
    for number in range(2):
        await served(web, number)
    async with web.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, "app")
    await enqueue.request_rollback(web.pool, VAULT, application, to=None, title="", forced=forced)
    status, answer = await web.post(await web.endpoint("dockerhub", ""), PUSH)
    async with web.pool.acquire() as connection:
        queued = await queue.select_queued(connection, "app")
    assert queued is not None
    if forced:
        assert (status, queued.kind) == (200, Kind.ROLLBACK)
        assert [one["reason"] for one in answer["ignored"]] == ["a person asked for another image"]
    else:
        assert (status, queued.kind) == (202, Kind.DEPLOY)
