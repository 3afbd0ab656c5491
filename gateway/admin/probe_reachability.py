"""Validate that the gateway can reach the port of a probe."""

from gateway.admin.applications import Changes
from gateway.admin.configuration_patch import merge_settings, setting_names
from gateway.admin.context import Context
from gateway.admin.engine_status import EngineStatus
from gateway.docker.container import adopted_spec
from gateway.model.applications import Application
from gateway.model.configuration import Configuration, RuntimeKind
from gateway.model.errors import InvalidInput, RolloutError

_NO_PROBE = "a probe does not reach the tasks of a service: set healthCheckSwarm"
_PROBE_SETTINGS = frozenset({"probe", "ports", "networks", "runtime"})


async def validate_probe(context: Context, application: Application | None, given: Changes) -> None:
    """Raises InvalidInput when the probe's port is neither published nor routed. An unreachable engine is not checked.

    `application` is None while it is created.
    """
    if not _PROBE_SETTINGS & setting_names(given.settings) and "server_id" not in given.sent_fields():
        return
    current = application.configuration if application else Configuration()
    base = application.adopted_spec if application else None
    wanted = merge_settings(current, given.settings)
    probe = wanted.probe
    if probe is None:
        return
    if wanted.runtime is RuntimeKind.SERVICE or (base is not None and base.is_service):
        raise InvalidInput(_NO_PROBE, field="probe")
    host = _engine_of(context, application, given)
    if host is not None and wanted.runtime is None and await _becomes_service(host, application):
        raise InvalidInput(f"{_NO_PROBE}, or runtime to container", field="probe")
    found = {} if base is None else base.found["HostConfig"].get("PortBindings") or {}
    if f"{probe.port}/tcp" in {*found, *(f"{one.target_port}/{one.protocol}" for one in wanted.ports)}:
        return
    if host is None or host.error is not None:
        return
    try:
        routed = await host.routed([*(adopted_spec.endpoints(base) if base else ()), *wanted.networks])
    except RolloutError:
        return
    if not routed:
        raise InvalidInput(
            f"the probe cannot reach port {probe.port}: the containers' addresses on {host.address} are not routed "
            "from the gateway's host, and the port is not published; publish it with ports",
            field="probe.port",
        )


async def _becomes_service(host: EngineStatus, application: Application | None) -> bool:
    """Whether the application runs, or will run, as a service when `runtime` is not set."""
    if host.error is not None or host.identity is None or not host.identity.swarm_manager:
        return False
    from gateway.docker import runtime_factory

    try:
        present = await runtime_factory.detect_runtime_kind(host.engine, application) if application else None
    except RolloutError:
        return False
    return present is not RuntimeKind.CONTAINER


def _engine_of(context: Context, application: Application | None, given: Changes) -> EngineStatus | None:
    """Return the engine that the application is, or will be, deployed to."""
    known = application.server_id if application else None
    server_id = given.server_id if "server_id" in given.sent_fields() else known
    return next((host for host in context.rollouts.engines if host.server_id == server_id), None)
