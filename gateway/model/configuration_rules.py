"""Rules on a configuration that concern several fields. It performs no I/O.

They are checked when a configuration is saved, not when it is read: older ones stay readable when a rule is added.
"""

import posixpath

from pydantic.alias_generators import to_camel

from gateway.model.configuration import Configuration, RuntimeKind
from gateway.model.errors import InvalidInput
from gateway.model.mounts import path_and_parents
from gateway.model.ports import ALL_ADDRESSES
from gateway.model.quantities import parse_cpus, parse_memory

# https://man7.org/linux/man-pages/man2/getrlimit.2.html, as the Docker Engine calls them
_ULIMITS = frozenset({
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
    "rttime", "sigpending", "stack",
})  # fmt: skip
_UNLIMITED = -1
_MAX_ITEMS = 1000
_MAX_BYTES = 8 << 20


def validate(configuration: Configuration) -> None:
    """Raises InvalidInput naming the field that contradicts the others."""
    for rule in (
        _validate_sizes,
        _validate_ports,
        _validate_mount_targets,
        _validate_files,
        _validate_reservations,
        _validate_ulimits,
        _validate_networks,
        _validate_service_ports,
    ):
        rule(configuration)


def _validate_sizes(configuration: Configuration) -> None:
    """Every list of applications reads complete configurations, so their size is limited."""
    for name in type(configuration).model_fields:
        found = getattr(configuration, name)
        if isinstance(found, list | dict) and len(found) > _MAX_ITEMS:
            raise InvalidInput(f"{len(found)} entries are more than the limit of {_MAX_ITEMS}", field=to_camel(name))
    if len(configuration.model_dump_json()) > _MAX_BYTES:
        raise InvalidInput(f"the configuration is larger than {_MAX_BYTES} bytes: mount a volume for large files")


def _validate_ports(configuration: Configuration) -> None:
    taken: dict[tuple[int, str], set[str | None]] = {}
    for number, port in enumerate(configuration.ports):
        if port.host_ip is not None and configuration.runtime is RuntimeKind.SERVICE:
            raise InvalidInput(
                "a service publishes at all addresses of a node: leave hostIp out, or set runtime to container",
                field=f"ports.{number}.hostIp",
            )
        addresses = taken.setdefault((port.published_port, port.protocol), set())
        everywhere = port.host_ip in ALL_ADDRESSES or not ALL_ADDRESSES.isdisjoint(addresses)
        if port.host_ip in addresses or (addresses and everywhere):
            raise InvalidInput(
                f"{port.published_port}/{port.protocol} is published twice; "
                "a port of the host can lead to one port of the container only",
                field=f"ports.{number}.publishedPort",
            )
        addresses.add(port.host_ip)


def _validate_mount_targets(configuration: Configuration) -> None:
    taken: set[str] = set()
    for target, field in _mount_targets(configuration):
        if (place := posixpath.normpath(target)) in taken:
            raise InvalidInput(f"something is mounted at {target} already", field=field)
        taken.add(place)


def _mount_targets(configuration: Configuration) -> list[tuple[str, str]]:
    """Return each mount target with the name of its field."""
    mounts = [(one.target, f"mounts.{number}.target") for number, one in enumerate(configuration.mounts)]
    return mounts + [(one.target, f"tmpfs.{number}.target") for number, one in enumerate(configuration.tmpfs)]


def _validate_files(configuration: Configuration) -> None:
    """Files are copied into the file system of a container, but mounted into the task of a service."""
    if configuration.runtime is RuntimeKind.SERVICE:
        for number, mount in enumerate(configuration.mounts):
            if mount.type == "file" and not mount.content:
                raise InvalidInput("Docker Swarm cannot store an empty file", field=f"mounts.{number}.content")
        return
    files = {one.target for one in configuration.files}
    mounted = {posixpath.normpath(target): target for target, _ in _mount_targets(configuration) if target not in files}
    for target, field in _mount_targets(configuration):
        if target not in files:
            continue
        if configuration.read_only:
            raise InvalidInput(
                f"{target} cannot be copied into a container whose file system is readOnly: "
                "set runtime to service, or mount it from a directory of the host",
                field=field,
            )
        if over := next((mounted[place] for place in path_and_parents(target) if place in mounted), None):
            raise InvalidInput(
                f"{target} would be hidden by the mount at {over}: choose another path, or put it into that mount",
                field=field,
            )


def _validate_reservations(configuration: Configuration) -> None:
    for what, limit, reserved, parse in (
        ("memory", configuration.memory_limit, configuration.memory_reservation, parse_memory),
        ("cpu", configuration.cpu_limit, configuration.cpu_reservation, parse_cpus),
    ):
        if limit and reserved and parse(reserved) > parse(limit):
            raise InvalidInput(f"{reserved} is more than {what}Limit allows: {limit}", field=f"{what}Reservation")


def _validate_ulimits(configuration: Configuration) -> None:
    for number, limit in enumerate(configuration.ulimits_swarm or ()):
        if limit["Name"] not in _ULIMITS:
            raise InvalidInput(
                f"{limit['Name']!r} is not a limit of the kernel: {', '.join(sorted(_ULIMITS))}",
                field=f"ulimitsSwarm.{number}.Name",
            )
        hard = limit["Hard"]
        if hard != _UNLIMITED and (limit["Soft"] > hard or limit["Soft"] == _UNLIMITED):
            raise InvalidInput(
                f"{limit['Soft']} is more than the hard limit, {hard}", field=f"ulimitsSwarm.{number}.Soft"
            )


def _validate_networks(configuration: Configuration) -> None:
    for number, attachment in enumerate(configuration.network_swarm or ()):
        if not attachment.get("Target"):
            raise InvalidInput("the name of the network is missing", field=f"networkSwarm.{number}.Target")


def _validate_service_ports(configuration: Configuration) -> None:
    for number, port in enumerate((configuration.endpoint_spec_swarm or {}).get("Ports") or ()):
        if not port.get("TargetPort"):
            raise InvalidInput(
                "the port of the container is missing", field=f"endpointSpecSwarm.Ports.{number}.TargetPort"
            )
