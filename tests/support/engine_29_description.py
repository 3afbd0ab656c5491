"""What the published description of the Engine API 1.44 to 1.52 lists, of what a gateway may ask for.

https://docs.docker.com/reference/api/engine/version/v1.52/. An engine ignores a field or parameter that it does not
know. That hides a setting which an engine has removed, so here it is an error.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

#: by name, what an object may have: None for anything, another object, or a list of one
Fields: TypeAlias = Mapping[str, Any]
ANY = "*"  # a name that is chosen by the caller


def _fields(names: str, **others: Any) -> dict[str, Any]:
    return {**dict.fromkeys(names.split()), **others}


_IPAM = _fields("IPv4Address IPv6Address LinkLocalIPs")
_ENDPOINT = _fields(
    "Links MacAddress Aliases DriverOpts GwPriority NetworkID EndpointID Gateway IPAddress IPPrefixLen IPv6Gateway "
    "GlobalIPv6Address GlobalIPv6PrefixLen DNSNames",
    IPAMConfig=_IPAM,
)
_HEALTH = _fields("Test Interval Timeout Retries StartPeriod StartInterval")
_RESTART_POLICY = _fields("Name MaximumRetryCount")
_DRIVER = _fields("Name Options")
_MOUNT = _fields(
    "Target Source Type ReadOnly Consistency",
    BindOptions=_fields("Propagation NonRecursive CreateMountpoint ReadOnlyNonRecursive ReadOnlyForceRecursive"),
    VolumeOptions=_fields("NoCopy Labels Subpath", DriverConfig=_DRIVER),
    ImageOptions=_fields("Subpath"),
    TmpfsOptions=_fields("SizeBytes Mode Options"),
)
_RESOURCES = _fields(
    "CpuShares Memory CgroupParent BlkioWeight BlkioWeightDevice BlkioDeviceReadBps BlkioDeviceWriteBps "
    "BlkioDeviceReadIOps BlkioDeviceWriteIOps CpuPeriod CpuQuota CpuRealtimePeriod CpuRealtimeRuntime CpusetCpus "
    "CpusetMems Devices DeviceCgroupRules DeviceRequests MemoryReservation MemorySwap MemorySwappiness NanoCpus "
    "OomKillDisable Init PidsLimit Ulimits CpuCount CpuPercent IOMaximumIOps IOMaximumBandwidth KernelMemoryTCP"
)
#: what a version has removed, of what the former one still had
_REMOVED = {"HostConfig.KernelMemoryTCP": (1, 52), "KernelMemoryTCP": (1, 52)}
_HOST_CONFIG = {
    **_RESOURCES,
    **_fields(
        "Binds ContainerIDFile NetworkMode AutoRemove VolumeDriver VolumesFrom ConsoleSize Annotations CapAdd CapDrop "
        "CgroupnsMode Dns DnsOptions DnsSearch ExtraHosts GroupAdd IpcMode Cgroup Links OomScoreAdj PidMode Privileged "
        "PublishAllPorts ReadonlyRootfs SecurityOpt StorageOpt Tmpfs UTSMode UsernsMode ShmSize Sysctls Runtime "
        "Isolation MaskedPaths ReadonlyPaths",
        LogConfig=_fields("Type Config"),
        PortBindings={ANY: [_fields("HostIp HostPort")]},
        RestartPolicy=_RESTART_POLICY,
        Mounts=[_MOUNT],
    ),
}
_CONTAINER = _fields(
    "Hostname Domainname User AttachStdin AttachStdout AttachStderr ExposedPorts Tty OpenStdin StdinOnce Env Cmd "
    "ArgsEscaped Image Volumes WorkingDir Entrypoint NetworkDisabled OnBuild Labels StopSignal StopTimeout Shell",
    Healthcheck=_HEALTH,
    HostConfig=_HOST_CONFIG,
    NetworkingConfig={"EndpointsConfig": {ANY: _ENDPOINT}},
)
_ATTACHMENT = _fields("Target Aliases DriverOpts")
_SERVICE_UPDATE = _fields("Parallelism Delay FailureAction Monitor MaxFailureRatio Order")
_TASK_CONTAINER = _fields(
    "Image Labels Command Args Hostname Env Dir User Groups Privileges TTY OpenStdin ReadOnly StopSignal "
    "StopGracePeriod Hosts DNSConfig OomScoreAdj Configs Isolation Init Sysctls CapabilityAdd CapabilityDrop",
    Mounts=[_MOUNT],
    Healthcheck=_HEALTH,
    Secrets=[_fields("SecretID SecretName", File=_fields("Name UID GID Mode"))],
    Ulimits=[_fields("Name Soft Hard")],
)
_SERVICE = _fields(
    "Name Labels",
    TaskTemplate=_fields(
        "ForceUpdate Runtime",
        ContainerSpec=_TASK_CONTAINER,
        Resources=_fields(
            "SwapBytes MemorySwappiness",
            Limits=_fields("NanoCPUs MemoryBytes Pids"),
            Reservations=_fields("NanoCPUs MemoryBytes GenericResources"),
        ),
        RestartPolicy=_fields("Condition Delay MaxAttempts Window"),
        Placement=_fields("Constraints Preferences MaxReplicas Platforms"),
        Networks=[_ATTACHMENT],
        LogDriver=_DRIVER,
    ),
    Mode=_fields("Global ReplicatedJob GlobalJob", Replicated=_fields("Replicas")),
    UpdateConfig=_SERVICE_UPDATE,
    RollbackConfig=_SERVICE_UPDATE,
    Networks=[_ATTACHMENT],
    EndpointSpec=_fields("Mode", Ports=[_fields("Name Protocol TargetPort PublishedPort PublishMode")]),
)
_NETWORK = _fields(
    "Name Driver Scope Internal Attachable Ingress ConfigOnly ConfigFrom EnableIPv4 EnableIPv6 Options Labels",
    IPAM=_fields("Driver Config Options"),
)
_SWARM = _fields("ListenAddr AdvertiseAddr DataPathAddr DataPathPort DefaultAddrPool ForceNewCluster SubnetSize Spec")
_CONTAINER_FILTERS = (
    "ancestor before expose exited health id isolation is-task label name network publish since status volume"
)
_LOGS = "follow stdout stderr since until timestamps tail"
_TASK_LOGS = "details follow stdout stderr since timestamps tail"


@dataclass(frozen=True)
class Operation:
    """One operation: what its query, its filters and its body may have. `body` is None where it takes no JSON."""

    method: str
    path: re.Pattern[str]
    query: frozenset[str] = frozenset()
    filters: frozenset[str] = frozenset()
    body: Fields | None = None


def _operation(method: str, path: str, query: str = "", filters: str = "", body: Fields | None = None) -> Operation:
    shown = re.escape(path).replace(r"\{name\}", "(?P<name>.+)").replace(r"\{id\}", "(?P<id>[^/]+)")
    return Operation(method, re.compile(shown), frozenset(query.split()), frozenset(filters.split()), body)


OPERATIONS = (
    _operation("GET", "version"),
    _operation("GET", "info"),
    _operation("GET", "events", "since until filters",
               "config container daemon event image label network node plugin scope secret service type volume"),
    _operation("GET", "containers/json", "all limit size filters", _CONTAINER_FILTERS),
    _operation("GET", "containers/{id}/json", "size"),
    _operation("GET", "containers/{id}/logs", _LOGS),
    _operation("GET", "containers/{id}/archive", "path"),
    _operation("PUT", "containers/{id}/archive", "path noOverwriteDirNonDir copyUIDGID"),
    _operation("POST", "containers/create", "name platform", body=_CONTAINER),
    _operation("POST", "containers/{id}/start", "detachKeys"),
    _operation("POST", "containers/{id}/stop", "signal t"),
    _operation("POST", "containers/{id}/restart", "signal t"),
    _operation("POST", "containers/{id}/kill", "signal"),
    _operation("POST", "containers/{id}/pause"),
    _operation("POST", "containers/{id}/unpause"),
    _operation("POST", "containers/{id}/rename", "name"),
    _operation("POST", "containers/{id}/update", body={**_RESOURCES, "RestartPolicy": _RESTART_POLICY}),
    _operation("POST", "containers/{id}/wait", "condition"),
    _operation("POST", "containers/{id}/exec",
               body=_fields("AttachStdin AttachStdout AttachStderr ConsoleSize DetachKeys Tty Env Cmd Privileged User "
                            "WorkingDir")),
    _operation("POST", "exec/{id}/start", body=_fields("Detach Tty ConsoleSize")),
    _operation("GET", "exec/{id}/json"),
    _operation("DELETE", "containers/{id}", "v force link"),
    _operation("GET", "images/json", "all filters shared-size digests manifests",
               "before dangling label reference since until"),
    _operation("GET", "images/{name}/json", "manifests platform"),
    _operation("POST", "images/create", "fromImage fromSrc repo tag message changes platform"),
    _operation("POST", "images/{name}/tag", "repo tag"),
    _operation("DELETE", "images/{name}", "force noprune platforms"),
    _operation("GET", "networks", "filters", "dangling driver id label name scope type"),
    _operation("GET", "networks/{id}", "verbose scope"),
    _operation("POST", "networks/create", body=_NETWORK),
    _operation("POST", "networks/{id}/connect", body={"Container": None, "EndpointConfig": _ENDPOINT}),
    _operation("POST", "networks/{id}/disconnect", body=_fields("Container Force")),
    _operation("DELETE", "networks/{id}"),
    _operation("POST", "volumes/create", body=_fields("Name Driver DriverOpts Labels ClusterVolumeSpec")),
    _operation("GET", "volumes/{id}"),
    _operation("DELETE", "volumes/{id}", "force"),
    _operation("GET", "swarm"),
    _operation("POST", "swarm/init", body=_SWARM),
    _operation("POST", "swarm/leave", "force"),
    _operation("GET", "nodes", "filters", "id label membership name node.label role"),
    _operation("GET", "nodes/{id}"),
    _operation("POST", "nodes/{id}/update", "version", body=_fields("Name Labels Role Availability")),
    _operation("GET", "services", "filters status", "id label mode name"),
    _operation("GET", "services/{id}", "insertDefaults"),
    _operation("GET", "services/{id}/logs", _TASK_LOGS),
    _operation("POST", "services/create", body=_SERVICE),
    _operation("POST", "services/{id}/update", "version registryAuthFrom rollback", body=_SERVICE),
    _operation("DELETE", "services/{id}"),
    _operation("GET", "tasks", "filters", "desired-state id label name node service"),
    _operation("GET", "tasks/{id}"),
    _operation("GET", "tasks/{id}/logs", _TASK_LOGS),
    _operation("GET", "secrets", "filters", "id label name names"),
    _operation("POST", "secrets/create", body=_fields("Name Labels Data Driver Templating")),
    _operation("DELETE", "secrets/{id}"),
)  # fmt: skip


def find(method: str, path: str) -> Operation | None:
    """Return the operation of a path without its version, or None where the description has none."""
    return next((one for one in OPERATIONS if one.method == method and one.path.fullmatch(path)), None)


def objections(operation: Operation, query: Mapping[str, str], body: Any, version: tuple[int, ...]) -> list[str]:
    """Return what the request has that the description of the version does not."""
    found = [f"the query parameter {name!r}" for name in query if name not in operation.query]
    filters = orjson.loads(query["filters"]) if query.get("filters") and "filters" in operation.query else {}
    found += [f"the filter {name!r}" for name in filters if name not in operation.filters]
    if body is not None:
        found += [f"the field {name!r}" for name in _unknown(operation.body, body, "", version)]
    return found


def _unknown(described: Any, given: Any, at: str, version: tuple[int, ...]) -> Iterator[str]:
    if described is None and at:
        return  # the description goes no deeper here
    if isinstance(described, list):
        for one in _items(given):
            yield from _unknown(described[0], one, at, version)
        return
    if not isinstance(given, Mapping):
        return
    fields: Fields = described or {}
    for name, value in given.items():
        shown = f"{at}.{name}".lstrip(".")
        if name in fields and version < _REMOVED.get(shown, (9,)):
            yield from _unknown(fields[name], value, shown, version)
        elif ANY in fields:
            yield from _unknown(fields[ANY], value, shown, version)
        else:
            yield shown


def _items(given: Any) -> Iterable[Any]:
    return given if isinstance(given, list) else ()
