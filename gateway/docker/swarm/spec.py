"""Builds the spec of a Swarm service from an application. No I/O.

The application's columns are merged over the spec of an adopted service. Fields without a column stay as they were.
The update policy is always set, because the Engine's default pauses a failed update halfway.
https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Service/operation/ServiceCreate
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from gateway.docker.container import spec as container_spec
from gateway.docker.container import update_order
from gateway.docker.engine.labels import APPLICATION, ATTEMPT, DEPLOYMENT, DIGEST, IMAGE, SPEC, installation_label
from gateway.docker.runtime import Version
from gateway.docker.swarm import file_secrets
from gateway.model.applications import Application
from gateway.model.configuration import Order
from gateway.model.quantities import parse_cpus

_SECOND = 10**9  # nanoseconds
_MONITOR = 5.0  # seconds
# No node has this id. The constraint stops a global service, which cannot be scaled to zero.
_STOPPED_CONSTRAINT = "node.id==stopped-by-the-gateway"

# The Engine's default without an update config. With one, it treats a missing number as all at once.
_ONE_BY_ONE = {"UpdateConfig": {"Parallelism": 1}, "RollbackConfig": {"Parallelism": 1}}
# As in container/spec.py.
_FORMER_LOG = {"Name": "json-file", "Options": {"max-size": "10m", "max-file": "3"}}
_HOST = "host"

Spec = dict[str, Any]


def build(
    application: Application,
    version: Version,
    *,
    networks: Mapping[str, str] | None = None,
    secrets: Mapping[str, str] | None = None,
    monitor: float = _MONITOR,
    host_network_ids: Collection[str] = (),
    log: Mapping[str, Any] | None = None,
) -> Spec:
    """Return the whole spec. `networks` and `secrets` map names to ids.

    `monitor` is the time in seconds that a new task is monitored before the next one is replaced. `host_network_ids`
    are the ids of the host network. `log` is the log configuration of a service that was not adopted.
    """
    image = str(version.reference.with_digest(version.digest))
    labels = {
        APPLICATION: application.application_id,
        DEPLOYMENT: version.deployment_id,
        ATTEMPT: str(version.attempt),
        DIGEST: version.digest,
        SPEC: spec_hash(application),
        IMAGE: image,
        **installation_label(application),
    }
    own = {
        "Name": application.app_name,
        "Labels": labels,
        "TaskTemplate": {"ContainerSpec": {"Image": image, "Labels": labels}},
    }
    base = adopted_service_spec(application)
    beneath = (
        _merge(_ONE_BY_ONE, _without_platforms(base))
        if base
        else _merge(_defaults(application), {"TaskTemplate": log or {}})
    )
    made = _merge(_merge(beneath, user_config(application, networks or {}, secrets)), own)
    made["Mode"] = _mode(application)
    for name in ("UpdateConfig", "RollbackConfig"):
        config = made[name]
        if config.get("Monitor", 0) <= config.get("Delay", 0):
            config["Monitor"] = config.get("Delay", 0) + int(monitor * _SECOND)
    made["UpdateConfig"]["Order"] = str(
        _update_order(application, made, {*host_network_ids, (networks or {}).get(_HOST, _HOST)})
    )
    made["RollbackConfig"].setdefault("Order", made["UpdateConfig"]["Order"])
    return made


def spec_hash(application: Application) -> str:
    """Return a hash of everything the user configured."""
    # Secret names contain the installation, which the user did not configure.
    wants = user_config(replace(application, installation_id=""), {})
    beneath = _merge(_defaults(application), {"TaskTemplate": {"LogDriver": _FORMER_LOG}})
    choice = [beneath, wants, application.configuration.order, adopted_service_spec(application)]
    return hashlib.sha256(orjson.dumps(choice, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def adopted_service_spec(application: Application) -> Mapping[str, Any] | None:
    """Return the spec of the adopted service, or None."""
    base = application.adopted_spec
    return base.found if base is not None and base.is_service else None


def user_config(
    application: Application, networks: Mapping[str, str], secrets: Mapping[str, str] | None = None
) -> Spec:
    """Return everything that the user configured, and the failure actions of updates.

    A network without an id in `networks` appears by name.
    """
    configuration = application.configuration
    container = container_spec.user_config(application)
    host = container["HostConfig"]
    reserved = parse_cpus(configuration.cpu_reservation) if configuration.cpu_reservation else None
    task = _compact(
        ContainerSpec=_container_spec(application, container, secrets or {}),
        Resources=_compact(
            Limits=_compact(MemoryBytes=host.get("Memory"), NanoCPUs=host.get("NanoCpus")),
            Reservations=_compact(MemoryBytes=host.get("MemoryReservation"), NanoCPUs=reserved),
        ),
        RestartPolicy=_without_nulls(configuration.restart_policy_swarm),
        Placement=_without_nulls(configuration.placement_swarm),
        Networks=[
            {**attachment, "Target": networks.get(attachment["Target"], attachment["Target"])}
            for attachment in _attachments(application)
        ],
    )
    return {
        "Labels": container["Labels"],
        "TaskTemplate": task,
        "Mode": _mode(application),
        "UpdateConfig": {"FailureAction": "rollback"} | _without_nulls(configuration.update_config_swarm),
        "RollbackConfig": {"FailureAction": "pause"} | _without_nulls(configuration.rollback_config_swarm),
        **_compact(EndpointSpec=_endpoint_spec(application)),
    }


def _defaults(application: Application) -> Spec:
    """Return values for fields that no column sets, for a service that was not adopted."""
    host = container_spec.user_config(application)["HostConfig"]
    return {"TaskTemplate": {"RestartPolicy": _restart_policy(host["RestartPolicy"])}, **_ONE_BY_ONE}


def _without_platforms(base: Mapping[str, Any]) -> Spec:
    """Return the spec without the old image's platforms, which the docker client adds."""
    template = dict(base.get("TaskTemplate") or {})
    placement = {name: value for name, value in (template.get("Placement") or {}).items() if name != "Platforms"}
    return dict(base) | {"TaskTemplate": template | {"Placement": placement}}


def network_names(application: Application) -> list[str]:
    """Return the names of the networks that the tasks join."""
    return [attachment["Target"] for attachment in _attachments(application)]


def _update_order(application: Application, made: Mapping[str, Any], host_network_ids: Collection[str]) -> Order:
    """Return the update order. A configured order wins, then the adopted service's.

    Two tasks on one node cannot share a host-mode port, and should not both write to one volume. Ports of the routing
    mesh do not matter.
    """
    configuration = application.configuration
    if chosen := _without_nulls(configuration.update_config_swarm).get("Order"):
        return Order(chosen)
    if configuration.order is not None:
        return configuration.order
    if was := ((adopted_service_spec(application) or {}).get("UpdateConfig") or {}).get("Order"):
        return Order(was)
    mounts = {"Mounts": made["TaskTemplate"]["ContainerSpec"].get("Mounts")}
    exclusive = exclusive_node_resource(made, host_network_ids) or update_order.writes_a_volume(mounts)
    return Order.STOP_FIRST if exclusive else Order.START_FIRST


def attachments(made: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the networks that the tasks join. Old clients write them outside of the template."""
    return [*(made["TaskTemplate"].get("Networks") or ()), *(made.get("Networks") or ())]


def exclusive_node_resource(made: Mapping[str, Any], host_network_ids: Collection[str] = ()) -> str | None:
    """Return what only one task on a node can have, or None. The host network is given by name or id."""
    ports = (made.get("EndpointSpec") or {}).get("Ports") or ()
    if held := [
        str(port.get("PublishedPort") or port.get("TargetPort")) for port in ports if port.get("PublishMode") == "host"
    ]:
        return f"port {', '.join(held)} of its node"
    if any(one["Target"] in {_HOST, *host_network_ids} for one in attachments(made)):
        return "the ports of its node, being on the host's network"
    return None


def update_blocker(made: Mapping[str, Any], host_network_ids: Collection[str] = ()) -> str | None:
    """Return why a service with this spec cannot be updated, or None.

    A global service has a task on every node, so there is no other node on which a second task can start first.
    """
    if not {"Replicated", "Global"} & {name for name, value in made["Mode"].items() if value is not None}:
        return "it is a job, which ends and does not keep running"
    if not (made["TaskTemplate"].get("ContainerSpec") or {}).get("Image"):
        return "its tasks are not containers"
    first = (made.get("UpdateConfig") or {}).get("Order")
    held = exclusive_node_resource(made, host_network_ids)
    if "Global" in made["Mode"] and first == Order.START_FIRST and held:
        return f"its order is start-first, and each of its tasks holds {held}; set the update order to stop-first"
    return None


def scaled(current: Mapping[str, Any], application: Application, *, running: bool) -> Spec:
    """Return the spec with the application's number of tasks when `running`, else with none."""
    made = dict(current)
    if "Global" not in current["Mode"]:
        replicas = _mode(application).get("Replicated", {}).get("Replicas", 1) if running else 0
        return made | {"Mode": {"Replicated": {"Replicas": replicas}}}
    placement = dict(current["TaskTemplate"].get("Placement") or {})
    constraints = [one for one in placement.get("Constraints") or () if one != _STOPPED_CONSTRAINT]
    placement["Constraints"] = constraints if running else [*constraints, _STOPPED_CONSTRAINT]
    return made | {"TaskTemplate": dict(current["TaskTemplate"]) | {"Placement": placement}}


def is_stopped(current: Mapping[str, Any]) -> bool:
    """Return whether the service was scaled to no tasks."""
    if "Global" in current["Mode"]:
        return _STOPPED_CONSTRAINT in ((current["TaskTemplate"].get("Placement") or {}).get("Constraints") or ())
    return not (current["Mode"].get("Replicated") or {}).get("Replicas", 1)


# -- parts


def _container_spec(application: Application, container: Mapping[str, Any], secrets: Mapping[str, str]) -> Spec:
    configuration, host = application.configuration, container["HostConfig"]
    return _compact(
        Labels=container["Labels"],
        Env=container.get("Env"),
        Args=container.get("Cmd"),
        User=container.get("User"),
        Dir=container.get("WorkingDir"),
        Hostname=container.get("Hostname"),
        Init=host.get("Init"),
        ReadOnly=host.get("ReadonlyRootfs"),
        CapabilityAdd=host.get("CapAdd"),
        CapabilityDrop=host.get("CapDrop"),
        Hosts=[_hosts_line(entry) for entry in host.get("ExtraHosts") or ()],
        Mounts=host["Mounts"],
        Secrets=file_secrets.references(application, secrets),
        StopGracePeriod=configuration.stop_grace * _SECOND,
        Healthcheck=_without_nulls(configuration.health_check_swarm) or container.get("Healthcheck"),
        Ulimits=host.get("Ulimits"),
    )


def _hosts_line(entry: str) -> str:
    """Return the entry as a line of /etc/hosts."""
    name, _, address = entry.partition(":")
    return f"{address} {name}"


def _mode(application: Application) -> Spec:
    configuration = application.configuration
    mode = _without_nulls(configuration.mode_swarm)
    if "Global" in mode:
        return {"Global": {}}
    return {"Replicated": {"Replicas": configuration.replicas} | _without_nulls(mode.get("Replicated"))}


def _restart_policy(policy: Mapping[str, Any]) -> Spec:
    conditions = {"no": "none", "on-failure": "on-failure"}
    return {
        "Condition": conditions.get(policy["Name"], "any"),
        **_compact(MaxAttempts=policy.get("MaximumRetryCount")),
    }


def _attachments(application: Application) -> list[Spec]:
    named = [{"Target": name} for name in container_spec.endpoints(application)]
    chosen = [_without_nulls(one) for one in application.configuration.network_swarm or () if one.get("Target")]
    return _merge_lists("Target", named, chosen)


def _endpoint_spec(application: Application) -> Spec | None:
    configuration = application.configuration
    ports = [
        {
            "Protocol": port.protocol,
            "TargetPort": port.target_port,
            "PublishedPort": port.published_port,
            "PublishMode": port.publish_mode,
        }
        for port in configuration.ports
    ]
    chosen = _without_nulls(configuration.endpoint_spec_swarm)
    return (_compact(Ports=ports) | chosen) or None


# -- merging


def _compact(**parts: Any) -> Spec:
    return {name: value for name, value in parts.items() if value not in (None, {}, [])}


def _without_nulls(column: Mapping[str, Any] | None) -> Spec:
    """Return the column without null values, which mean the Engine's default."""
    return {name: value for name, value in (column or {}).items() if value is not None}


def _merge(base: Mapping[str, Any], layer: Mapping[str, Any]) -> Spec:
    """Merge two specs. Objects are merged by field, some lists by the key of their items."""
    made = dict(base)
    for name, value in layer.items():
        below = made.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            made[name] = _merge(below, value)
        elif isinstance(below, list) and name in _LIST_KEYS:
            made[name] = _merge_lists(_LIST_KEYS[name], below, value)
        else:
            made[name] = value
    return made


def _variable_name(text: str) -> str:
    return text.partition("=")[0]


def _secret_target(secret: Mapping[str, Any]) -> str:
    return str((secret.get("File") or {}).get("Name") or secret["SecretID"])


_LIST_KEYS: Mapping[str, str | Callable[[Any], str]] = {
    "Env": _variable_name,
    "Mounts": "Target",
    "Networks": "Target",
    "Secrets": _secret_target,
}


def _merge_lists(key: str | Callable[[Any], str], *layers: Iterable[Any]) -> list[Any]:
    """Merge lists by key. A later item replaces an earlier one in its position."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for item in layer:
            merged[key(item) if callable(key) else item[key]] = item
    return list(merged.values())
