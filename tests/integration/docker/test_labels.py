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
from tests.support.rollout_env import VAULT, DeployedApp

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


async def of(app: DeployedApp) -> Application:
    async with app.pool.acquire() as connection:
        return await applications.select_application(connection, VAULT, app.application_id)


async def runtime(app: DeployedApp, **otherwise: object) -> ContainerRuntime:
    timeouts = Timeouts(stable_window=0.3, health_deadline=15, pull_stall=15, call_margin=5, kept_for=60)
    application = replace(await of(app), **otherwise)  # type: ignore[arg-type]
    return ContainerRuntime(app.engine, (await app.engine.identify()).platform, application, anonymous, timeouts)


async def by_hand(app: DeployedApp, image: str, labels: dict[str, str] | None = None) -> str:
    return await containers.create(
        app.engine, f"somebodys-{app.application_id}", {"Image": image, "Labels": labels}, {}
    )


async def test_a_foreign_container_of_an_image_with_gateway_labels_is_not_removed(
    app: DeployedApp, pushes: Pushes
) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    ours = (await app.serving()).labels
    await push(Image("v2", config={"Labels": ours}), pushes.name())  # as docker commit makes one
    deployed = await app.ask(Kind.DEPLOY)
    assert deployed.status is Status.SUCCEEDED, deployed.reason
    assert len(await app.containers()) == 2
    assert deployed.digest is not None
    kept = f"{pushes.address}/{pushes.path}@{deployed.digest}"
    database = await by_hand(app, kept)
    seen = await snapshot.take_snapshot(app.engine, await app.engine.identify(), {})
    assert APPLICATION in seen.containers[f"app-{app.application_id}"].labels
    assert APPLICATION not in seen.containers[f"somebodys-{app.application_id}"].labels
    assert (await adoption.inspect_existing(app.engine, database, host_name="")).object_id == database
    await (await runtime(app)).remove()
    assert await app.containers() == []
    assert await containers.inspect(app.engine, database) is not None
    await containers.remove(app.engine, database)


async def test_a_replaced_container_is_kept_despite_compose_labels_of_its_image(
    app: DeployedApp, pushes: Pushes
) -> None:
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}
    for version in ("v1", "v2"):
        await push(Image(version, config={"Labels": labels}), pushes.name())
        assert (await app.ask(Kind.DEPLOY)).status is Status.SUCCEEDED
    assert len(await app.containers()) == 2


async def test_another_installation_neither_adopts_nor_removes_an_application_with_the_same_id(
    app: DeployedApp, pushes: Pushes
) -> None:
    await pushes("v1")
    await app.ask(Kind.DEPLOY)
    before = await app.serving()
    assert before.labels[INSTALLATION] == (await of(app)).installation_id
    another = await runtime(app, installation_id="another", unlabelled_deployments=frozenset())
    with pytest.raises(Failed, match="another gateway, with a database of its own") as refused:
        await another.serving()
    assert refused.value.reason.code is Code.NAME_TAKEN
    await another.remove_leftovers()
    await another.prune_kept()
    await another.remove()
    assert (await app.serving()).container_id == before.container_id
    assert (await app.ask(Kind.DEPLOY)).status is Status.UNCHANGED


async def test_a_container_without_an_installation_label_is_known_by_its_deployment(
    app: DeployedApp, pushes: Pushes
) -> None:
    await pushes("v1")
    first = await app.ask(Kind.DEPLOY)
    found = await app.serving()
    former = {name: value for name, value in found.labels.items() if name != INSTALLATION}
    made = replace(found, labels=former)
    assert not ownership.belongs_to(await of(app), made)
    async with app.pool.acquire() as connection:
        await connection.execute(
            "UPDATE deployments SET epoch = epoch + 1 WHERE deployment_id = $1", first.deployment_id
        )
    assert ownership.belongs_to(await of(app), made)
    assert "deployment unknown here" in ownership.describe_conflict(
        replace(await of(app), unlabelled_deployments=frozenset()), made
    )
