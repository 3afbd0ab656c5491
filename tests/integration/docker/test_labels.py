"""The gateway recognizes its own containers, despite labels of images and of other gateways on the engine."""

from dataclasses import replace

import pytest

from gateway.cli.demo.images import Image, push
from gateway.docker import adoption, snapshot
from gateway.docker.container import adopted_spec, ownership
from gateway.docker.container.runtime import ContainerRuntime
from gateway.docker.engine import containers
from gateway.docker.engine.labels import APPLICATION, INSTALLATION, own_labels
from gateway.docker.runtime import Timeouts
from gateway.model.applications import Application
from gateway.model.deployments import Kind, Status
from gateway.model.errors import Code, Failed
from gateway.model.registries import anonymous
from gateway.store import applications
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, Lane

OURS = {"gateway.application": "web", "gateway.deployment": "d2", "gateway.digest": "sha256:2"}


@pytest.mark.parametrize(
    ("image", "own"),
    [
        ({}, OURS),
        ({"gateway.application": "other", "gateway.deployment": "d1"}, OURS),
        # Made of one of our containers, of the same application and digest.
        ({**OURS, "gateway.deployment": "d1"}, OURS),
        # Run by hand, of such an image.
        (OURS, {}),
        ({**OURS, "team": "a"}, {}),
    ],
)
def test_a_label_of_the_image_is_not_the_containers(image: dict[str, str], own: dict[str, str]) -> None:
    assert own_labels({**image, **OURS}, image) == own


def test_a_compose_project_label_on_an_image_does_not_make_its_container_composes() -> None:
    built = {"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}
    assert not adopted_spec.belongs_to_compose(own_labels(built, built))
    assert adopted_spec.belongs_to_compose(own_labels({**built, "com.docker.compose.config-hash": "h"}, built))


async def of(lane: Lane) -> Application:
    async with lane.pool.acquire() as connection:
        return await applications.select_application(connection, VAULT, lane.application_id)


async def runtime(lane: Lane, **otherwise: object) -> ContainerRuntime:
    timeouts = Timeouts(stable_window=0.3, health_deadline=15, pull_stall=15, call_margin=5, kept_for=60)
    application = replace(await of(lane), **otherwise)  # type: ignore[arg-type]
    return ContainerRuntime(lane.engine, (await lane.engine.identify()).platform, application, anonymous, timeouts)


async def by_hand(lane: Lane, image: str, labels: dict[str, str] | None = None) -> str:
    return await containers.create(
        lane.engine, f"somebodys-{lane.application_id}", {"Image": image, "Labels": labels}, {}
    )


async def test_a_foreign_container_of_an_image_with_gateway_labels_is_not_removed(lane: Lane, pushes: Pushes) -> None:
    await pushes("v1")
    await lane.ask(Kind.DEPLOY)
    ours = (await lane.serving()).labels
    await push(Image("v2", config={"Labels": ours}), pushes.name())  # as docker commit makes one
    deployed = await lane.ask(Kind.DEPLOY)
    assert deployed.status is Status.SUCCEEDED, deployed.reason
    assert len(await lane.containers()) == 2
    assert deployed.digest is not None
    kept = f"{pushes.address}/{pushes.path}@{deployed.digest}"
    database = await by_hand(lane, kept)
    seen = await snapshot.take_snapshot(lane.engine, await lane.engine.identify(), {})
    assert APPLICATION in seen.containers[f"app-{lane.application_id}"].labels
    assert APPLICATION not in seen.containers[f"somebodys-{lane.application_id}"].labels
    assert (await adoption.inspect_existing(lane.engine, database, host_name="")).object_id == database
    await (await runtime(lane)).remove()
    assert await lane.containers() == []
    assert await containers.inspect(lane.engine, database) is not None
    await containers.remove(lane.engine, database)


async def test_a_replaced_container_is_kept_despite_compose_labels_of_its_image(lane: Lane, pushes: Pushes) -> None:
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}
    for version in ("v1", "v2"):
        await push(Image(version, config={"Labels": labels}), pushes.name())
        assert (await lane.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    assert len(await lane.containers()) == 2


async def test_another_installation_neither_adopts_nor_removes_an_application_with_the_same_id(
    lane: Lane, pushes: Pushes
) -> None:
    await pushes("v1")
    await lane.ask(Kind.DEPLOY)
    before = await lane.serving()
    assert before.labels[INSTALLATION] == (await of(lane)).installation_id
    another = await runtime(lane, installation_id="another", unlabelled_deployments=frozenset())
    with pytest.raises(Failed, match="another gateway, with a database of its own") as refused:
        await another.serving()
    assert refused.value.reason.code is Code.NAME_TAKEN
    await another.remove_leftovers()
    await another.prune_kept()
    await another.remove()
    assert (await lane.serving()).container_id == before.container_id
    assert (await lane.ask(Kind.DEPLOY)).status is Status.UNCHANGED


async def test_a_container_without_an_installation_label_is_known_by_its_deployment(lane: Lane, pushes: Pushes) -> None:
    await pushes("v1")
    first = await lane.ask(Kind.DEPLOY)
    found = await lane.serving()
    former = {name: value for name, value in found.labels.items() if name != INSTALLATION}
    made = replace(found, labels=former)
    assert not ownership.belongs_to(await of(lane), made)
    async with lane.pool.acquire() as connection:
        await connection.execute(
            "UPDATE deployments SET epoch = epoch + 1 WHERE deployment_id = $1", first.deployment_id
        )
    assert ownership.belongs_to(await of(lane), made)
    assert "deployment unknown here" in ownership.describe_conflict(
        replace(await of(lane), unlabelled_deployments=frozenset()), made
    )
