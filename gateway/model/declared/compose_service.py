"""A service of a compose file as an application. It performs no I/O.

https://github.com/compose-spec/compose-spec/blob/main/05-services.md
"""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.model.declared import compose_parts as parts
from gateway.model.errors import InvalidInput
from gateway.model.interpolation import has_references

_NO_SETTING = "the gateway has no such setting"
_ADOPT = "the gateway has no such setting; a container that runs keeps it if it is adopted: gateway apps adopt"
#: keys that are not carried, and why
_NOT_CARRIED: Mapping[str, str] = {
    "build": "the gateway builds no images: push it to its registry",
    "container_name": "the container is called after the application",
    "entrypoint": "the image's own is used: put it into the image",
    "expose": "containers of one network reach each other's ports without it",
    "links": "containers of one network reach each other by their names",
    "external_links": "containers of one network reach each other by their names",
    "pull_policy": "each deployment asks the registry",
    "platform": "the engine's own is used",
    "develop": "it is for docker compose watch",
    "attach": "it is for the output of docker compose up",
    "scale": "use deploy.replicas",
    "logging": _ADOPT,
    **dict.fromkeys(
        (
            *("annotations", "blkio_config", "cgroup", "cgroup_parent", "cpu_count", "cpu_percent", "cpu_period"),
            *("cpu_quota", "cpu_rt_period", "cpu_rt_runtime", "cpu_shares", "cpuset", "credential_spec"),
            *("device_cgroup_rules", "devices", "dns", "dns_opt", "dns_search", "domainname", "gpus", "group_add"),
            *("ipc", "isolation", "label_file", "mac_address", "mem_swappiness", "memswap_limit", "models"),
            *("network_mode", "oom_kill_disable", "oom_score_adj", "pid", "pids_limit", "post_start", "pre_stop"),
            *("privileged", "provider", "runtime", "security_opt", "shm_size", "stdin_open", "stop_signal"),
            *("storage_opt", "sysctls", "tty", "use_api_socket", "userns_mode", "uts", "volumes_from"),
        ),
        _ADOPT,
    ),
}
_HANDLED = frozenset({
    "depends_on", "profiles", "image", "env_file", "environment", "networks", "deploy", "volumes", "tmpfs", "secrets",
    "configs",
})  # fmt: skip
_RESTART = re.compile(r"on-failure(?::(\d{1,9}))?")
_CONDITIONS = {"no": "none", "always": None, "unless-stopped": None, "": None}


@dataclass(frozen=True, slots=True)
class Service:
    """A service, and the file that it is in."""

    name: str
    given: Mapping[str, Any]
    whole: Mapping[str, Any] = field(repr=False)
    project: str
    directory: str
    read_variables: Callable[[str], Mapping[str, str]] = field(repr=False)
    variables: Mapping[str, str] = field(repr=False)

    def at(self, key: str) -> str:
        return f"services.{self.name}.{key}"


def texts(given: Any, field_name: str) -> list[str]:
    """Return a text, or a list of texts, as a list. Raises InvalidInput."""
    return parts.texts(given, field_name)


def application_of(service: Service, notes: list[str]) -> dict[str, Any]:
    """Return the application. What is not carried is added to the notes. Raises InvalidInput naming the field."""
    given = service.given
    if "extends" in given:
        raise InvalidInput(
            "extends is not followed: import what docker compose config prints", field=service.at("extends")
        )
    if not given.get("image"):
        why = (
            "it is only built: push its image to a registry, and name it with image"
            if "build" in given
            else "it has no image"
        )
        raise InvalidInput(f"{service.name} cannot be an application, since {why}", field=service.at("image"))
    made: dict[str, Any] = {"dockerImage": str(given["image"])}
    variables = _variables(service, notes)
    if variables:
        made["env"] = variables
    for key, value in given.items():
        if key in _HANDLED or value is None:
            continue
        if (carry := _CARRIED.get(key)) is not None:
            made |= carry(service, value, notes)
        elif key.startswith("x-"):
            notes.append(f"{service.name}.{key}: an extension, which compose ignores too")
        elif _is_default(key, value) or (key == "container_name" and value == service.name):
            continue
        else:
            notes.append(
                f"{service.name}.{key}: not carried: {_NOT_CARRIED.get(key, 'compose has no such key either')}"
            )
    made |= _storage(service, notes) | _deploy(service, notes)
    if networks := _networks(service, notes):
        made["networks"] = networks
    return {name: value for name, value in made.items() if value not in (None, [], {})}


def _is_default(key: str, value: Any) -> bool:
    """Tell whether the key says what holds without it as well, for example `privileged: false`."""
    # An empty entrypoint takes the image's own away.
    return key != "entrypoint" and (value is False or value in ("", "false", [], {}))


# -- variables


def _variables(service: Service, notes: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    files = service.given.get("env_file")
    for one in files if isinstance(files, list) else [files] if files is not None else []:
        path, required = (one.get("path"), one.get("required", True)) if isinstance(one, Mapping) else (one, True)
        if not isinstance(path, str):
            raise InvalidInput("the path of a file is needed", field=service.at("env_file"))
        try:
            read = service.read_variables(path)
        except InvalidInput as error:
            if required:
                raise InvalidInput(str(error), field=service.at("env_file")) from error
            notes.append(f"{service.name}.env_file: {path} is not there, and not required")
            continue
        found |= read
        notes.append(
            f"{service.name}.env_file: the variables of {path} ({len(read)}) stand in env: move secrets to envFrom"
        )
    given = service.given.get("environment")
    for name, value in parts.pairs(given, service.at("environment")).items():
        if value is not None:
            found[name] = value
        elif name in service.variables:
            found[name] = service.variables[name]
        else:
            notes.append(f"{service.name}.environment.{name}: it has no value here, so it is left out")
    for name in [name for name, value in found.items() if has_references(value)]:
        # It would get the value of a variable that the file has nothing to do with, and perhaps a secret.
        del found[name]
        notes.append(
            f"{service.name}.environment.{name}: not carried: ${{{{ begins the name of another variable here, and has "
            "no other notation"
        )
    return found


# -- keys, one function each


def _command(service: Service, value: Any, _notes: list[str]) -> dict[str, Any]:
    if isinstance(value, str):
        return {"command": value} if value.strip() else {}
    words = parts.texts(value, service.at("command"))
    return {"command": shlex.join(words)} if words else {}


def _ports(service: Service, value: Any, notes: list[str]) -> dict[str, Any]:
    return {"ports": parts.ports(value, service.at("ports"), service.name, notes)}


def _storage(service: Service, notes: list[str]) -> dict[str, Any]:
    """Carry volumes, secrets, configs and tmpfs."""
    mounts, memory = parts.mounts(
        service.given.get("volumes") or [],
        service.at("volumes"),
        service.name,
        notes,
        directory=service.directory,
        volume_name=lambda name: volume_name(name, service.whole, service.project),
    )
    files = [*_files(service, "secrets", notes), *_files(service, "configs", notes)]
    memory += parts.tmpfs(service.given.get("tmpfs"), service.at("tmpfs"))
    return {"mounts": mounts + files, "tmpfs": memory}


def _files(service: Service, key: str, notes: list[str]) -> list[dict[str, Any]]:
    """Return the files of secrets or configs."""
    found = []
    given = service.given.get(key) or []
    if not isinstance(given, list):
        raise InvalidInput("a list is needed", field=service.at(key))
    for one in given:
        chosen = one if isinstance(one, Mapping) else {"source": one}
        name = str(chosen.get("source"))
        kept = (service.whole.get(key) or {}).get(name)
        if not isinstance(kept, Mapping):
            raise InvalidInput(f"there is no {name!r} among the {key} of the file", field=service.at(key))
        default = f"/run/secrets/{name}" if key == "secrets" else f"/{name}"
        target = str(chosen.get("target") or default)
        if not target.startswith("/"):
            target = f"/run/secrets/{target}" if key == "secrets" else f"/{target}"
        mount: dict[str, Any] = {"type": "file", "target": target}
        if isinstance(kept.get("file"), str):
            mount["contentFrom"] = {"file": kept["file"]}
        elif isinstance(kept.get("environment"), str):
            mount["contentFrom"] = {"env": kept["environment"]}
        elif isinstance(kept.get("content"), str):
            mount["content"] = kept["content"]
        else:
            notes.append(f"{service.name}.{key}: {name} is not carried: it is stored outside of the file")
            continue
        if left := sorted(chosen.keys() & {"uid", "gid", "mode"}):
            notes.append(f"{service.name}.{key}: {', '.join(left)} of {name} not carried: {_NO_SETTING}")
        found.append(mount)
    return found


def _same(name: str) -> Callable[[Service, Any, list[str]], dict[str, Any]]:
    def carry(_service: Service, value: Any, _notes: list[str]) -> dict[str, Any]:
        return {name: value}

    return carry


def _text(name: str) -> Callable[[Service, Any, list[str]], dict[str, Any]]:
    def carry(_service: Service, value: Any, _notes: list[str]) -> dict[str, Any]:
        return {name: str(value)}

    return carry


def _flag(name: str) -> Callable[[Service, Any, list[str]], dict[str, Any]]:
    def carry(service: Service, value: Any, _notes: list[str]) -> dict[str, Any]:
        return {name: parts.flag(value, service.at(name))}

    return carry


def _labels(service: Service, value: Any, notes: list[str]) -> dict[str, Any]:
    found = {name: one or "" for name, one in parts.pairs(value, service.at("labels")).items()}
    for name in [name for name in found if name.startswith("gateway.")]:
        del found[name]
        notes.append(f"{service.name}.labels.{name}: not carried: it is reserved for the gateway")
    return {"labels": found}


def _extra_hosts(service: Service, value: Any, _notes: list[str]) -> dict[str, Any]:
    if isinstance(value, Mapping):
        hosts = [f"{name}:{one}" for name, one in value.items()]
    else:
        hosts = [
            one if ":" in one and "=" not in one else one.replace("=", ":", 1)
            for one in parts.texts(value, service.at("extra_hosts"))
        ]
    return {"extraHosts": hosts}


def _stop_grace(service: Service, value: Any, _notes: list[str]) -> dict[str, Any]:
    seconds = parts.nanoseconds(value, service.at("stop_grace_period")) / 10**9
    return {"stopGrace": int(-(-seconds // 1))}


def _restart(service: Service, value: Any, _notes: list[str]) -> dict[str, Any]:
    text = "no" if value is False else str(value)
    if found := _RESTART.fullmatch(text):
        most = {"MaxAttempts": int(found[1])} if found[1] else {}
        return {"restartPolicySwarm": {"Condition": "on-failure", **most}}
    if text not in _CONDITIONS:
        raise InvalidInput(f"{text[:80]!r} is not a restart policy", field=service.at("restart"))
    return {"restartPolicySwarm": {"Condition": "none"}} if text == "no" and value != "" else {}


def _health(service: Service, value: Any, notes: list[str]) -> dict[str, Any]:
    return {"healthCheckSwarm": parts.health_check(value, service.at("healthcheck"), service.name, notes)}


def _ulimits(service: Service, value: Any, _notes: list[str]) -> dict[str, Any]:
    return {"ulimitsSwarm": parts.ulimits(value, service.at("ulimits"))}


_CARRIED: Mapping[str, Callable[[Service, Any, list[str]], dict[str, Any]]] = {
    "command": _command,
    "ports": _ports,
    "user": _text("user"),
    "working_dir": _text("workingDir"),
    "hostname": _text("hostname"),
    "init": _flag("init"),
    "read_only": _flag("readOnly"),
    "cap_add": _same("capAdd"),
    "cap_drop": _same("capDrop"),
    "labels": _labels,
    "extra_hosts": _extra_hosts,
    "stop_grace_period": _stop_grace,
    "restart": _restart,
    "healthcheck": _health,
    "ulimits": _ulimits,
    "mem_limit": _text("memoryLimit"),
    "mem_reservation": _text("memoryReservation"),
    "cpus": _text("cpuLimit"),
}


# -- deploy and networks


def _deploy(service: Service, notes: list[str]) -> dict[str, Any]:
    given = service.given.get("deploy") or {}
    if not isinstance(given, Mapping):
        raise InvalidInput("a mapping is needed", field=service.at("deploy"))
    made: dict[str, Any] = {}
    for key, value in given.items():
        if key == "replicas":
            made["replicas"] = parts.number(value, service.at("deploy.replicas"))
        elif key == "mode" and value in ("global", "replicated"):
            made |= {"modeSwarm": {"Global": {}}} if value == "global" else {}
        elif key == "resources" and isinstance(value, Mapping):
            made |= _resources(service, value, notes)
        else:
            notes.append(f"{service.name}.deploy.{key}: not carried: set it as one of the fields for Swarm")
    return made


def _resources(service: Service, given: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    made = {}
    names = {
        ("limits", "cpus"): "cpuLimit",
        ("limits", "memory"): "memoryLimit",
        ("reservations", "cpus"): "cpuReservation",
        ("reservations", "memory"): "memoryReservation",
    }
    for kind, values in given.items():
        for key, value in (values or {}).items() if isinstance(values, Mapping) else ():
            if (name := names.get((kind, key))) is not None:
                made[name] = str(value)
            else:
                notes.append(f"{service.name}.deploy.resources.{kind}.{key}: not carried: {_NO_SETTING}")
    return made


def volume_name(name: str, whole: Mapping[str, Any], project: str) -> str:
    """Return the name that compose gives a volume."""
    return _object_name(name, (whole.get("volumes") or {}).get(name), project)


def network_name(name: str, whole: Mapping[str, Any], project: str) -> str:
    """Return the name that compose gives a network."""
    return _object_name(name, (whole.get("networks") or {}).get(name), project)


def _object_name(name: str, given: Any, project: str) -> str:
    chosen = given if isinstance(given, Mapping) else {}
    external = chosen.get("external")
    if isinstance(external, Mapping) and external.get("name"):
        return str(external["name"])
    if chosen.get("name"):
        return str(chosen["name"])
    return name if external else f"{project}_{name}"


def _networks(service: Service, notes: list[str]) -> list[str]:
    given = service.given.get("networks")
    if given is None:
        alone = len(service.whole["services"]) == 1 or service.given.get("network_mode") is not None
        return [] if alone else [network_name("default", service.whole, service.project)]
    named = list(given) if isinstance(given, Mapping) else parts.texts(given, service.at("networks"))
    if isinstance(given, Mapping):
        for name, options in given.items():
            if isinstance(options, Mapping) and options:
                notes.append(
                    f"{service.name}.networks.{name}: {', '.join(sorted(map(str, options)))} not carried: the "
                    "container is found there by its name"
                )
    return [network_name(name, service.whole, service.project) for name in named]
