"""What to ask a Swarm for: the spec of a service, built from an application. It performs no I/O.

What the application's columns set lies over the spec a service was found with, where there is one; what they leave
open stays as it was found. How updates go is always set: the Engine's own choice is to stop in the middle of one.
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
# No node has this id. A service that runs on each node cannot be scaled to nothing; so it is stopped.
_STOPPED_CONSTRAINT = "node.id==stopped-by-the-gateway"

# The Engine's own choice where nothing is said of updates; where something is, it takes no number for all at once.
_ONE_BY_ONE = {"UpdateConfig": {"Parallelism": 1}, "RollbackConfig": {"Parallelism": 1}}
# As in `spec`.
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
    hosts_networks: Collection[str] = (),
    log: Mapping[str, Any] | None = None,
) -> Spec:
    """Return the whole spec. `networks` and `secrets` give the ids of those it names.

    `monitor` is how many seconds a new task is watched before the next one is replaced. `hosts_networks` are the ids of
    the network that is the nodes' own. `log` is what is said of the log where nothing was found.
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
        _update_order(application, made, {*hosts_networks, (networks or {}).get(_HOST, _HOST)})
    )
    made["RollbackConfig"].setdefault("Order", made["UpdateConfig"]["Order"])
    return made


def spec_hash(application: Application) -> str:
    """Return what changes whenever the user's choice does."""
    # The names of secrets tell one installation from another, and no choice from another.
    wants = user_config(replace(application, installation_id=""), {})
    beneath = _merge(_defaults(application), {"TaskTemplate": {"LogDriver": _FORMER_LOG}})
    choice = [beneath, wants, application.configuration.order, adopted_service_spec(application)]
    return hashlib.sha256(orjson.dumps(choice, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def adopted_service_spec(application: Application) -> Mapping[str, Any] | None:
    """Return the spec that the application was adopted with."""
    base = application.adopted_spec
    return base.found if base is not None and base.is_service else None


def user_config(
    application: Application, networks: Mapping[str, str], secrets: Mapping[str, str] | None = None
) -> Spec:
    """Return all that the user chose, and what becomes of an update that fails.

    Where `networks` has no id for one, its name stands.
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
    """Return what a service has of which the columns say nothing, and that was not found."""
    host = container_spec.user_config(application)["HostConfig"]
    return {"TaskTemplate": {"RestartPolicy": _restart_policy(host["RestartPolicy"])}, **_ONE_BY_ONE}


def _without_platforms(base: Mapping[str, Any]) -> Spec:
    """Return it without the platforms of the image it had, which the client has written into it."""
    template = dict(base.get("TaskTemplate") or {})
    placement = {name: value for name, value in (template.get("Placement") or {}).items() if name != "Platforms"}
    return dict(base) | {"TaskTemplate": template | {"Placement": placement}}


def network_names(application: Application) -> list[str]:
    """Return the networks that its tasks join."""
    return [attachment["Target"] for attachment in _attachments(application)]


def _update_order(application: Application, made: Mapping[str, Any], hosts_networks: Collection[str]) -> Order:
    """Return which of the old and the new task comes first; an explicit choice wins, then what was found.

    Two tasks on one node cannot hold one of its ports or, safely, one volume that both write. The ports of the routing
    mesh are the Swarm's own.
    """
    configuration = application.configuration
    if chosen := _without_nulls(configuration.update_config_swarm).get("Order"):
        return Order(chosen)
    if configuration.order is not None:
        return configuration.order
    if was := ((adopted_service_spec(application) or {}).get("UpdateConfig") or {}).get("Order"):
        return Order(was)
    mounts = {"Mounts": made["TaskTemplate"]["ContainerSpec"].get("Mounts")}
    hindered = exclusive_node_resource(made, hosts_networks) or update_order.writes_a_volume(mounts)
    return Order.STOP_FIRST if hindered else Order.START_FIRST


def attachments(made: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the networks that its tasks join; old clients name them beside the template."""
    return [*(made["TaskTemplate"].get("Networks") or ()), *(made.get("Networks") or ())]


def exclusive_node_resource(made: Mapping[str, Any], hosts_networks: Collection[str] = ()) -> str | None:
    """Return what of a node only one of its tasks can have, or None; the host's network goes by its name or an id."""
    ports = (made.get("EndpointSpec") or {}).get("Ports") or ()
    if held := [
        str(port.get("PublishedPort") or port.get("TargetPort")) for port in ports if port.get("PublishMode") == "host"
    ]:
        return f"port {', '.join(held)} of its node"
    if any(one["Target"] in {_HOST, *hosts_networks} for one in attachments(made)):
        return "the ports of its node, being on the host's network"
    return None


def update_blocker(made: Mapping[str, Any], hosts_networks: Collection[str] = ()) -> str | None:
    """Return why no update could be made to a service of this spec; None where one could.

    A Global service has a task on each node: there is no other one on which a second task could start first.
    """
    if not {"Replicated", "Global"} & {name for name, value in made["Mode"].items() if value is not None}:
        return "it is a job, which ends, and is not kept running"
    if not (made["TaskTemplate"].get("ContainerSpec") or {}).get("Image"):
        return "its tasks are no containers of an image"
    first = (made.get("UpdateConfig") or {}).get("Order")
    held = exclusive_node_resource(made, hosts_networks)
    if "Global" in made["Mode"] and first == Order.START_FIRST and held:
        return f"its order is start-first, and each of its tasks holds {held}; set the update order to stop-first"
    return None


def scaled(current: Mapping[str, Any], application: Application, *, running: bool) -> Spec:
    """Return the spec with as many tasks as the application has when it runs, or with none."""
    made = dict(current)
    if "Global" not in current["Mode"]:
        replicas = _mode(application).get("Replicated", {}).get("Replicas", 1) if running else 0
        return made | {"Mode": {"Replicated": {"Replicas": replicas}}}
    placement = dict(current["TaskTemplate"].get("Placement") or {})
    constraints = [one for one in placement.get("Constraints") or () if one != _STOPPED_CONSTRAINT]
    placement["Constraints"] = constraints if running else [*constraints, _STOPPED_CONSTRAINT]
    return made | {"TaskTemplate": dict(current["TaskTemplate"]) | {"Placement": placement}}


def is_stopped(current: Mapping[str, Any]) -> bool:
    """Tell whether it was scaled to nothing."""
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
    """Return it as a line of /etc/hosts."""
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


# -- laying one over the other


def _compact(**parts: Any) -> Spec:
    return {name: value for name, value in parts.items() if value not in (None, {}, [])}


def _without_nulls(column: Mapping[str, Any] | None) -> Spec:
    """Return what a column says; null in it leaves the Engine's choice."""
    return {name: value for name, value in (column or {}).items() if value is not None}


def _merge(base: Mapping[str, Any], layer: Mapping[str, Any]) -> Spec:
    """Lay one spec over another: objects by their fields, some lists by what names their items."""
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
    """Join lists; of two items of one name the later stays, in the place of the earlier."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for item in layer:
            merged[key(item) if callable(key) else item[key]] = item
    return list(merged.values())
