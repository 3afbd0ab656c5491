"""Settings of a configuration that reach beyond its container: the host, and other applications. It performs no I/O.

Whoever may set these can become root on the host, or read data of others. A restricted key of scope admin may not set
them, unless a setting allows it. What was set before may stay.
"""

from collections.abc import Iterator

from gateway.model.configuration import Configuration

#: capabilities that the engine gives every container
_DEFAULT_CAPABILITIES = frozenset({
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW",
    "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
})  # fmt: skip
#: network of a container without a chosen one
_DEFAULT_NETWORK = "bridge"
#: seconds; a swap holds one of the engine's slots for as long
_MAX_STOP_GRACE = 120


def is_own_volume(app_name: str, volume: str) -> bool:
    """Tell from its name whether a volume belongs to an application.

    >>> is_own_volume("web-1", "web-1-data"), is_own_volume("web-1", "db_data")
    (True, False)
    """
    return volume == app_name or volume.startswith(f"{app_name}-")


def required_privileges(configuration: Configuration, app_name: str) -> dict[str, str]:
    """Return the required privileges, worded to follow "may not", each with its field."""
    return dict(_privileges(configuration, app_name))


def _privileges(configuration: Configuration, app_name: str) -> Iterator[tuple[str, str]]:
    for words in _mount_privileges(configuration, app_name):
        yield words, "mounts"
    for capability in configuration.cap_add:
        if capability.removeprefix("CAP_") not in _DEFAULT_CAPABILITIES:
            yield f"have the capability {capability}", "capAdd"
    for network in configuration.networks:
        if network != _DEFAULT_NETWORK:
            yield f"join the network {network}", "networks"
    for words in _network_privileges(configuration):
        yield words, "networkSwarm"
    if configuration.stop_grace > _MAX_STOP_GRACE:
        words = f"take {configuration.stop_grace} s to stop, which is more than {_MAX_STOP_GRACE} s"
        yield words, "stopGrace"


def _mount_privileges(configuration: Configuration, app_name: str) -> Iterator[str]:
    for mount in configuration.mounts:
        if mount.type == "bind":
            yield f"{'read' if mount.read_only else 'mount'} {mount.source} of the host"
        if mount.type == "volume" and not is_own_volume(app_name, mount.source):
            yield f"mount the volume {mount.source}, whose name does not start with {app_name}-: it may be another's"


def _network_privileges(configuration: Configuration) -> Iterator[str]:
    for attachment in configuration.network_swarm or ():
        target = attachment.get("Target")
        yield f"join the network {target}"
        yield from (f"be called {alias} on the network {target}" for alias in attachment.get("Aliases") or ())
        options = attachment.get("DriverOpts") or {}
        yield from (f"have {name}={value} on the network {target}" for name, value in options.items())


def first_added_privilege(before: Configuration, wanted: Configuration, app_name: str) -> tuple[str, str] | None:
    """Return the first privilege that was not required before, and its field."""
    had = required_privileges(before, app_name)
    return next(
        ((words, field) for words, field in required_privileges(wanted, app_name).items() if words not in had), None
    )
