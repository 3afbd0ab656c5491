"""Derives from the inspection of an adopted container what its creator configured. No I/O.

An inspection mixes three things: what the creator configured, what the image set where the creator did not, and what
the engine generated. Only the first is carried over. A value that equals the old image's is left out, so that the
engine uses the new image's value.
https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerCreate
"""

import posixpath
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

from gateway.model.adoption import AdoptedSpec

_SHORT_ID = 12  # characters of an id in a generated host name
_LONG_ID = 64  # characters in the generated name of an anonymous volume

_COMPOSE_PROJECT, _COMPOSE_HASH = "com.docker.compose.project", "com.docker.compose.config-hash"
_COMPOSE_NUMBER = "com.docker.compose.container-number"
_COMPOSE_IDENTITY = (_COMPOSE_PROJECT, "com.docker.compose.service", _COMPOSE_NUMBER)
_COMPOSE_IMAGE = "com.docker.compose.image"

# Fields of Config: those that merge with the image's, those that replace it, and generated ones.
_MERGED = frozenset({"Env", "Cmd", "Entrypoint", "Labels", "Healthcheck", "ExposedPorts", "Volumes"})
_SIMPLE = frozenset({"User", "WorkingDir", "StopSignal", "Shell", "OnBuild"})
_GENERATED = frozenset({"Image", "Hostname", "ArgsEscaped"})
# The engine refuses these together with another container's network namespace.
_NETWORK_NAMESPACE_FIELDS = frozenset({"Hostname", "Domainname", "ExposedPorts", "MacAddress"})

# Fields of an endpoint that the engine generates.
_OPERATIONAL = frozenset({
    "NetworkID", "EndpointID", "Gateway", "IPAddress", "IPPrefixLen", "IPv6Gateway", "GlobalIPv6Address",
    "GlobalIPv6PrefixLen", "MacAddress", "DNSNames",
})  # fmt: skip
_PREDEFINED = frozenset({"default", "bridge", "host", "none", "nat"})
#: the id of Podman's default network, which it calls bridge in a request and `podman` in an answer
_DEFAULT_OF_PODMAN = "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9"

# Fields of a HostConfig that can name another container's namespace, and the prefix of such a value.
_NAMESPACE_MODES = ("NetworkMode", "IpcMode", "PidMode")
_CONTAINER = "container:"


def user_config(adopted: AdoptedSpec) -> dict[str, Any]:
    """Return the creation request with what the creator configured, valid for any version of the image."""
    config, image = adopted.found["Config"], adopted.image_config
    body = {
        name: value
        for name, value in config.items()
        if name not in _MERGED | _SIMPLE | _GENERATED and value is not None
    }
    body |= {name: config[name] for name in _SIMPLE if config.get(name) and config[name] != image.get(name)}
    body |= _entrypoint_and_command(config, image)
    body["Env"] = _without(config.get("Env") or (), image.get("Env") or ())
    body["Labels"] = _differing(config.get("Labels") or {}, image.get("Labels") or {})
    if config.get("Healthcheck"):
        body["Healthcheck"] = _differing(config["Healthcheck"], image.get("Healthcheck") or {})
    for name in ("ExposedPorts", "Volumes"):
        body[name] = _differing(config.get(name) or {}, image.get(name) or {})
    if host_name := _host_name(adopted):
        body["Hostname"] = host_name
    body["HostConfig"] = deepcopy(adopted.found["HostConfig"]) | {"NetworkMode": _network_mode(adopted)}
    if _joins_another(body["HostConfig"]):
        body = {name: value for name, value in body.items() if name not in _NETWORK_NAMESPACE_FIELDS}
    return {name: value for name, value in body.items() if value not in (None, {}, [], "")}


def _entrypoint_and_command(config: Mapping[str, Any], image: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configured entrypoint and command. An own entrypoint discards the image's command."""
    if config.get("Entrypoint") != image.get("Entrypoint"):
        # An empty entrypoint removes the image's.
        return {"Entrypoint": config.get("Entrypoint") or [""], "Cmd": config.get("Cmd")}
    return {} if config.get("Cmd") == image.get("Cmd") else {"Cmd": config.get("Cmd")}


def _without(those: Iterable[Any], these: Iterable[Any]) -> list[Any]:
    left_out = list(these)
    return [one for one in those if one not in left_out]


def _differing(those: Mapping[str, Any], these: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in those.items() if name not in these or these[name] != value}


def _host_name(adopted: AdoptedSpec) -> str | None:
    name = adopted.found["Config"].get("Hostname")
    generated = {adopted.object_id[:_SHORT_ID]}
    if adopted.found["HostConfig"]["NetworkMode"] == "host":
        generated.add(adopted.host_name)
    return None if name in generated else name


# -- networks


def endpoints(adopted: AdoptedSpec) -> dict[str, dict[str, Any]]:
    """Return the endpoint settings by network, starting with the network of its network mode."""
    mode, networks = _network_mode(adopted), adopted.found["NetworkSettings"]["Networks"] or {}
    if mode in {"host", "none"} or mode.startswith(_CONTAINER):
        return {}
    main = "bridge" if mode == "default" else mode
    names = sorted(networks, key=lambda name: name != main)
    return {name: _endpoint(networks[name] or {}, adopted.object_id[:_SHORT_ID]) for name in names}


def manual_networks(found: Mapping[str, Any], *, but: Iterable[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return id and endpoint of the container's networks by name, except `but` and the engine's own."""
    mode, known = found["HostConfig"]["NetworkMode"], {*but, "host", "none"}
    if mode in {"default", "bridge"}:
        known |= {"bridge", _DEFAULT_OF_PODMAN}
    seen = {name: endpoint or {} for name, endpoint in (found["NetworkSettings"]["Networks"] or {}).items()}
    return {
        name: (endpoint.get("NetworkID", ""), _endpoint(endpoint, found["Id"][:_SHORT_ID]))
        for name, endpoint in seen.items()
        if name not in known and not any(endpoint.get("NetworkID", "").startswith(one) for one in known)
    }


def _endpoint(seen: Mapping[str, Any], short_id: str) -> dict[str, Any]:
    kept = {name: value for name, value in seen.items() if name not in _OPERATIONAL and value}
    if aliases := [alias for alias in kept.pop("Aliases", ()) if alias != short_id]:
        kept["Aliases"] = aliases
    return kept


def _network_mode(adopted: AdoptedSpec) -> str:
    """Return the network mode by name, as one of the networks that the container is on."""
    mode: str = adopted.found["HostConfig"]["NetworkMode"]
    networks: Mapping[str, Any] = adopted.found["NetworkSettings"]["Networks"] or {}
    if mode in _PREDEFINED or mode in networks or mode.startswith(_CONTAINER):
        return mode
    # The mode is the id of a network, or the name of a network that the container has left.
    by_id = [name for name, seen in networks.items() if (seen.get("NetworkID") or "").startswith(mode)]
    return next(iter(by_id or networks), "none")


def _joins_another(host: Mapping[str, Any]) -> bool:
    return str(host.get("NetworkMode", "")).startswith(_CONTAINER)


# -- changes by `docker update`

_LIMITS = (
    "Memory", "MemorySwap", "MemoryReservation", "NanoCpus", "CpuShares", "CpuQuota", "CpuPeriod", "CpusetCpus",
    "CpusetMems", "BlkioWeight", "PidsLimit",
)  # fmt: skip


def manual_limits(now: Mapping[str, Any], made: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return limits that were changed since creation and are not configured to change now."""
    return {
        name: now[name]
        for name in _LIMITS
        if (now.get(name) or 0) != (made.get(name) or 0) and (made.get(name) or 0) == (wanted.get(name) or 0)
    }


# -- namespaces of other containers


def namespace_holders(host: Mapping[str, Any]) -> frozenset[str]:
    """Return the containers, by id or name, whose namespaces a HostConfig joins and needs to run."""
    modes = (str(host.get(mode) or "") for mode in _NAMESPACE_MODES)
    return frozenset(mode.removeprefix(_CONTAINER) for mode in modes if mode.startswith(_CONTAINER))


def volume_holders(host: Mapping[str, Any]) -> frozenset[str]:
    """Return the containers, by id or name, whose volumes a HostConfig uses."""
    return frozenset(entry.partition(":")[0] for entry in host.get("VolumesFrom") or ())


def retarget(host: Mapping[str, Any], instead: Mapping[str, str]) -> dict[str, Any]:
    """Return a HostConfig that shares with the containers `instead`."""
    made = dict(host)
    for mode in _NAMESPACE_MODES:
        holder = str(host.get(mode) or "").removeprefix(_CONTAINER)
        if holder in instead and holder != host[mode]:
            made[mode] = f"{_CONTAINER}{instead[holder]}"
    if host.get("VolumesFrom"):
        entries = [entry.partition(":") for entry in host["VolumesFrom"]]
        made["VolumesFrom"] = [f"{instead.get(name, name)}{colon}{mode}" for name, colon, mode in entries]
    return made


# -- volumes


def carry_volumes(body: Mapping[str, Any], held: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the request with the anonymous volumes of the old container mounted, which would otherwise be empty.

    `held` are the old container's mounts.
    """
    host = body.get("HostConfig", {})
    volumes = {
        mount["Destination"]: {
            "Type": "volume",
            "Source": mount["Name"],
            "Target": mount["Destination"],
            "ReadOnly": not mount["RW"],
        }
        for mount in held
        if mount["Type"] == "volume" and _is_anonymous(mount["Name"])
    }
    nameless = [one for one in host.get("Mounts") or () if one["Type"] == "volume" and not one.get("Source")]
    nameless_binds = [one for one in host.get("Binds") or () if ":" not in one]
    mounts = [
        {**one, "Source": volumes.pop(_clean(one["Target"]))["Source"]}
        if one in nameless and _clean(one["Target"]) in volumes
        else one
        for one in host.get("Mounts") or ()
    ]
    binds = [one for one in host.get("Binds") or () if one not in nameless_binds or _clean(one) not in volumes]
    taken = mount_targets({**host, "Binds": binds, "Mounts": mounts})
    mounts += [mount for target, mount in volumes.items() if target not in taken]
    return {**body, "HostConfig": {**host, "Mounts": mounts, "Binds": binds}}


def _is_anonymous(volume: str) -> bool:
    return len(volume) == _LONG_ID and not volume.strip("0123456789abcdef")


def mount_targets(host: Mapping[str, Any]) -> set[str]:
    """Return the paths at which something is mounted."""
    targets = {mount["Target"] for mount in host.get("Mounts") or ()}
    targets |= {_target(bind) for bind in host.get("Binds") or ()} | set(host.get("Tmpfs") or ())
    return {_clean(target) for target in targets}


def _target(bind: str) -> str:
    source, colon, rest = bind.partition(":")
    return _clean(rest.partition(":")[0] if colon else source)


def _clean(path: str) -> str:
    return posixpath.normpath(path)


# -- merging with the application's columns


def merge(under: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two creation requests. The values of `upper` win."""
    merged = {**under, **upper}
    merged["Env"] = _variables(under.get("Env") or (), upper.get("Env") or ())
    merged["Labels"] = {**under.get("Labels", {}), **upper.get("Labels", {})}
    merged["ExposedPorts"] = {**under.get("ExposedPorts", {}), **upper.get("ExposedPorts", {})}
    if "Healthcheck" in under and "Healthcheck" in upper:
        merged["Healthcheck"] = {**under["Healthcheck"], **upper["Healthcheck"]}
    host, above = _without_covered_mounts(under.get("HostConfig", {}), upper), upper.get("HostConfig", {})
    merged["HostConfig"] = {
        **host,
        **above,
        "PortBindings": {**(host.get("PortBindings") or {}), **(above.get("PortBindings") or {})},
        "Mounts": [*host["Mounts"], *(above.get("Mounts") or ())],
    }
    return merged


def _without_covered_mounts(host: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Return the HostConfig without mounts at paths where the upper request mounts something."""
    targets = mount_targets(upper.get("HostConfig", {}))
    return {
        **host,
        "Mounts": [one for one in host.get("Mounts") or () if _clean(one["Target"]) not in targets],
        "Binds": [one for one in host.get("Binds") or () if _target(one) not in targets],
        "Tmpfs": {
            target: options for target, options in (host.get("Tmpfs") or {}).items() if _clean(target) not in targets
        },
    }


def _variables(under: Iterable[str], upper: Iterable[str]) -> list[str]:
    """Return each variable once, in order of first appearance, with its last value."""
    return list({text.partition("=")[0]: text for text in (*under, *upper)}.values())


# -- compose


def recreated_by_compose(before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Return whether compose has recreated the same container of the same service, according to its labels."""
    return all(before.get(label) is not None and before.get(label) == now.get(label) for label in _COMPOSE_IDENTITY)


def belongs_to_compose(labels: Mapping[str, str]) -> bool:
    """Return whether compose considers a container with these labels, without its image's, its own.

    Compose also writes the project into images that it builds, but the hash and the number only into containers.
    """
    return not {_COMPOSE_PROJECT, _COMPOSE_HASH, _COMPOSE_NUMBER}.isdisjoint(labels)


def with_compose_image(labels: Mapping[str, str], image_id: str) -> dict[str, str]:
    """Return the labels with which compose considers the container up to date with its image."""
    return {**labels, _COMPOSE_IMAGE: image_id} if _COMPOSE_IMAGE in labels else dict(labels)


# -- the gateway's own container


def own_container_ids(host_name: str, cgroup: str, mounts: str) -> Iterable[str]:
    """Yield candidates, full or abbreviated, for the id of the container that the gateway runs in.

    `cgroup` and `mounts` are the contents of /proc/self/cgroup and /proc/self/mountinfo.
    """
    yield host_name
    # On a host, mountinfo lists all containers' mounts. Only inside a container is /etc/hostname a mount.
    own_files = [line for line in mounts.splitlines() if line.split()[4:5] == ["/etc/hostname"]]
    for line in (*cgroup.splitlines(), *own_files):
        for word in line.replace("-", "/").replace(".", "/").split("/"):
            if _is_anonymous(word):
                yield word


def is_own_container(container_id: str, own: Iterable[str]) -> bool:
    """Return whether the container is one of these candidates."""
    return any(len(one) >= _SHORT_ID and container_id.startswith(one) for one in own)
