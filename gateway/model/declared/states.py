"""An object as flat fields: what is wanted, and what is there, so that they can be compared. It performs no I/O.

A field that has its default is left out. Secrets are in `Secret`, which shows nothing; so are the values of variables.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

State: TypeAlias = dict[str, Any]

HIDDEN = "(secret)"


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret. Its value is shown nowhere.

    One that is `kept` was not given again, so it must not go to another place than it was given for.
    """

    value: str = field(repr=False)
    is_kept: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Variables:
    """Variables. Of them only the names are shown."""

    values: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that changes. Of secrets it only says that they do."""

    field: str
    before: Any
    after: Any


def differences(current: State, wanted: State) -> list[Difference]:
    """Return the fields that differ, sorted as `wanted` has them."""
    names = [*wanted, *(name for name in current if name not in wanted)]
    found: list[Difference] = []
    for name in names:
        before, after = current.get(name), wanted.get(name)
        if before == after:
            continue
        if name == "gates":
            parts = sorted((before or {}).keys() | (after or {}).keys())
            found += [
                _difference(f"gates.{part}", (before or {}).get(part), (after or {}).get(part))
                for part in parts
                if (before or {}).get(part) != (after or {}).get(part)
            ]
        else:
            found.append(_difference(name, before, after))
    return found


def _difference(name: str, before: Any, after: Any) -> Difference:
    if isinstance(before, Variables) or isinstance(after, Variables):
        old = before.values if before else {}
        new = after.values if after else {}
        said = (
            *(f"{one} added" for one in new if one not in old),
            *(f"{one} changed" for one in new if one in old and new[one] != old[one]),
            *(f"{one} removed" for one in old if one not in new),
        )
        return Difference(name, sorted(old), ", ".join(said))
    return Difference(name, shown(before), shown(after, before))


def shown(value: Any, before: Any = None) -> Any:
    """Return the value without secrets; one that differs from `before` says so."""
    if isinstance(value, Secret):
        return f"{HIDDEN}, changed" if isinstance(before, Secret) and before != value else HIDDEN
    if isinstance(value, Mapping):
        inside = before if isinstance(before, Mapping) else {}
        return {name: shown(part, inside.get(name)) for name, part in value.items()}
    if isinstance(value, list | tuple):
        others = before if isinstance(before, list) and len(before) == len(value) else [None] * len(value)
        return [shown(part, other) for part, other in zip(value, others, strict=True)]
    return value


def canonical(state: State) -> str:
    """Return a text that is equal for equal states. It contains the secrets."""
    return json.dumps(state, sort_keys=True, default=_plain, ensure_ascii=True)


def _plain(value: object) -> object:
    if isinstance(value, Secret):
        return {"secret": value.value}
    if isinstance(value, Variables):
        return {"variables": dict(value.values)}
    raise TypeError(type(value).__name__)


def given(state: State, names: Iterable[str]) -> State:
    """Return those of these secrets that were given again."""
    found = {name: state.get(name) for name in names}
    return {name: one for name, one in found.items() if isinstance(one, Secret) and not one.is_kept}


def revealed(value: Any) -> Any:
    """Return the value with its secrets, as procedures take it."""
    if isinstance(value, Secret):
        return value.value
    if isinstance(value, Mapping):
        return {name: revealed(part) for name, part in value.items()}
    return [revealed(part) for part in value] if isinstance(value, list | tuple) else value
