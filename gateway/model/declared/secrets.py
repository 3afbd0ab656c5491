"""Where the secrets of a declaration come from. It performs no I/O.

A declaration never contains a secret. A field that ends in `From` says where its value comes from: the one who applies
the declaration reads it there, and sends it beside the declaration, by its path.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic.alias_generators import to_camel

from gateway.model.errors import InvalidInput
from gateway.model.field_descriptions import DescribedModel

#: what a field says that keeps the value which the gateway holds
UNCHANGED = "unchanged"
SUFFIX = "From"


class Form(DescribedModel):
    """A part of a declaration. Unknown fields are refused: a misspelt one would have no effect."""

    model_config = ConfigDict(
        hide_input_in_errors=True,
        frozen=True,
        alias_generator=to_camel,
        extra="forbid",
        defer_build=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, given: Any) -> Any:
        """Take null, which YAML writes as nothing, for a field that is not there, and for a form without fields."""
        if isinstance(given, Mapping):
            return {name: value for name, value in given.items() if value is not None}
        return {} if given is None else given


class Reference(Form):
    """Where a secret is read by the one who applies the declaration: exactly one of these."""

    env: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    """Name of an environment variable."""
    file: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Path of a file, seen from the declaration's own."""
    command: Annotated[list[str], Field(min_length=1, max_length=100)] | None = None
    """Program and arguments that print it, for example `[sops, decrypt, --extract, '["token"]', secrets.yaml]`. Run
    only with --allow-commands.
    """

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("exactly one of env, file and command is needed")
        return self


def _kind(given: Any) -> str:
    return UNCHANGED if isinstance(given, str) else "reference"


SecretFrom: TypeAlias = Annotated[
    Annotated[Reference, Tag("reference")] | Annotated[Literal["unchanged"], Tag(UNCHANGED)],
    Discriminator(_kind),
    Field(description="Where the secret comes from. `unchanged` keeps the one that the gateway holds."),
]


def secret_paths(form: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield the path of each secret in a declaration, or in a part of it, and what it says."""
    if isinstance(form, Mapping):
        for name, value in form.items():
            if name == f"env{SUFFIX}" and isinstance(value, Mapping):
                yield from (((*path, name, one), where) for one, where in value.items())
            elif isinstance(name, str) and name.endswith(SUFFIX) and not _is_free(path):
                if value is not None:
                    yield (*path, name), value
            else:
                yield from secret_paths(value, (*path, name))
    elif isinstance(form, list):
        for number, value in enumerate(form):
            yield from secret_paths(value, (*path, number))


#: fields whose keys are the user's own words
_FREE = frozenset({
    "applications", "projects", "environments", "groups", "webhooks", "alerts", "registries", "servers", "keys",
    "gates", "env", "labels", "rule", "settings", "members",
})  # fmt: skip


def _is_free(path: tuple[str | int, ...]) -> bool:
    return bool(path) and path[-1] in _FREE and (len(path) == 1 or path[-2] not in _FREE)


def dotted(path: tuple[str | int, ...]) -> str:
    """Return the path with a dot between its parts."""
    return ".".join(map(str, path))


class Secrets:
    """The secrets of one object, as they were sent with it, by their dotted paths in it."""

    def __init__(self, sent: Mapping[str, str]) -> None:
        self._sent = sent

    def value(self, field: str, where: Any, stored: str | None) -> str | None:
        """Return the value of a field; `stored` where it is to stay. Raises InvalidInput where there is none."""
        if where is None:
            return None
        if where == UNCHANGED:
            if stored is None:
                raise InvalidInput(
                    "the gateway holds nothing here that could stay unchanged: say where it comes from, for example "
                    "{env: NAME}",
                    field=field,
                )
            return stored
        if field not in self._sent:
            raise InvalidInput(
                "its value was not sent with the declaration: secrets has none of this path", field=field
            )
        return self._sent[field]
