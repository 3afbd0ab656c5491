"""Services of a Swarm are adopted by the labels of the service, not by those of its tasks."""

import pytest

from gateway.cli.demo.process import until
from gateway.docker.engine import services
from gateway.docker.engine.client import ReachedEngine
from gateway.model.deployments import Kind, Status
from gateway.store import applications, labelled
from gateway.store.labelled import Discovered, Paused
from gateway.worker.label_discovery import LabelDiscovery
from tests.support.real_parts import Pushes
from tests.support.rollout_env import VAULT, DeployedApp
from tests.support.swarm_application import app, pushes, supervised_swarm

__all__ = ["app", "pushes", "supervised_swarm"]  # fixtures

pytestmark = pytest.mark.long

ON = {"gateway.enable": "true"}


async def _said(app: DeployedApp) -> dict[str, Discovered]:
    async with app.pool.acquire() as connection:
        return {one.name: one for one in await labelled.select_discovered(connection, 9)}


async def test_a_service_is_adopted_by_its_label_and_not_by_that_of_its_tasks(app: DeployedApp, pushes: Pushes) -> None:
    first = await pushes("v1")
    own, by_tasks = f"own_{app.application_id}", f"tasks_{app.application_id}"
    container = {"Image": f"{pushes.name()}@{first}"}
    quick = {"UpdateConfig": {"Parallelism": 1, "Monitor": 300_000_000}}
    template = {"ContainerSpec": container, "RestartPolicy": {"Delay": 100_000_000}}
    tasks = {**template, "ContainerSpec": {**container, "Labels": ON}}
    await services.create(app.engine, {"Name": own, "Labels": ON, "TaskTemplate": template, **quick}, {})
    await services.create(app.engine, {"Name": by_tasks, "TaskTemplate": tasks, **quick}, {})
    discovery = LabelDiscovery(app.pool, VAULT, watchtower=False)
    reached = ReachedEngine(app.engine, await app.engine.identify(), [None])

    async def decided() -> dict[str, Discovered] | None:
        await discovery.look(reached)
        said = await _said(app)
        return said if len(said) == 2 else None

    said = await until(decided)
    assert "its tasks carry the label and the service does not" in said[by_tasks].reason
    application_id = said[own].application_id
    assert application_id is not None
    stack = DeployedApp(app.pool, app.engine, application_id, app.endpoint)

    second = await pushes("v2")
    deployment = await stack.ask(Kind.DEPLOY)
    assert (deployment.status, deployment.digest) == (Status.SUCCEEDED, second), deployment.reason
    await discovery.look(reached)
    assert (await _said(app))[own].paused is None

    # docker service update --label-rm gateway.enable
    service = await services.inspect(app.engine, own)
    assert service is not None
    spec = {**service.spec, "Labels": {name: text for name, text in service.labels.items() if name not in ON}}
    given = {"version": service.version}
    await app.engine.call("POST", f"services/{service.service_id}/update", params=given, body=spec)
    await discovery.look(reached)
    assert (await _said(app))[own].paused is Paused.UNLABELLED
    async with app.pool.acquire() as connection:
        assert not (await applications.select_application(connection, VAULT, application_id)).auto_deploy
