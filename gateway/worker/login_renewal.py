"""Renews the registry tokens of Swarm services before they expire: a node may have to pull for a moved task any time.

The service's spec is sent again with a new token, and a label with the token's expiry. Its tasks keep running.
Applications with a queued or running deployment are skipped, since their deployment sends a new token too.
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
from gateway.store import applications, queue, registries
from gateway.store.database import Pool, transaction
from gateway.store.encryption import Vault

_LOG = structlog.get_logger()

RENEW_INTERVAL = 60.0  # seconds


async def renew_logins(pool: Pool, vault: Vault, registry: RegistryClient, reached: ReachedEngine) -> None:
    """Renew the expiring logins of a manager's services once; raises Postponed when it is unreachable."""
    engine = reached.engine
    if not reached.identity.swarm_manager:
        return
    async with transaction(pool) as connection:
        configured = await registries.select_registries(connection, vault)
    if not any(isinstance(one.login, AwsIdentity) for one in configured):
        return
    ours = {service.name: service for service in await services.list_all(engine) if APPLICATION in service.labels}
    running = {name: service for name, service in ours.items() if not spec.is_stopped(service.spec)}
    if not running:
        return
    async with transaction(pool) as connection:
        idle = await applications.select_idle(connection, vault, reached.identity.engine_id, reached.server_ids)
    for application in idle:
        service = running.get(application.app_name)
        image = image_reference(service.labels) if service else None
        if service is None or image is None or not ownership.labels_belong_to(application, service.labels):
            continue
        with isolate_failures("logins of services", service.name), _log_errors(service):
            login = select_login(image.repository, application.own_login, configured)
            credentials = await registry.credentials(login) if login.expires else None
            if credentials is None or not _is_newer(credentials, service.labels):
                continue
            async with transaction(pool) as connection:
                still_idle = await queue.is_free(connection, application.application_id)
            if still_idle:
                await _update_login(engine, service, image, credentials)


@contextmanager
def _log_errors(service: Service) -> Iterator[None]:
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


async def _update_login(engine: Engine, service: Service, image: Reference, credentials: Credentials) -> None:
    new_spec, authorized = services.with_registry_auth(service.spec, image, credentials)
    await services.update(engine, service, new_spec, authorized)
    _LOG.info("Renewed the login of a service", service=service.name, until=new_spec["Labels"][LOGIN_UNTIL])
