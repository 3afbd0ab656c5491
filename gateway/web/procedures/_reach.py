"""Whether a probe, as it is to be saved, can be asked from here."""

from gateway.applications import Application, Configuration
from gateway.errors import InvalidInput, RolloutError
from gateway.web.context import Context, Host
from gateway.web.procedures._changes import Changes, merged

_DECIDING = frozenset({"probe", "ports", "networks"})


async def refuse_unreachable(context: Context, application: Application | None, given: Changes) -> None:
    """Raises InvalidInput where the probe's port is neither published nor routed; an engine that is away is believed.

    `application` is None where it is being created.
    """
    if not _DECIDING & given.settings.keys():
        return
    current = application.configuration if application else Configuration()
    wanted = merged(current, given.settings)
    probe = wanted.probe
    if probe is None or any((one.target_port, one.protocol) == (probe.port, "tcp") for one in wanted.ports):
        return
    host = _host_of(context, application)
    if host is None or host.error is not None:
        return
    try:
        routed = await host.routed(wanted.networks)
    except RolloutError:
        return
    if not routed:
        raise InvalidInput(
            f"the probe cannot reach port {probe.port}: the containers' addresses on {host.host} are not routed from "
            "the gateway's host, and the port is not published; publish it with ports",
            field="probe.port",
        )


def _host_of(context: Context, application: Application | None) -> Host | None:
    """Return where the application's engine is reached, by the gateway's own where it has none yet."""
    if application is None or application.engine_id is None:
        return context.rollouts.hosts[0]
    bound = application.engine_id
    return next((host for host in context.rollouts.hosts if host.identity and host.identity.engine_id == bound), None)
