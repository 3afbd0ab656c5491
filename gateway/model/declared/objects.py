"""The objects of a declaration, and their order: what an object refers to is applied before it. It performs no I/O."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self, TypeVar

from pydantic import ValidationError

from gateway.model.declared.forms import (
    AlertForm,
    ApplicationForm,
    DeclarationForm,
    EnvironmentForm,
    GroupForm,
    KeyForm,
    ProjectForm,
    RegistryForm,
    ServerForm,
    WebhookForm,
)
from gateway.model.declared.secrets import Form, dotted
from gateway.model.errors import InvalidInput
from gateway.model.projects import PRODUCTION

FormT = TypeVar("FormT", bound=Form)

#: the name of the project of applications that are declared without one, until somebody renames it
DEFAULT_PROJECT = "Default"


class Kind(StrEnum):
    """The kinds of objects, in the order in which they are applied."""

    SERVER = "server"
    REGISTRY = "registry"
    PROJECT = "project"
    ENVIRONMENT = "environment"
    APPLICATION = "application"
    GROUP = "group"
    WEBHOOK = "webhook"
    ALERT = "alert"
    KEY = "key"


#: the fields of a declaration, with the kinds of the objects in them
PLURALS: Mapping[str, Kind] = {
    "servers": Kind.SERVER,
    "registries": Kind.REGISTRY,
    "projects": Kind.PROJECT,
    "environments": Kind.ENVIRONMENT,
    "applications": Kind.APPLICATION,
    "groups": Kind.GROUP,
    "webhooks": Kind.WEBHOOK,
    "alerts": Kind.ALERT,
    "keys": Kind.KEY,
}
FORMS: Mapping[Kind, Any] = {
    Kind.SERVER: ServerForm,
    Kind.REGISTRY: RegistryForm,
    Kind.PROJECT: ProjectForm,
    Kind.ENVIRONMENT: EnvironmentForm,
    Kind.APPLICATION: ApplicationForm,
    Kind.GROUP: GroupForm,
    Kind.WEBHOOK: WebhookForm,
    Kind.ALERT: AlertForm,
    Kind.KEY: KeyForm,
}
#: the field of a form with the objects inside
INSIDE: Mapping[Kind, str] = {Kind.PROJECT: "environments", Kind.ENVIRONMENT: "applications"}
_ORDER = list(Kind)


@dataclass(frozen=True, slots=True)
class ObjectPath:
    """What identifies an object: names. Without `project`, an application is in the default environment."""

    kind: Kind
    name: str
    project: str | None = None
    environment: str | None = None

    @classmethod
    def parse(cls, parts: Sequence[str]) -> Self:
        """Return the path that stands in a declaration at `parts`. Raises InvalidInput."""
        match list(parts):
            case [plural, name] if PLURALS.get(plural) not in {None, Kind.ENVIRONMENT}:
                return cls(PLURALS[plural], name)
            case ["projects", project, "environments", name]:
                return cls(Kind.ENVIRONMENT, name, project)
            case ["projects", project, "environments", environment, "applications", name]:
                return cls(Kind.APPLICATION, name, project, environment)
            case _:
                pass
        raise InvalidInput(
            "this is not the path of an object, for example applications.web or projects.shop.environments.staging",
            field="path",
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """Where it stands in a declaration."""
        above: tuple[str, ...] = ()
        if self.project is not None:
            above = ("projects", self.project)
        if self.environment is not None:
            above = (*above, "environments", self.environment)
        plural = next(plural for plural, kind in PLURALS.items() if kind is self.kind)
        return (*above, plural, self.name)

    @property
    def full_name(self) -> str:
        """The name of an application with those of its project and its environment."""
        return f"{self.project or DEFAULT_PROJECT}/{self.environment or PRODUCTION}/{self.name}"

    def __str__(self) -> str:
        where = [self.project] if self.environment is None else [self.project, self.environment]
        return f"{self.kind} {'/'.join(filter(None, [*where, self.name]))}"


@dataclass(frozen=True, slots=True)
class Declared:
    """An object as a declaration has it, without the objects inside."""

    path: ObjectPath
    form: Any

    @property
    def is_place(self) -> bool:
        """Whether it only says where others are: a project, or an environment, without fields of its own."""
        inside = INSIDE.get(self.path.kind)
        return inside is not None and not self.form.model_fields_set - {inside}


def parse_object(path: ObjectPath, given: Mapping[str, Any]) -> Declared:
    """Return the object of this form, without objects inside. Raises InvalidInput naming the field."""
    if (inside := INSIDE.get(path.kind)) is not None and inside in given:
        raise InvalidInput("what is inside has a path of its own: apply it by itself", field=inside)
    return Declared(path, parse_form(FORMS[path.kind], given))


def parse_form(form: type[Form], given: Any) -> Any:
    """Return the form. Raises InvalidInput naming the field by its path in `given`."""
    try:
        return form.model_validate(given)
    except ValidationError as error:
        raise located(error, given) from error


def located(error: ValidationError, given: Any) -> InvalidInput:
    """Return the first error, with the path of its field as it stands in `given`."""
    path, said = _problem(error.errors(include_url=False, include_input=False)[0], given)
    return InvalidInput(said, field=dotted(path))


def problems(form: type[FormT], given: Any) -> FormT | list[tuple[tuple[str | int, ...], str]]:
    """Return the form, or else the path in `given` and the reason of each mistake."""
    try:
        return form.model_validate(given)
    except ValidationError as error:
        return [_problem(one, given) for one in error.errors(include_url=False, include_input=False)]


def _problem(one: Any, given: Any) -> tuple[tuple[str | int, ...], str]:
    path: list[str | int] = []
    inside = given
    for number, part in enumerate(one["loc"]):
        found, below = _inside(inside, part)
        if found:
            inside = below
        elif number < len(one["loc"]) - 1 or one["type"] != "missing":
            continue  # the name of a type, which means nothing to a person
        path.append(part)
    said = str(one["msg"]).removeprefix("Value error, ")
    return tuple(path), "there is no such field" if one["type"] == "extra_forbidden" else said


def _inside(given: Any, part: int | str) -> tuple[bool, Any]:
    if isinstance(given, Mapping):
        return part in given, given.get(part)
    there = isinstance(given, list) and isinstance(part, int) and part < len(given)
    return there, given[int(part)] if there else None


def objects_of(declaration: DeclarationForm) -> list[Declared]:
    """Return the objects, in the order in which they are applied."""
    found = [
        Declared(ObjectPath(PLURALS[plural], name), form)
        for plural in DeclarationForm.model_fields
        if plural in PLURALS
        for name, form in getattr(declaration, plural).items()
    ]
    for project, project_form in declaration.projects.items():
        for environment, form in project_form.environments.items():
            found.append(Declared(ObjectPath(Kind.ENVIRONMENT, environment, project), form))
            found += [
                Declared(ObjectPath(Kind.APPLICATION, name, project, environment), one)
                for name, one in form.applications.items()
            ]
    ordered = sorted(found, key=lambda one: _ORDER.index(one.path.kind))
    return _followed_first(ordered)


def follows_of(form: Any) -> list[str]:
    """Return the applications that an application follows."""
    return [
        str(gate.rule["follows"])
        for name, gate in form.gates.items()
        if (gate.kind or name) == "promotion" and gate.rule.get("follows")
    ]


def _followed_first(objects: Iterable[Declared]) -> list[Declared]:
    """Return the objects with each application behind those that it follows; a circle stays as it is."""
    pending = list(objects)
    named: dict[str, Declared] = {}
    for one in pending:
        if one.path.kind is Kind.APPLICATION:
            named.setdefault(one.path.name, one)
            named[one.path.full_name] = one
    done: dict[ObjectPath, Declared] = {}
    for one in pending:
        chain, inside = [one], {one.path}
        while chain[-1].path.kind is Kind.APPLICATION:
            ahead = next((named[each] for each in follows_of(chain[-1].form) if each in named), None)
            if ahead is None or ahead.path in inside or ahead.path in done:
                break
            chain.append(ahead)
            inside.add(ahead.path)
        for each in reversed(chain):
            done.setdefault(each.path, each)
    return list(done.values())


def is_in(path: ObjectPath, project: str) -> bool:
    """Tell whether an object is the project of this name, or in it."""
    if path.kind is Kind.PROJECT:
        return path.name == project
    return (path.project or (DEFAULT_PROJECT if path.kind is Kind.APPLICATION else None)) == project


def spec_at(document: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """Return an object of a document as it stands there, without the objects inside."""
    found: Any = document
    for part in path:
        found = found[part]
    inside = INSIDE.get(PLURALS[path[-2]])
    return {name: value for name, value in (found or {}).items() if name != inside}
