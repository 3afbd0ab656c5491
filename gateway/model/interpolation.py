"""Resolves references between variables. It performs no I/O.

    ${{project.NAME}}      a variable of the application's project
    ${{environment.NAME}}  a variable of its environment
    ${{NAME}}              a variable of the same text

Variables of an application may refer to all three; those of an environment to the project's and its own; those of a
project only to its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.model.applications import parse_environment
from gateway.model.errors import InvalidInput

_OPENING, _CLOSING = "${{", "}}"
_MAX_DEPTH = 32
# The limits of Linux: https://man7.org/linux/man-pages/man2/execve.2.html#NOTES
_MAX_VALUE_LENGTH = 128 * 1024
_MAX_TOTAL_LENGTH = 4 * 1024 * 1024
_TOO_LONG = "the variables together are longer than Linux can pass to a program"

_PROCEDURES = {"project": "project.update", "environment": "environment.update", "": "application.saveEnvironment"}
_OWNER = {"project": "the project", "environment": "the environment", "": "the application"}


def has_references(text: str | None) -> bool:
    """Tell whether the text contains references."""
    return text is not None and _OPENING in text


def references(own: str) -> frozenset[str]:
    """Return what an application's variables name of its project and its environment, for example project.NAME.

    The argument is dotenv text. Raises InvalidInput if it is not.
    """
    # Quotes and escapes can hide where a reference ends, so the text is parsed before it is split, as in `resolve`.
    places = (_place(named) for value in parse_environment(own).values() for named in _split(value)[1::2])
    return frozenset(_qualified_name(place) for place in places if place[0])


def resolve(own: str | None, *, environment: str | None, project: str | None) -> dict[str, str]:
    """Return an application's variables with their references resolved. The arguments are dotenv text.

    Raises InvalidInput if a variable does not exist, or refers to itself through others.
    """
    texts = {"": own, "environment": environment, "project": project}
    resolution = _Resolution({scope: parse_environment(text or "") for scope, text in texts.items()})
    found = {name: resolution.value("", name, ()) for name in resolution.texts[""]}
    if sum(len(name) + len(value) for name, value in found.items()) > _MAX_TOTAL_LENGTH:
        raise InvalidInput(_TOO_LONG, field="env")
    return found


def _split(text: str) -> list[str]:
    """Split a text into literal text and names, alternating. A name must end on the line where it begins.

    >>> _split("a${{B}}c ${{ d")
    ['a', 'B', 'c ${{ d']
    """
    pieces, done = [], 0
    begin, end = text.find(_OPENING), -1
    while begin >= 0:
        inside = begin + len(_OPENING)
        if end < inside and (end := text.find(_CLOSING, inside)) < 0:
            break  # nor does any later reference end
        if (line := text.find("\n", inside, end)) >= 0:
            begin = text.find(_OPENING, line)
            continue
        pieces += [text[done:begin], text[inside:end]]
        done = end + len(_CLOSING)
        begin = text.find(_OPENING, done)
    return [*pieces, text[done:]]


@dataclass(slots=True)
class _Resolution:
    #: values by scope, then by name
    texts: Mapping[str, Mapping[str, str]]
    known: dict[tuple[str, str], str] = field(default_factory=dict)
    #: total length of the resolved values so far
    made: int = 0

    def value(self, scope: str, name: str, way: tuple[tuple[str, str], ...]) -> str:
        """Return a variable with its references resolved; `way` lists the variables that led to it."""
        place = (scope, name)
        if place not in self.known:
            if place in way:
                circle = " refers to ".join(map(_qualified_name, (*way[way.index(place) :], place)))
                raise InvalidInput(f"variables refer to each other in a circle: {circle}", field="env")
            if len(way) >= _MAX_DEPTH:
                raise InvalidInput(
                    f"{_qualified_name(way[0])} has references nested more than {_MAX_DEPTH} deep", field="env"
                )
            text = self.texts[scope][name]
            pieces = _split(text)
            pieces[1::2] = [self._named(place, named, way) for named in pieces[1::2]]
            value = "".join(pieces)
            if len(pieces) > 1 and len(value) > _MAX_VALUE_LENGTH:
                raise InvalidInput(
                    f"{_qualified_name(place)} becomes longer than Linux can pass to a program", field="env"
                )
            self.made += len(value) if len(pieces) > 1 else 0
            if self.made > _MAX_TOTAL_LENGTH:
                raise InvalidInput(_TOO_LONG, field="env")
            self.known[place] = value
        return self.known[place]

    def _named(self, place: tuple[str, str], named: str, way: tuple[tuple[str, str], ...]) -> str:
        scope, name = _place(named)
        names = f"{_qualified_name(place)} refers to ${{{{{named.strip()}}}}}"
        scope = scope or place[0]
        if scope == "environment" and place[0] == "project":
            raise InvalidInput(f"{names}: a project's variables cannot refer to an environment's", field="env")
        if name not in self.texts[scope]:
            raise InvalidInput(
                f"{names}, which {_OWNER[scope]} does not have: set {name or 'it'} in env with {_PROCEDURES[scope]}",
                field="env",
            )
        return self.value(scope, name, (*way, place))


def _place(named: str) -> tuple[str, str]:
    """Return the scope and the name of the variable that a reference names; the scope is empty for the same text."""
    head, dot, tail = named.strip().partition(".")
    return (head, tail) if dot and head in {"project", "environment"} else ("", named.strip())


def _qualified_name(place: tuple[str, str]) -> str:
    return ".".join(filter(None, place))
