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
from tests.support.rollout_env import VAULT, Lane


async def swept(lane: Lane) -> None:
    await remove_unused_images(lane.pool, ReachedEngine(lane.engine, await lane.engine.identify(), [None]))


async def held(lane: Lane, pushes: Pushes, digest: Digest) -> bool:
    """Tell whether the engine has the image, under its digest."""
    return await images.inspect(lane.engine, f"{Reference.parse(pushes.name()).repository}@{digest}") is not None


async def test_a_rollout_that_fails_after_the_pull_leaves_no_image(lane: Lane, pushes: Pushes) -> None:
    await pushes(f"first {pushes.path}")
    assert (await lane.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    await lane.set(configuration={"networks": ["nowhere"]})
    second = await pushes(f"second {pushes.path}")
    assert (await lane.ask(Kind.DEPLOY)).status is Status.FAILED
    await swept(lane)
    assert not await held(lane, pushes, second)


async def test_images_in_service_and_kept_are_not_removed(lane: Lane, pushes: Pushes) -> None:
    digests = []
    for version in ("first", "second"):
        digests.append(await pushes(f"{version} {pushes.path}"))
        assert (await lane.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    await swept(lane)
    assert [await held(lane, pushes, digest) for digest in digests] == [True, True]


async def test_a_deleted_application_leaves_no_image_and_no_tag(lane: Lane, pushes: Pushes) -> None:
    digest = await pushes(f"first {pushes.path}")
    assert (await lane.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    assert await images.inspect(lane.engine, pushes.name()) is not None
    await _deleted(lane)
    await swept(lane)
    assert not await held(lane, pushes, digest)
    assert await images.inspect(lane.engine, pushes.name()) is None


@pytest.mark.parametrize("runs", [True, False])
async def test_an_image_used_by_another_container_is_not_removed(lane: Lane, pushes: Pushes, runs: bool) -> None:
    digest = await pushes(f"first {pushes.path}")
    assert (await lane.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    body = {"Image": f"{Reference.parse(pushes.name()).repository}@{digest}"}
    other = (await lane.engine.call("POST", "containers/create", body=body))["Id"]
    try:
        if runs:
            await containers.start(lane.engine, other)
        await _deleted(lane)
        await swept(lane)
        assert await held(lane, pushes, digest)
    finally:
        await containers.remove(lane.engine, other)
        async with lane.pool.acquire() as connection:
            await connection.execute("UPDATE pulled_images SET next_look_at = now()")
    await swept(lane)
    assert not await held(lane, pushes, digest)


async def test_the_image_of_a_queued_deployment_is_not_removed(lane: Lane, pushes: Pushes) -> None:
    digest = await pushes(f"first {pushes.path}")
    await lane.set(configuration={"networks": ["nowhere"]})
    failed = await lane.ask(Kind.DEPLOY)
    engine_id = (await lane.engine.identify()).engine_id
    reference = Reference.parse(pushes.name()).with_digest(digest)
    async with lane.pool.acquire() as connection:
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

    await images.pull(lane.engine, reference, None, progress=told, stall=30)
    async with lane.pool.acquire() as connection:
        await connection.execute(
            "UPDATE deployments SET status = 'queued', finished_at = NULL, next_attempt_at = now() + interval '1 hour' "
            "WHERE deployment_id = $1",
            failed.deployment_id,
        )
    await swept(lane)
    assert await held(lane, pushes, digest)
    async with lane.pool.acquire() as connection:
        await connection.execute(
            "UPDATE deployments SET status = 'superseded', finished_at = now() WHERE deployment_id = $1",
            failed.deployment_id,
        )
    await swept(lane)
    assert not await held(lane, pushes, digest)


async def _deleted(lane: Lane) -> None:
    """Delete the application, and wait until it is gone."""
    async with lane.pool.acquire() as connection:
        application = await applications.select_application(connection, VAULT, lane.application_id)
    await enqueue.request_state(lane.pool, application, Kind.DELETE, title="")

    async def look() -> bool | None:
        async with lane.pool.acquire() as connection:
            found = "SELECT FROM applications WHERE application_id = $1"
            return None if await connection.fetchrow(found, lane.application_id) is not None else True

    await until(look)
