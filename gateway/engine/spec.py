"""What to ask the engine for: a container's creation request, built from an application. It performs no I/O."""

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.applications import Application
from gateway.configuration import Configuration, parse_command
from gateway.engine import adoption
from gateway.engine.runtime import Version
from gateway.quantities import parse_cpus, parse_memory
from gateway.reference import Reference

APPLICATION = "gateway.application"
DEPLOYMENT = "gateway.deployment"
ATTEMPT = "gateway.attempt"
DIGEST = "gateway.digest"
SPEC = "gateway.spec"
IMAGE = "gateway.image"
#: of a service whose nodes have a login that ends
LOGIN_UNTIL = "gateway.login-until"
RESTART = "gateway.restart"
#: on the like of a container that we did not make: the id of that
ORIGIN = "gateway.origin"

# Of the engine's own networks the one that containers join by default, and find nobody by name on.
_BRIDGE = "bridge"
_DEFAULT_GRACE = Configuration().stop_grace

# Bounded, since a container that loops would fill the disk with its log.
_LOG = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}


def wanted(application: Application) -> dict[str, Any]:
    """Return all that the user chose, and nothing else: what the image chooses is left to the image.

    Of what was adopted, that is what it was found with, and what the columns set over it.
    """
    columns = _columns(application)
    if application.base is None or application.base.is_service:
        body = _over_defaults(columns, application)
    else:
        body = adoption.over(adoption.chosen(application.base), columns)
    return on_networks(body, networks(application))


def _over_defaults(columns: dict[str, Any], application: Application) -> dict[str, Any]:
    host = {"RestartPolicy": {"Name": "unless-stopped"}, "LogConfig": _LOG}
    return {"StopTimeout": application.configuration.stop_grace, **columns, "HostConfig": host | columns["HostConfig"]}


def _columns(application: Application) -> dict[str, Any]:
    """Return what the application's columns set.

    https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerCreate
    """
    configuration = application.configuration
    ports: dict[str, list[dict[str, str]]] = {}
    for port in configuration.ports:
        ports.setdefault(f"{port.target_port}/{port.protocol}", []).append({"HostPort": str(port.published_port)})
    body: dict[str, Any] = {
        "Labels": dict(configuration.labels),
        "HostConfig": {
            "PortBindings": ports,
            "Mounts": [
                {
                    "Type": mount.type,
                    "Source": mount.source,
                    "Target": mount.target,
                    "ReadOnly": mount.read_only,
                }
                for mount in configuration.mounts
            ],
        },
        "ExposedPorts": {inside: {} for inside in ports},
    }
    if application.environment:
        body["Env"] = [f"{name}={value}" for name, value in application.variables.items()]
    if command := _command(application):
        body["Cmd"] = command
    if check := configuration.health_check_swarm:
        body["Healthcheck"] = {name: value for name, value in check.items() if value is not None}
    host = body["HostConfig"]
    if configuration.memory_limit:
        # Swap equal to memory: a limit that lets the container swap is none.
        host["Memory"] = host["MemorySwap"] = parse_memory(configuration.memory_limit)
    if configuration.memory_reservation:
        host["MemoryReservation"] = parse_memory(configuration.memory_reservation)
    if configuration.cpu_limit:
        host["NanoCpus"] = parse_cpus(configuration.cpu_limit)
    if configuration.stop_grace != _DEFAULT_GRACE:
        body["StopTimeout"] = configuration.stop_grace
    return body


def on_networks(body: dict[str, Any], endpoints: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the creation request with the first of the networks in it, which is that of its network mode."""
    if not endpoints:
        return body
    first = next(iter(endpoints))
    if first != _BRIDGE or endpoints[first]:
        body["HostConfig"]["NetworkMode"] = first
        body["NetworkingConfig"] = {"EndpointsConfig": {first: endpoints[first]}}
    return body


def networks(application: Application) -> dict[str, dict[str, Any]]:
    """Return the endpoint on each network. The container answers to its name there, beside its aliases."""
    found: dict[str, dict[str, Any]] = {}
    if application.base is not None and not application.base.is_service:
        found = adoption.endpoints(application.base)
    return found | {name: {} for name in application.configuration.networks if name not in found}


def unnamed(endpoints: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the endpoints without their aliases: nobody finds the container by one."""
    return {
        name: {key: value for key, value in endpoint.items() if key != "Aliases"}
        for name, endpoint in endpoints.items()
    }


def without_aliases(body: dict[str, Any]) -> dict[str, Any]:
    """Return the creation request with its endpoint unnamed."""
    networking = body.get("NetworkingConfig")
    if networking is None:
        return body
    return body | {"NetworkingConfig": {"EndpointsConfig": unnamed(networking["EndpointsConfig"])}}


def _command(application: Application) -> list[str]:
    configuration = application.configuration
    words = parse_command(configuration.command) if configuration.command else []
    return words + (configuration.args or [])


def spec_hash(application: Application) -> str:
    """Return what changes whenever the user's choice does."""
    choice = [wanted(application), networks(application)]
    return hashlib.sha256(orjson.dumps(choice, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def creation(application: Application, version: Version) -> dict[str, Any]:
    """Return the whole request; its labels let anyone who finds the container know what it is."""
    body = wanted(application)
    image = str(version.reference.with_digest(version.digest))
    labels = {
        APPLICATION: application.application_id,
        DEPLOYMENT: version.deployment_id,
        ATTEMPT: str(version.attempt),
        DIGEST: version.digest,
        SPEC: spec_hash(application),
        IMAGE: image,
        RESTART: _written(body["HostConfig"]["RestartPolicy"]),
    }
    return body | {"Image": image, "Labels": body["Labels"] | labels}


def reference(labels: Mapping[str, str]) -> Reference | None:
    """Return the image by tag and digest that one of our containers was made of."""
    return Reference.parse(labels[IMAGE]) if IMAGE in labels else None


def _written(policy: Mapping[str, Any]) -> str:
    """Write a restart policy as `docker run --restart` takes it."""
    count = policy.get("MaximumRetryCount")
    return f"{policy['Name']}:{count}" if count else str(policy["Name"])


def restart_policy(labels: Mapping[str, str]) -> dict[str, object]:
    """Return the policy that one of our containers was made with, whatever it has while it is set aside."""
    name, _, count = labels.get(RESTART, "unless-stopped").partition(":")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}
