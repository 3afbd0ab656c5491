"""Builds the creation request of a container from an application. No I/O.

https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerCreate
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.docker.container import adopted_spec
from gateway.docker.engine.labels import (
    APPLICATION,
    ATTEMPT,
    DEPLOYMENT,
    DIGEST,
    IMAGE,
    RESTART,
    SPEC,
    installation_label,
)
from gateway.docker.runtime import Version
from gateway.model.applications import Application
from gateway.model.configuration import Configuration, parse_command
from gateway.model.quantities import parse_cpus, parse_memory
from gateway.model.swarm import RestartPolicy

# The engine's default network, which does not resolve container names.
_BRIDGE = "bridge"
_DEFAULT_GRACE = Configuration().stop_grace

# Part of the hash: log options that every container once had. Without them all stored hashes would change.
_FORMER_LOG = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}


def user_config(application: Application) -> dict[str, Any]:
    """Return the request with only what the user configured. The rest is left to the image.

    For an adopted container that is its own configuration, with the application's columns merged over it.
    """
    columns = _columns(application)
    if application.adopted_spec is None or application.adopted_spec.is_service:
        body = _with_defaults(columns, application)
    else:
        body = adopted_spec.merge(adopted_spec.user_config(application.adopted_spec), columns)
    return attach_first_network(body, endpoints(application))


def is_fully_specified(application: Application) -> bool:
    """Return whether the columns alone specify the container, with no adopted container under them."""
    return application.adopted_spec is None or application.adopted_spec.is_service


def _with_defaults(columns: dict[str, Any], application: Application) -> dict[str, Any]:
    host = {"RestartPolicy": {"Name": "unless-stopped"}}
    return {"StopTimeout": application.configuration.stop_grace, **columns, "HostConfig": host | columns["HostConfig"]}


def _columns(application: Application) -> dict[str, Any]:
    """Return the part of the request that the application's columns set."""
    configuration = application.configuration
    ports = _port_bindings(configuration)
    body: dict[str, Any] = {
        "Labels": dict(configuration.labels),
        "HostConfig": {"PortBindings": ports, "Mounts": _mounts(configuration), **_host_config(configuration)},
        "ExposedPorts": {inside: {} for inside in ports},
    }
    if application.environment:
        body["Env"] = [f"{name}={value}" for name, value in application.variables.items()]
    if command := _command(application):
        body["Cmd"] = command
    if check := configuration.health_check_swarm:
        body["Healthcheck"] = {name: value for name, value in check.items() if value is not None}
    if configuration.stop_grace != _DEFAULT_GRACE:
        body["StopTimeout"] = configuration.stop_grace
    program = {
        "User": configuration.user,
        "WorkingDir": configuration.working_dir,
        "Hostname": configuration.hostname,
    }
    return body | {name: value for name, value in program.items() if value is not None}


def _port_bindings(configuration: Configuration) -> dict[str, list[dict[str, str]]]:
    """Return the bindings by container port. endpointSpecSwarm replaces all others."""
    ports: dict[str, list[dict[str, str]]] = {}
    chosen = (configuration.endpoint_spec_swarm or {}).get("Ports")
    if chosen is not None:
        for one in chosen:
            if "TargetPort" not in one:  # saved before this was validated: it leads nowhere
                continue
            inside = f"{one['TargetPort']}/{one.get('Protocol', 'tcp')}"
            ports.setdefault(inside, []).append({"HostPort": str(one.get("PublishedPort") or "")})
        return ports
    for port in configuration.ports:
        at = {} if port.host_ip is None else {"HostIp": port.host_ip}
        ports.setdefault(f"{port.target_port}/{port.protocol}", []).append({"HostPort": str(port.published_port), **at})
    return ports


def _mounts(configuration: Configuration) -> list[dict[str, Any]]:
    """Return the mounts without files, which are written into the created container."""
    mounts: list[dict[str, Any]] = [
        {"Type": mount.type, "Source": mount.source, "Target": mount.target, "ReadOnly": mount.read_only}
        for mount in configuration.mounts
        if mount.type != "file"
    ]
    for tmpfs in configuration.tmpfs:
        size = {"TmpfsOptions": {"SizeBytes": parse_memory(tmpfs.size, least=1)}} if tmpfs.size else {}
        mounts.append({"Type": "tmpfs", "Target": tmpfs.target, **size})
    return mounts


def _host_config(configuration: Configuration) -> dict[str, Any]:
    host: dict[str, Any] = {
        "CapAdd": configuration.cap_add,
        "CapDrop": configuration.cap_drop,
        "ExtraHosts": configuration.extra_hosts,
        "Ulimits": configuration.ulimits_swarm,
        "ReadonlyRootfs": configuration.read_only,
    }
    host = {name: value for name, value in host.items() if value}
    if configuration.memory_limit:
        # MemorySwap includes memory, so an equal value allows no swap.
        host["Memory"] = host["MemorySwap"] = parse_memory(configuration.memory_limit)
    if configuration.memory_reservation:
        host["MemoryReservation"] = parse_memory(configuration.memory_reservation)
    if configuration.cpu_limit:
        host["NanoCpus"] = parse_cpus(configuration.cpu_limit)
    if configuration.init is not None:
        host["Init"] = configuration.init
    if configuration.restart_policy_swarm:
        host["RestartPolicy"] = _restart_policy(configuration.restart_policy_swarm)
    return host


def _restart_policy(chosen: RestartPolicy) -> dict[str, object]:
    """Return the container restart policy for a Swarm's restart condition."""
    match chosen.get("Condition"):
        case "none":
            return {"Name": "no"}
        case "on-failure":
            return {"Name": "on-failure", "MaximumRetryCount": chosen.get("MaxAttempts") or 0}
        case _:
            return {"Name": "unless-stopped"}


def attach_first_network(body: dict[str, Any], endpoints: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the request with its first network set as the network mode."""
    if not endpoints:
        return body
    first = next(iter(endpoints))
    if first != _BRIDGE or endpoints[first]:
        body["HostConfig"]["NetworkMode"] = first
        body["NetworkingConfig"] = {"EndpointsConfig": {first: endpoints[first]}}
    return body


def endpoints(application: Application) -> dict[str, dict[str, Any]]:
    """Return the endpoint settings by network. The container's name is an alias that the engine adds."""
    found: dict[str, dict[str, Any]] = {}
    if application.adopted_spec is not None and not application.adopted_spec.is_service:
        found = adopted_spec.endpoints(application.adopted_spec)
    configuration = application.configuration
    found |= {name: {} for name in configuration.networks if name not in found}
    for attachment in configuration.network_swarm or ():
        chosen = {name: value for name, value in attachment.items() if name != "Target" and value not in (None, [], {})}
        if name := attachment.get("Target"):  # an attachment without one was saved before this was validated
            found[name] = {**found.get(name, {}), **chosen}
    return found


def strip_aliases(endpoints: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the endpoints without aliases, so that no client finds the container through them."""
    return {
        name: {key: value for key, value in endpoint.items() if key != "Aliases"}
        for name, endpoint in endpoints.items()
    }


def without_aliases(body: dict[str, Any]) -> dict[str, Any]:
    """Return the request with the aliases removed from its endpoint."""
    networking = body.get("NetworkingConfig")
    if networking is None:
        return body
    return body | {"NetworkingConfig": {"EndpointsConfig": strip_aliases(networking["EndpointsConfig"])}}


def _command(application: Application) -> list[str]:
    configuration = application.configuration
    words = parse_command(configuration.command) if configuration.command else []
    return words + (configuration.args or [])


def spec_hash(application: Application) -> str:
    """Return a hash of everything the user configured."""
    body = user_config(application)
    if is_fully_specified(application):
        body["HostConfig"]["LogConfig"] = _FORMER_LOG
    choice: list[Any] = [body, endpoints(application)]
    if files := application.configuration.files:
        choice.append([[file.target, file.digest] for file in files])
    return hashlib.sha256(orjson.dumps(choice, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def create_body(application: Application, version: Version) -> dict[str, Any]:
    """Return the whole creation request. Its labels identify the container."""
    body = user_config(application)
    image = str(version.reference.with_digest(version.digest))
    labels = {
        APPLICATION: application.application_id,
        DEPLOYMENT: version.deployment_id,
        ATTEMPT: str(version.attempt),
        DIGEST: version.digest,
        SPEC: spec_hash(application),
        IMAGE: image,
        RESTART: _format_restart_policy(body["HostConfig"]["RestartPolicy"]),
        **installation_label(application),
    }
    return body | {"Image": image, "Labels": body["Labels"] | labels}


def _format_restart_policy(policy: Mapping[str, Any]) -> str:
    """Return the policy in the form of `docker run --restart`."""
    count = policy.get("MaximumRetryCount")
    return f"{policy['Name']}:{count}" if count else str(policy["Name"])
