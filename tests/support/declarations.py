"""Declarations that are made up, and what an export of them has to say."""

import copy
from random import Random
from typing import Any

_PINNED = f"acme/web@sha256:{'ab' * 32}"
#: some values of each setting; the first is often the default, and then not written
SETTINGS: dict[str, list[Any]] = {
    "description": ["what it is", "ünïcode: 'quoted' \"twice\" # no comment", "two\nlines\n"],
    "dockerImage": ["ghcr.io/acme/web:1.2", "nginx", "registry.example.com:5000/a/b:v1", _PINNED],
    "command": ["run --port '80 80'", "sh -c 'echo on'"],
    "args": [["--quiet", "yes"], ["on"]],
    "user": ["1000:1000", "app"],
    "workingDir": ["/srv"],
    "hostname": ["web-1"],
    "init": [True],
    "memoryLimit": ["512m", "1g"],
    "memoryReservation": ["64m"],
    "cpuLimit": ["0.5", "2"],
    "ports": [
        [{"targetPort": 80, "publishedPort": 8080}],
        [{"targetPort": 53, "publishedPort": 53, "protocol": "udp", "hostIp": "127.0.0.1"}],
    ],
    "tmpfs": [[{"target": "/run"}, {"target": "/cache", "size": "64m"}]],
    "capAdd": [["NET_ADMIN"]],
    "capDrop": [["ALL"]],
    "extraHosts": [["db:10.0.0.2"]],
    "networks": [["front"], ["front", "back"]],
    "labels": [{"a": "b", "dotted.name": "on"}],
    "stopGrace": [30],
    "order": ["stop-first"],
    "drain": [0.0, 1.5],
    "kept": [3],
    "healthCheckSwarm": [{"Test": ["CMD", "true"], "Interval": 10**9}, {"Test": ["NONE"]}],
    "healthDeadline": [20.0],
    "stableWindow": [2.5],
    "watch": [0.0, 60.0],
    "heal": [True],
    "restartPolicySwarm": [{"Condition": "on-failure", "MaxAttempts": 3}],
    "placementSwarm": [{"Constraints": ["node.role==worker"]}],
    "updateConfigSwarm": [{"Parallelism": 2, "Order": "start-first"}],
    "ulimitsSwarm": [[{"Name": "nofile", "Soft": 100, "Hard": 200}]],
    "registryUrl": ["ghcr.io"],
    "username": ["bot"],
    "autoDeploy": [False],
    "reconcile": [0, 300],
    "mounts": [
        [{"source": "data", "target": "/data"}],
        [{"type": "bind", "source": "/srv", "target": "/host", "readOnly": True}],
        [{"type": "file", "source": "app.conf", "target": "/etc/app.conf", "contentFrom": {"file": "app.conf"}}],
    ],
    "subscriptions": [
        [{"repository": "docker.io/acme/web", "policy": "semver", "pattern": "^1.2"}],
        [
            {"repository": "docker.io/acme/web", "policy": "any", "exclude": ["*-rc*"]},
            {"repository": "ghcr.io/acme/b", "policy": "exact", "pattern": "main"},
        ],
    ],
    "gates": [
        {"maturity": {"rule": {"age": "1h"}}},
        {"maturity": {"rule": {"age": "2d"}}, "off": {"kind": "window", "enabled": False}},
    ],
}  # fmt: skip
_VARIABLES = {"LOG": "info", "QUOTED": "a 'b' \"c\"", "LINES": "one\ntwo", "EMPTY": "", "HASH": "a # b"}


class Maker:
    """Makes declarations and edits of them, always the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def application(self, *, most: int = 8) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name in self.random.sample(sorted(SETTINGS), self.random.randint(0, most)):
            self.set_field(made, name)
        return _possible(made)

    def set_field(self, form: dict[str, Any], name: str) -> None:
        form[name] = copy.deepcopy(self.random.choice(SETTINGS[name]))

    def variables(self) -> dict[str, Any]:
        names = self.random.sample(sorted(_VARIABLES), self.random.randint(1, 3))
        from_elsewhere = {name: {"env": name} for name in names if self.random.random() < 0.3}
        plain = {name: _VARIABLES[name] for name in names if name not in from_elsewhere}
        return {name: value for name, value in (("env", plain), ("envFrom", from_elsewhere)) if value}

    def document(self) -> dict[str, Any]:
        made: dict[str, Any] = {"declaration": "made-up", "applications": {}, "projects": {}}
        for _ in range(12):
            self.edit(made)
        return made

    def edit(self, document: dict[str, Any]) -> None:
        """Change one thing."""
        self.random.choice(
            [
                self._edit_application,
                self._edit_application,
                self._edit_application,
                self._edit_applications,
                self._edit_project,
                self._edit_group,
                self._edit_webhook,
                self._edit_registry,
            ]
        )(document)
        _drop_unknown_members(document)

    def _places(self, document: dict[str, Any]) -> list[dict[str, Any]]:
        inside = [
            environment.setdefault("applications", {})
            for project in document["projects"].values()
            for environment in project.setdefault("environments", {}).values()
        ]
        return [document["applications"], *inside]

    def _edit_applications(self, document: dict[str, Any]) -> None:
        place = self.random.choice(self._places(document))
        name = self.random.choice(["web", "api", "jobs", "db"])
        if name in place:
            del place[name]
        else:
            place[name] = self.application()

    def _edit_application(self, document: dict[str, Any]) -> None:
        forms = [form for place in self._places(document) for form in place.values()]
        if not forms:
            self._edit_applications(document)
            return
        form = self.random.choice(forms)
        if self.random.random() < 0.2:
            for name in ("env", "envFrom"):
                form.pop(name, None)
            form |= self.variables() if self.random.random() < 0.7 else {}
        elif form and self.random.random() < 0.4:
            del form[self.random.choice(sorted(form))]
        else:
            self.set_field(form, self.random.choice(sorted(SETTINGS)))
        whole = _possible(form)
        form.clear()
        form |= whole

    def _edit_project(self, document: dict[str, Any]) -> None:
        name = self.random.choice(["shop", "blog"])
        projects = document["projects"]
        if name in projects and self.random.random() < 0.15:
            del projects[name]
            return
        # With a field of its own, it is as the file says, and not only a place.
        project = projects.setdefault(name, {"description": "a project", "environments": {}})
        if self.random.random() < 0.5:
            environment = self.random.choice(["production", "staging"])
            project.setdefault("environments", {}).setdefault(
                environment, {"description": "a part", "applications": {}}
            )
            return
        for field in ("env", "envFrom"):
            project.pop(field, None)
        project |= self.variables()

    def _edit_group(self, document: dict[str, Any]) -> None:
        groups = document.setdefault("groups", {})
        name = self.random.choice(["all", "some"])
        if name in groups and self.random.random() < 0.3:
            del groups[name]
            return
        names = full_names(document)
        members = self.random.sample(names, self.random.randint(0, len(names)))
        groups[name] = {"members": {one: self.random.randint(1, 3) for one in members}} if members else {}

    def _edit_webhook(self, document: dict[str, Any]) -> None:
        webhooks = document.setdefault("webhooks", {})
        name = self.random.choice(["github", "harbor"])
        if name in webhooks and self.random.random() < 0.3:
            del webhooks[name]
            return
        more: list[dict[str, Any]] = [{}, {"rate": 60}, {"enabled": False}, {"networks": ["192.0.2.0/24"]}]
        webhooks[name] = {"source": name, **self.random.choice(more)}

    def _edit_registry(self, document: dict[str, Any]) -> None:
        registries = document.setdefault("registries", {})
        if "ghcr" in registries and self.random.random() < 0.3:
            del registries["ghcr"]
            return
        login = {"username": self.random.choice(["bot", "robot"]), "passwordFrom": {"env": "TOKEN"}}
        registries["ghcr"] = {"registryUrl": "ghcr.io", **login}


def _possible(form: dict[str, Any]) -> dict[str, Any]:
    """Return the form without fields that contradict others."""
    made = dict(form)
    if "username" in made:
        made["passwordFrom"] = {"env": "PASSWORD"}
    else:
        made.pop("passwordFrom", None)
    made.setdefault("dockerImage", "acme/web:1")
    if "memoryReservation" in made and "memoryLimit" not in made:
        del made["memoryReservation"]
    return made


def full_names(document: dict[str, Any]) -> list[str]:
    """Return the full names of the applications."""
    names = [f"Default/production/{name}" for name in document["applications"]]
    for project, form in document["projects"].items():
        for environment, inside in form.get("environments", {}).items():
            names += [f"{project}/{environment}/{name}" for name in inside.get("applications", {})]
    return sorted(names)


def _drop_unknown_members(document: dict[str, Any]) -> None:
    known = set(full_names(document))
    for group in document.get("groups", {}).values():
        kept = {name: wave for name, wave in group.get("members", {}).items() if name in known}
        group.clear()
        group.update({"members": kept} if kept else {})


def exported(document: dict[str, Any]) -> dict[str, Any]:
    """Return what an export says of the declaration: no secret, nothing empty, and production of each project."""
    made = copy.deepcopy(document)
    made.pop("declaration", None)
    for project in made["projects"].values():
        project.setdefault("environments", {}).setdefault("production", {})
    whole: dict[str, Any] = _told(made)
    for webhook in whole.get("webhooks", {}).values():
        webhook["secretFrom"] = "unchanged"
    return whole


def _told(value: Any, name: str = "") -> Any:
    if isinstance(value, list):
        return [_told(one) for one in value]
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for key, part in value.items():
        if key in {"env", "envFrom"} and name != "labels":
            found.setdefault("envFrom", {}).update(dict.fromkeys(part, "unchanged"))
        elif key in {"passwordFrom", "contentFrom"}:
            found[key] = "unchanged"
        else:
            told = _told(part, key)
            if told not in ({}, []) or key in {"production", "staging"} or name in {"applications", "groups"}:
                found[key] = told
    return found
