"""Variables that name others, with those put in. It performs no I/O.

    ${{project.NAME}}      a variable of the project the application is in
    ${{environment.NAME}}  one of its environment
    ${{NAME}}              one of the same text

An application's may name all three, an environment's those of its project and its own, a project's its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.model.applications import parse_environment
from gateway.model.errors import InvalidInput

_OPENING, _CLOSING = "${{", "}}"
_MAX_DEPTH = 32
# What Linux hands to a program: https://man7.org/linux/man-pages/man2/execve.2.html#NOTES
_MAX_VALUE_LENGTH = 128 * 1024
_MAX_TOTAL_LENGTH = 4 * 1024 * 1024
_TOO_LONG = "the variables together are longer than a program can be given"

_PROCEDURES = {"project": "project.update", "environment": "environment.update", "": "application.saveEnvironment"}
_OWNER = {"project": "the project", "environment": "the environment", "": "the application"}


def has_references(text: str | None) -> bool:
    """Tell whether there is anything to put in."""
    return text is not None and _OPENING in text


def references(text: str) -> frozenset[str]:
    """Return what of the project and the environment it names, as project.NAME."""
    named = (found.strip() for found in _split(text)[1::2])
    return frozenset(name for name in named if name.partition(".")[0] in {"project", "environment"} and "." in name)


def resolve(own: str | None, *, environment: str | None, project: str | None) -> dict[str, str]:
    """Return an application's variables with what they name put in; all three are dotenv text.

    Raises InvalidInput naming what cannot be: a variable that is not there, or that leads back to itself.
    """
    texts = {"": own, "environment": environment, "project": project}
    resolution = _Resolution({scope: parse_environment(text or "") for scope, text in texts.items()})
    found = {name: resolution.value("", name, ()) for name in resolution.texts[""]}
    if sum(len(name) + len(value) for name, value in found.items()) > _MAX_TOTAL_LENGTH:
        raise InvalidInput(_TOO_LONG, field="env")
    return found


def _split(text: str) -> list[str]:
    """Return what stands between, and the names, by turns. A name ends on the line it begins on.

    >>> _pieces("a${{B}}c ${{ d")
    ['a', 'B', 'c ${{ d']
    """
    pieces, done = [], 0
    begin, end = text.find(_OPENING), -1
    while begin >= 0:
        inside = begin + len(_OPENING)
        if end < inside and (end := text.find(_CLOSING, inside)) < 0:
            break  # and nothing that begins later ends
        if (line := text.find("\n", inside, end)) >= 0:
            begin = text.find(_OPENING, line)
            continue
        pieces += [text[done:begin], text[inside:end]]
        done = end + len(_CLOSING)
        begin = text.find(_OPENING, done)
    return [*pieces, text[done:]]


@dataclass(slots=True)
class _Resolution:
    #: by scope, and there by name
    texts: Mapping[str, Mapping[str, str]]
    known: dict[tuple[str, str], str] = field(default_factory=dict)
    #: characters of those that name others, until now
    made: int = 0

    def value(self, scope: str, name: str, way: tuple[tuple[str, str], ...]) -> str:
        """Return one with what it names put in; `way` is what led here."""
        place = (scope, name)
        if place not in self.known:
            if place in way:
                circle = " names ".join(map(_qualified_name, (*way[way.index(place) :], place)))
                raise InvalidInput(f"variables name each other in a circle: {circle}", field="env")
            if len(way) >= _MAX_DEPTH:
                raise InvalidInput(
                    f"{_qualified_name(way[0])} leads to variables more than {_MAX_DEPTH} deep", field="env"
                )
            text = self.texts[scope][name]
            pieces = _split(text)
            pieces[1::2] = [self._named(place, named.strip(), way) for named in pieces[1::2]]
            value = "".join(pieces)
            if len(pieces) > 1 and len(value) > _MAX_VALUE_LENGTH:
                raise InvalidInput(f"{_qualified_name(place)} becomes longer than a program can be given", field="env")
            self.made += len(value) if len(pieces) > 1 else 0
            if self.made > _MAX_TOTAL_LENGTH:
                raise InvalidInput(_TOO_LONG, field="env")
            self.known[place] = value
        return self.known[place]

    def _named(self, place: tuple[str, str], named: str, way: tuple[tuple[str, str], ...]) -> str:
        head, dot, tail = named.partition(".")
        scope, name = (head, tail) if dot and head in {"project", "environment"} else (place[0], named)
        names = f"{_qualified_name(place)} names ${{{{{named}}}}}"
        if scope == "environment" and place[0] == "project":
            raise InvalidInput(f"{names}: a project's variables cannot name an environment's", field="env")
        if name not in self.texts[scope]:
            raise InvalidInput(
                f"{names}, which {_OWNER[scope]} does not have: set {name or 'it'} in env with {_PROCEDURES[scope]}",
                field="env",
            )
        return self.value(scope, name, (*way, place))


def _qualified_name(place: tuple[str, str]) -> str:
    return ".".join(filter(None, place))
