"""What of a configuration reaches beyond its container: to the host, and what others have there. It performs no I/O.

Whoever may set these is root on the host, or reads what belongs to others: a key of scope admin that is for some
applications or projects may not, unless a setting says so. What somebody else has set may stay.
"""

from collections.abc import Iterator

from gateway.model.configuration import Configuration

#: what the engine gives each container anyway
_DEFAULT_CAPABILITIES = frozenset({
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW",
    "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
})  # fmt: skip
#: the network of a container for which none is chosen
_DEFAULT_NETWORK = "bridge"


def is_own_volume(app_name: str, volume: str) -> bool:
    """Tell whether a volume is an application's by its name.

    >>> own_volume("web-1", "web-1-data"), own_volume("web-1", "db_data")
    (True, False)
    """
    return volume == app_name or volume.startswith(f"{app_name}-")


def required_privileges(configuration: Configuration, app_name: str) -> dict[str, str]:
    """Return each in words that fit "may not", and the field it stands in."""
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


def _mount_privileges(configuration: Configuration, app_name: str) -> Iterator[str]:
    for mount in configuration.mounts:
        if mount.type == "bind":
            yield f"{'read' if mount.read_only else 'mount'} {mount.source} of the host"
        if mount.type == "volume" and not is_own_volume(app_name, mount.source):
            yield f"mount the volume {mount.source}, which is not called {app_name}-… and may be another's"


def _network_privileges(configuration: Configuration) -> Iterator[str]:
    for attachment in configuration.network_swarm or ():
        target = attachment.get("Target")
        yield f"join the network {target}"
        yield from (f"be called {alias} on the network {target}" for alias in attachment.get("Aliases") or ())
        options = attachment.get("DriverOpts") or {}
        yield from (f"have {name}={value} on the network {target}" for name, value in options.items())


def first_added_privilege(before: Configuration, wanted: Configuration, app_name: str) -> tuple[str, str] | None:
    """Return the first power that was not there before, and its field."""
    had = required_privileges(before, app_name)
    return next(
        ((words, field) for words, field in required_privileges(wanted, app_name).items() if words not in had), None
    )
