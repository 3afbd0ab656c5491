"""Removes containers that never served, and that the deployment which created them cannot remove any more.

A deployment that is cancelled, superseded or given up between two attempts does not clean up on its engine, and the
engine may carry out a call of a killed gateway after the deployment has ended. The next deployment of the application
would remove such a container, but it may come much later.
"""

from collections.abc import Mapping
from datetime import datetime

import structlog

from gateway.docker.container import names, retention
from gateway.docker.engine.client import Engine
from gateway.docker.engine.labels import APPLICATION, DEPLOYMENT, ORIGIN
from gateway.docker.snapshot import ListedContainer, Snapshot
from gateway.store import deployments
from gateway.store.database import Pool, statement

_LOG = structlog.get_logger()


async def remove_abandoned(pool: Pool, engine: Engine, current: Snapshot, as_of: datetime) -> None:
    """Remove the abandoned containers of a snapshot that was taken after `as_of`. Raises RolloutError.

    Nothing is removed while a deployment of the application runs or a swap is open, and no container that has run is
    removed unless another one serves.
    """
    candidates = [one for one in current.containers.values() if is_named_new(one)]
    if not candidates:
        return
    async with statement(pool) as connection:
        ended = await deployments.select_abandoned(connection, {one.labels[DEPLOYMENT] for one in candidates}, as_of)
    for one in candidates:
        application_id, app_name = ended.get(one.labels[DEPLOYMENT], (None, ""))
        if one.labels[APPLICATION] == application_id and never_served(one, app_name, current.containers):
            _LOG.info("Removing the container of a deployment that has ended", container=one.name)
            await retention.remove_new(engine, app_name, one.container_id)


def is_named_new(one: ListedContainer) -> bool:
    """Tell whether the container has the labels of a deployment and the name of its new container.

    The labels alone prove nothing, since anybody can copy them.
    """
    if ORIGIN in one.labels or APPLICATION not in one.labels or DEPLOYMENT not in one.labels:
        return False
    return one.name.endswith(names.new("", one.labels[DEPLOYMENT]))


def never_served(one: ListedContainer, app_name: str, there: Mapping[str, ListedContainer]) -> bool:
    """Tell whether the container has never run, or another one serves under the application's name."""
    serving = there.get(app_name)
    return names.is_new(app_name, one.name) and (
        one.state == "created" or (serving is not None and serving.state == "running")
    )
