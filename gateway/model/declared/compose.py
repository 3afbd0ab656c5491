"""A compose file as a declaration: https://github.com/compose-spec/compose-spec. It performs no I/O.

Each key is carried into the declaration, or named as not carried, with the reason. What no application can be made of
is refused: a service that is only built, `extends`, `include`.
"""

import hashlib
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from gateway.model.declared import compose_service
from gateway.model.declared.compose_service import Service, texts
from gateway.model.declared.compose_text import Interpolation
from gateway.model.declared.objects import DEFAULT_PROJECT
from gateway.model.errors import InvalidInput
from gateway.model.projects import PRODUCTION

_NAME = re.compile(r"[^a-z0-9_-]+")
_NOT_IN_NAME = re.compile(r"[^A-Za-z0-9_.-]+")
_DECLARATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_LONGEST_STEM = 50  # characters of such a name, before the mark
#: what compose finds by itself: the project alone says which file is meant
_USUAL_FILES = frozenset({"compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml", "-"})
_TOP = frozenset({"name", "version", "services", "networks", "volumes", "secrets", "configs"})
_OF_MAPPINGS = ("networks", "volumes", "secrets", "configs")
_MOST_SERVICES = 500


@dataclass(frozen=True, slots=True)
class Source:
    """Where a compose file stands, and what it is read with."""

    #: absolute; paths of the host are seen from there
    directory: str
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    profiles: frozenset[str] = frozenset()
    #: returns the variables of an env_file by its path; raises InvalidInput
    read_variables: Callable[[str], Mapping[str, str]] = field(default=lambda _: {}, repr=False)
    #: the project of the gateway for the applications; None: the default one
    project: str | None = None
    #: the file's own name
    file: str = "compose.yaml"


@dataclass(frozen=True, slots=True)
class Converted:
    """A declaration, and what of the compose file is not in it."""

    document: dict[str, Any]
    notes: list[str]


def convert(given: Any, source: Source) -> Converted:
    """Return the declaration of a compose file. Raises InvalidInput, whose field is the dotted path in the file."""
    if not isinstance(given, Mapping) or not isinstance(given.get("services"), Mapping):
        raise InvalidInput("this is not a compose file: it has no services", field="services")
    if "include" in given:
        raise InvalidInput("include is not followed: import what docker compose config prints", field="include")
    for name in _OF_MAPPINGS:
        if not isinstance(given.get(name) or {}, Mapping):
            raise InvalidInput("a mapping is needed", field=name)
    services = given["services"]
    if len(services) > _MOST_SERVICES:
        raise InvalidInput(f"a compose file has at most {_MOST_SERVICES} services", field="services")
    interpolation = Interpolation(source.variables)
    whole = interpolation.value({name: part for name, part in given.items() if not str(name).startswith("x-")})
    project = _project_name(whole.get("name"), source.directory)
    notes = [_top_note(name) for name in given if name not in _TOP]
    if "version" in given:
        notes.append("version: compose ignores it too")
    made: dict[str, Any] = {}
    for name, service in whole["services"].items():
        if service is not None and not isinstance(service, Mapping):
            raise InvalidInput("a service is a mapping", field=f"services.{name}")
        found = Service(name, service or {}, whole, project, source.directory, source.read_variables, source.variables)
        wanted = set(texts(found.given.get("profiles"), f"services.{name}.profiles"))
        if wanted and not wanted & source.profiles:
            notes.append(f"{name}: left out, since it is only for profile {', '.join(sorted(wanted))}; see --profile")
            continue
        made[name] = compose_service.application_of(found, notes)
    notes += _networks(whole, made, project)
    notes += [f"${name}: it is not set, so it is empty" for name in sorted(interpolation.unset)]
    name = _declaration(project, source)
    groups = _group(whole["services"], made, name, source, notes)
    return Converted(_placed(name, made, groups, source), notes)


def _top_note(name: str) -> str:
    if name.startswith("x-"):
        return f"{name}: an extension, which compose ignores too"
    return f"{name}: not carried: the gateway has no such thing"


def _project_name(given: Any, directory: str) -> str:
    """Return the name that compose gives the project: its networks and volumes begin with it."""
    text = str(given) if given else posixpath.basename(directory.rstrip("/"))
    return _NAME.sub("", text.lower()).lstrip("_-") or "default"


def _declaration(project: str, source: Source) -> str:
    """Return a name that other files do not get: what one of them no longer has must not prune what another made."""
    words = [source.project, project, None if source.file in _USUAL_FILES else source.file.rpartition(".")[0]]
    name = ".".join(filter(None, words))
    if _DECLARATION.fullmatch(name):
        return name
    # Two that differ only in what is replaced or cut differ in the end of the name.
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{_NOT_IN_NAME.sub('-', name).lstrip('-._')[:_LONGEST_STEM]}.{mark}".lstrip(".")


def _placed(name: str, made: Mapping[str, Any], groups: Mapping[str, Any], source: Source) -> dict[str, Any]:
    document: dict[str, Any] = {"declaration": name}
    if source.project is None:
        document["applications"] = dict(made)
    else:
        inside = {"environments": {"production": {"applications": dict(made)}}}
        document["projects"] = {source.project: inside}
    return {**document, **({"groups": dict(groups)} if groups else {})}


# -- the order of services


def _group(
    services: Mapping[str, Any], made: Mapping[str, Any], group: str, source: Source, notes: list[str]
) -> dict[str, Any]:
    """Return a group whose waves are the order of depends_on, if anything depends on something."""
    needs = {name: _needs(name, services.get(name) or {}, made) for name in made}
    if not any(needs.values()):
        return {}
    waves: dict[str, int] = {}
    try:
        for name in TopologicalSorter(needs).static_order():
            waves[name] = 1 + max((waves[one] for one in needs[name]), default=0)
    except CycleError as error:
        circle = error.args[1][::-1]
        raise InvalidInput(
            f"this is a circle: {' -> '.join(circle)}", field=f"services.{circle[0]}.depends_on"
        ) from error
    notes.append(
        f"depends_on: carried as the waves of the group {group}, for gateway release {group}; an application alone "
        "starts without waiting for others"
    )
    place = f"{source.project or DEFAULT_PROJECT}/{PRODUCTION}"
    return {group: {"members": {f"{place}/{name}": waves[name] for name in made}}}


def _needs(name: str, service: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    given = service.get("depends_on") or []
    if not isinstance(given, Mapping | list):
        raise InvalidInput("a list or a mapping of services is needed", field=f"services.{name}.depends_on")
    return [str(one) for one in given if str(one) in made]


# -- networks, by which services find each other


def _networks(whole: Mapping[str, Any], made: Mapping[str, Any], project: str) -> Sequence[str]:
    """Name the networks that have to be there."""
    external = {
        compose_service.network_name(name, whole, project)
        for name, network in (whole.get("networks") or {}).items()
        if isinstance(network, Mapping) and network.get("external")
    }
    used = sorted({one for application in made.values() for one in application.get("networks", ())} - external)
    return [f"networks: create {name} on the engine if it is not there: docker network create {name}" for name in used]
