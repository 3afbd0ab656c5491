"""Tests that a pulled image is removed once no container uses it, and only then."""

import pytest

from gateway.cli.demo.process import until
from gateway.docker.engine import containers, images
from gateway.docker.engine.client import ReachedEngine
from gateway.model.deployments import Kind, Status
from gateway.model.reference import Digest, Reference
from gateway.queue import enqueue
from gateway.store import applications
from gateway.worker.version_retention import remove_unused_images
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, DeployedApp


async def swept(app: DeployedApp) -> None:
    await remove_unused_images(app.pool, ReachedEngine(app.engine, await app.engine.identify(), [None]))


async def held(app: DeployedApp, pushes: Pushes, digest: Digest) -> bool:
    """Tell whether the engine has the image, under its digest."""
    return await images.inspect(app.engine, f"{Reference.parse(pushes.name()).repository}@{digest}") is not None


async def test_a_rollout_that_fails_after_the_pull_leaves_no_image(app: DeployedApp, pushes: Pushes) -> None:
    await pushes(f"first {pushes.path}")
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    await app.set(configuration={"networks": ["nowhere"]})
    second = await pushes(f"second {pushes.path}")
    assert (await app.ask(Kind.DEPLOY)).status is Status.FAILED
    await swept(app)
    assert not await held(app, pushes, second)


async def test_images_in_service_and_kept_are_not_removed(app: DeployedApp, pushes: Pushes) -> None:
    digests = []
    for version in ("first", "second"):
        digests.append(await pushes(f"{version} {pushes.path}"))
        assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    await swept(app)
    assert [await held(app, pushes, digest) for digest in digests] == [True, True]


async def test_a_deleted_application_leaves_no_image_and_no_tag(app: DeployedApp, pushes: Pushes) -> None:
    digest = await pushes(f"first {pushes.path}")
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    assert await images.inspect(app.engine, pushes.name()) is not None
    await _deleted(app)
    await swept(app)
    assert not await held(app, pushes, digest)
    assert await images.inspect(app.engine, pushes.name()) is None


@pytest.mark.parametrize("runs", [pytest.param(True, marks=pytest.mark.long), False])
async def test_an_image_used_by_another_container_is_not_removed(app: DeployedApp, pushes: Pushes, runs: bool) -> None:
    digest = await pushes(f"first {pushes.path}")
    assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    body = {"Image": f"{Reference.parse(pushes.name()).repository}@{digest}"}
    other = (await app.engine.call("POST", "containers/create", body=body))["Id"]
    try:
        if runs:
            await containers.start(app.engine, other)
        await _deleted(app)
        await swept(app)
        assert await held(app, pushes, digest)
    finally:
        await containers.remove(app.engine, other)
        async with app.pool.acquire() as connection:
            await connection.execute("UPDATE pulled_images SET next_look_at = now()")
    await swept(app)
    assert not await held(app, pushes, digest)


async def test_the_image_of_a_queued_deployment_is_not_removed(app: DeployedApp, pushes: Pushes) -> None:
    digest = await pushes(f"first {pushes.path}")
    await app.set(configuration={"networks": ["nowhere"]})
    failed = await app.ask(Kind.DEPLOY)
    engine_id = (await app.engine.identify()).engine_id
    reference = Reference.parse(pushes.name()).with_digest(digest)
    async with app.pool.acquire() as connection:
        await connection.execute(
            "INSERT INTO pulled_images (engine_id, application_id, repository, digest) VALUES ($1, $2, $3, $4) "
            "ON CONFLICT DO NOTHING",
            engine_id,
            "another",
            str(reference.repository),
            digest,
        )

    async def told(_detail: str) -> None:
        pass

    await images.pull(app.engine, reference, None, progress=told, stall=30)
    async with app.pool.acquire() as connection:
        await connection.execute(
            "UPDATE deployments SET status = 'queued', finished_at = NULL, next_attempt_at = now() + interval '1 hour' "
            "WHERE deployment_id = $1",
            failed.deployment_id,
        )
    await swept(app)
    assert await held(app, pushes, digest)
    async with app.pool.acquire() as connection:
        await connection.execute(
            "UPDATE deployments SET status = 'superseded', finished_at = now() WHERE deployment_id = $1",
            failed.deployment_id,
        )
    await swept(app)
    assert not await held(app, pushes, digest)


async def _deleted(app: DeployedApp) -> None:
    """Delete the application, and wait until it is gone."""
    async with app.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, app.application_id)
    await enqueue.request_state(app.pool, application, Kind.DELETE, title="")

    async def look() -> bool | None:
        async with app.pool.acquire() as connection:
            found = "SELECT FROM applications WHERE application_id = $1"
            return None if await connection.fetchrow(found, app.application_id) is not None else True

    await until(look)
