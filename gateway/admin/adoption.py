"""Adopt a container or service that docker run, Compose or a stack started. Its first deployment replaces it."""

from collections.abc import Sequence
from typing import Any

from gateway.docker import adoption, snapshot
from gateway.docker.container import adopted_spec
from gateway.docker.container.ownership import belongs_to
from gateway.docker.engine import containers
from gateway.docker.engine.client import Engine, EngineIdentity
from gateway.docker.engine.labels import ORIGIN
from gateway.docker.snapshot import Snapshot
from gateway.model.adoption import AdoptedSpec
from gateway.model.applications import Application
from gateway.model.configuration import MAX_STOP_GRACE
from gateway.model.errors import Conflict, RolloutError, Unavailable
from gateway.model.reference import Reference
from gateway.store import applications, deploy_tokens, engines, labelled, observations, subscriptions
from gateway.store.database import Connection, Pool, transaction
from gateway.store.encryption import Vault


async def adopt(
    pool: Pool, vault: Vault, engine: Engine, container: str, *, name: str | None = None, server_id: str | None = None
) -> str:
    """Adopt the container or service, and return the application's id.

    Adopting it again changes nothing where it is as it was; where it was created again, or changed by hand, it is
    stored as it is now. Raises NotFound; Conflict when it is the gateway's own or belongs to another application;
    InvalidInput when its image has no name; Unavailable when the engine does not answer.
    """
    try:
        identity = await engine.identify()
        base = await adoption.inspect_existing(engine, container, host_name=identity.name)
        current = await snapshot.take_snapshot(engine, identity, {}, container=base.name)
    except RolloutError as error:
        raise Unavailable(f"cannot inspect {container} on the Docker Engine: {error}") from error
    async with transaction(pool) as connection:
        known = await select_adopted(connection, vault, base, identity, server_id)
        if known is not None and await _refresh(connection, vault, known, base):
            return known
        adopted = await store_adopted(connection, vault, base, identity, known, name=name, server_id=server_id)
        if known is None:
            await observe_new(connection, adopted, identity.engine_id, [server_id], current)
        return adopted


async def _refresh(connection: Connection, vault: Vault, application_id: str, base: AdoptedSpec) -> bool:
    """Store anew what the application adopted, where it differs; False when `base` is another container or service.

    The image that the application follows stays, unless that of a service was changed.
    """
    before = (await applications.select_application(connection, vault, application_id)).adopted_spec
    if before is None or not (is_copy(base, before) or before.object_id == base.object_id):
        return False
    if is_copy(base, before) or base == before:
        return True
    reference, changes = followed_reference(base), dict[str, object](base=base.dump())
    moved = reference != followed_reference(before)
    if moved:
        changes["docker_image"] = str(reference)
    await applications.update_application(connection, vault, application_id, changes)
    if moved:
        await subscriptions.replace_subscription(connection, application_id, reference)
    return True


def is_copy(base: AdoptedSpec, original: AdoptedSpec) -> bool:
    """Tell whether the gateway copied the container that was adopted, since that was gone."""
    return not base.is_service and (base.found["Config"].get("Labels") or {}).get(ORIGIN) == original.object_id


async def store_adopted(
    connection: Connection,
    vault: Vault,
    base: AdoptedSpec,
    identity: EngineIdentity,
    known: str | None,
    *,
    name: str | None,
    server_id: str | None,
) -> str:
    """Store what was inspected as a new application, or as the `known` one, and return its id. Raises Conflict."""
    reference = followed_reference(base)
    changes: dict[str, object] = {"base": base.dump(), "docker_image": str(reference), "server_id": server_id}
    await _store_engine(connection, identity)
    application_id = known or await applications.insert_application(
        connection,
        application_id=None,
        name=name or base.name,
        app_name=base.name,
        description=None,
        server_id=server_id,
    )
    if known is None:
        changes["configuration"] = configuration_of(base)
        await deploy_tokens.renew_token(connection, vault, application_id)
    await applications.update_application(connection, vault, application_id, changes)
    await applications.bind_engine(connection, application_id, identity.engine_id)
    await subscriptions.replace_subscription(connection, application_id, reference)
    return application_id


def followed_reference(base: AdoptedSpec) -> Reference:
    """Return the image as pushes name it, by its tag. The digest only says what ran at the time of adoption."""
    return base.reference if base.reference.tag is None else base.reference.without_digest()


async def observe_new(
    connection: Connection,
    application_id: str,
    engine_id: str,
    server_ids: Sequence[str | None],
    current: Snapshot,
) -> None:
    """Store the state of a new application: the gateway that watches the engine may look only in a minute."""
    all_expected, as_of = await observations.select_expected(
        connection, engine_id, server_ids, application_id=application_id
    )
    states = {one.application_id: snapshot.observe(one, current) for one in all_expected}
    await observations.upsert_observations(connection, states, as_of)


async def adopt_recreated(
    pool: Pool, vault: Vault, engine: Engine, identity: EngineIdentity, application: Application
) -> str | None:
    """Adopt the container that Compose created in place of an adopted one, and return a message; None if it did not.

    The application keeps its image, unless Compose uses another one. Raises RolloutError, and Conflict when the
    container belongs to another application.
    """
    base, name = application.adopted_spec, application.app_name
    if base is None or base.is_service:
        return None
    found, raw = await containers.inspect(engine, name), await containers.inspect_raw(engine, name)
    if (
        found is None
        or raw is None
        or belongs_to(application, found)
        or not adopted_spec.belongs_to_compose(found.labels)
    ):
        return None
    # Compose puts its labels on the images that it builds, too.
    if not adopted_spec.recreated_by_compose(
        base.found["Config"].get("Labels") or {}, raw["Config"].get("Labels") or {}
    ):
        return None
    fresh = await adoption.inspect_existing(engine, name, host_name=identity.name)
    reference, before = fresh.reference.without_digest(), base.reference.without_digest()
    changes: dict[str, object] = {"base": fresh.dump()}
    if reference != before:
        changes["docker_image"] = str(reference)
    async with transaction(pool) as connection:
        await applications.update_application(connection, vault, application.application_id, changes)
        if reference != before:
            await subscriptions.replace_subscription(connection, application.application_id, reference)
    moved = f", of {reference} instead of {before}" if reference != before else ""
    return f"Compose created {name} again{moved}: it was adopted as it is now"


def configuration_of(base: AdoptedSpec) -> dict[str, Any]:
    """Return the settings that the application needs in its own configuration: replicas, mode and stop grace."""
    if base.is_service:
        template, mode = base.found["TaskTemplate"]["ContainerSpec"], base.found["Mode"]
        grace = None if template.get("StopGracePeriod") is None else template["StopGracePeriod"] // 10**9
        replicas = (mode.get("Replicated") or {}).get("Replicas", 1)
        columns = {"modeSwarm": {"Global": {}}} if "Global" in mode else {"replicas": max(replicas, 1)}
    else:
        grace, columns = base.found["Config"].get("StopTimeout"), {}
    if grace is None:
        return columns
    return {**columns, "stopGrace": min(grace, MAX_STOP_GRACE) if grace >= 0 else MAX_STOP_GRACE}


async def _store_engine(connection: Connection, identity: EngineIdentity) -> None:
    await engines.upsert_engine(
        connection,
        engine_id=identity.engine_id,
        name=identity.name,
        version=identity.version,
        platform=identity.platform,
        swarm_manager=identity.swarm_manager,
    )


async def select_adopted(
    connection: Connection, vault: Vault, base: AdoptedSpec, identity: EngineIdentity, server_id: str | None
) -> str | None:
    """Return the id of the application adopted under this name; raises Conflict when it is a different application."""
    app_name = base.name
    application_id = await applications.select_named(connection, app_name, server_id)
    if application_id is None:
        return None
    found = await applications.select_application(connection, vault, application_id)
    if found.adopted_spec is None or found.engine_id != identity.engine_id:
        raise Conflict(
            f"another application, {application_id}, is called {app_name} on this engine already: "
            "delete it, or rename the container"
        )
    return application_id


async def select_adopted_elsewhere(
    connection: Connection, vault: Vault, base: AdoptedSpec, identity: EngineIdentity, server_id: str | None
) -> str | None:
    """Return the application that adopted this very container or service at another address, or on another manager."""
    here = await applications.select_named(connection, base.name, server_id)
    named = await labelled.select_same_named(connection, base.name, identity.engine_id, is_service=base.is_service)
    for application_id in (one for one in named if one != here):
        spec = (await applications.select_application(connection, vault, application_id)).adopted_spec
        if spec is not None and spec.object_id == base.object_id:
            return application_id
    return None
