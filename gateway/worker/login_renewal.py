"""Keeps the logins of services good whose tokens end: a node may have to pull for a task that is moved, at any time.

What a service has is sent again with a newer token. That is no update of its tasks, which go on; it bears until when
the token is good. Applications that are being deployed are left alone, since that sends a fresh one too.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

import structlog

from gateway.background import isolate_failures
from gateway.docker.container import ownership
from gateway.docker.engine import services
from gateway.docker.engine.client import Engine, ReachedEngine
from gateway.docker.engine.labels import APPLICATION, LOGIN_UNTIL, image_reference
from gateway.docker.engine.services import Service
from gateway.docker.swarm import spec
from gateway.model.ecr import AwsIdentity
from gateway.model.errors import RolloutError
from gateway.model.reference import Reference
from gateway.model.registries import Credentials, select_login
from gateway.registry.client import RegistryClient
from gateway.store import applications, registries
from gateway.store.database import Pool, transaction
from gateway.store.encryption import Vault

_LOG = structlog.get_logger()

RENEW_EVERY = 60.0  # seconds


async def renew_logins(pool: Pool, vault: Vault, registry: RegistryClient, reached: ReachedEngine) -> None:
    """Go through the services of a Swarm's manager once; raises Postponed where it is away."""
    engine = reached.engine
    if not reached.identity.swarm_manager:
        return
    async with transaction(pool) as connection:
        kept = await registries.select_registries(connection, vault)
    if not any(isinstance(one.login, AwsIdentity) for one in kept):
        return
    found = {service.name: service for service in await services.list_all(engine) if APPLICATION in service.labels}
    bearing = {name: service for name, service in found.items() if not spec.is_stopped(service.spec)}
    if not bearing:
        return
    async with transaction(pool) as connection:
        resting = await applications.select_idle(connection, vault, reached.identity.engine_id, reached.server_ids)
    for application in resting:
        service = bearing.get(application.app_name)
        image = image_reference(service.labels) if service else None
        if service is None or image is None or not ownership.labels_belong_to(application, service.labels):
            continue
        with isolate_failures("logins of services", service.name), _told(service):
            login = select_login(image.repository, application.own_login, kept)
            credentials = await registry.credentials(login) if login.expires else None
            if credentials is None or not _is_newer(credentials, service.labels):
                continue
            async with transaction(pool) as connection:
                still = await applications.is_idle(connection, application.application_id)
            if still:
                await _send(engine, service, image, credentials)


@contextmanager
def _told(service: Service) -> Iterator[None]:
    try:
        yield
    except RolloutError as error:
        _LOG.warning("Cannot renew the login of a service", service=service.name, reason=str(error))


def _is_newer(credentials: Credentials, labels: Mapping[str, str]) -> bool:
    if credentials.expires_at is None:
        return False
    try:
        return datetime.fromisoformat(labels[LOGIN_UNTIL]) < credentials.expires_at
    except (KeyError, ValueError):
        return True


async def _send(engine: Engine, service: Service, image: Reference, credentials: Credentials) -> None:
    made, authorized = services.with_registry_auth(service.spec, image, credentials)
    await services.update(engine, service, made, authorized)
    _LOG.info("Renewed the login of a service", service=service.name, until=made["Labels"][LOGIN_UNTIL])
