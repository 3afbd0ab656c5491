"""Chooses the runtime of an application: a container, or a service of a Swarm."""

from gateway.docker.container import ownership
from gateway.docker.container.runtime import ContainerRuntime
from gateway.docker.engine import containers, services
from gateway.docker.engine.client import Engine, EngineIdentity
from gateway.docker.runtime import Runtime, Timeouts
from gateway.docker.swarm.runtime import ServiceRuntime
from gateway.model.applications import Application
from gateway.model.configuration import RuntimeKind
from gateway.model.configuration_diff import Running
from gateway.model.errors import Code, Failed, Postponed
from gateway.model.registries import CredentialsProvider


def choose_kind(
    application: Application, present: RuntimeKind | None, *, swarm_manager: bool, making: bool
) -> RuntimeKind:
    """Return the configured kind, else the kind that exists already, else a service where there is a Swarm.

    `present` is the kind that exists. Without `making`, the application is only started, stopped or removed, and the
    configured kind is ignored. Raises Failed when the configured kind is impossible.
    """
    name, chosen = application.app_name, application.configuration.runtime
    if present is not None and (chosen in {None, present} or not making):
        return present
    if present is not None:
        raise Failed(
            Code.BAD_CONFIGURATION,
            f"{name} runs as a {present} and cannot become a {chosen} in place: set runtime to auto, "
            "or delete the application and create it again",
        )
    if chosen is None:
        chosen = RuntimeKind.SERVICE if swarm_manager else RuntimeKind.CONTAINER
    if chosen is RuntimeKind.SERVICE and not swarm_manager:
        if not making:
            return RuntimeKind.CONTAINER
        raise Failed(Code.NO_SWARM, f"{name} is to run as a service, and the engine is no Swarm manager")
    if making and chosen is RuntimeKind.CONTAINER and application.configuration.service_requirement:
        raise Failed(
            Code.NO_SWARM, f"{name} has {application.configuration.service_requirement}, which a container cannot"
        )
    return chosen


async def open_runtime(
    engine: Engine,
    identity: EngineIdentity,
    application: Application,
    login: CredentialsProvider,
    timeouts: Timeouts,
    *,
    making: bool,
    begun: RuntimeKind | None,
    previous: Running | None = None,
) -> Runtime:
    """Return the application's runtime. `begun` is the kind of an open swap, `previous` the version before."""
    kind = begun
    if kind is None and identity.swarm_starting and application.configuration.runtime is not RuntimeKind.CONTAINER:
        kind = await _has_container(engine, application)
        if kind is None:
            raise Postponed(
                Code.ENGINE_BUSY,
                f"{identity.name} is a node of a Swarm that is starting, or locked (docker swarm unlock): "
                f"what {application.app_name} runs as is not known yet",
            )
    if kind is None:
        there = await detect_runtime_kind(engine, application) if identity.swarm_manager else None
        kind = choose_kind(application, there, swarm_manager=identity.swarm_manager, making=making)
    if kind is RuntimeKind.SERVICE:
        return ServiceRuntime(engine.managing(), application, login, timeouts, previous)
    return ContainerRuntime(engine, identity.platform, application, login, timeouts, previous)


async def detect_runtime_kind(engine: Engine, application: Application) -> RuntimeKind | None:
    """Return as what the application exists on a Swarm manager, or None."""
    service = await services.inspect(engine, application.app_name)
    if service is not None and ownership.labels_belong_to(application, service.labels):
        return RuntimeKind.SERVICE
    if await _has_container(engine, application):
        return RuntimeKind.CONTAINER
    if application.adopted_spec is not None:
        return RuntimeKind.SERVICE if application.adopted_spec.is_service else RuntimeKind.CONTAINER
    return None


async def _has_container(engine: Engine, application: Application) -> RuntimeKind | None:
    container = await containers.inspect(engine, application.app_name)
    there = container is not None and ownership.belongs_to(application, container)
    return RuntimeKind.CONTAINER if there else None
