"""Variables in compose files: https://github.com/compose-spec/compose-spec/blob/main/12-interpolation.md. No I/O."""

import re
from collections.abc import Mapping
from typing import Any

from gateway.model.errors import InvalidInput

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SIGN = re.compile(r"(:?[-?+])")
_MAX_DEPTH = 10
_MAX_LENGTH = 1024**2  # characters of all values together


class Interpolation:
    """Replaces `${NAME:-default}` and the like in values. `unset` are names without a value, which become empty."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self._made = 0
        self.unset: set[str] = set()

    def value(self, given: Any, path: tuple[str | int, ...] = ()) -> Any:
        """Return the value with all variables replaced; keys stay. Raises InvalidInput naming the place."""
        if isinstance(given, str):
            try:
                return self._text(given, 0)
            except InvalidInput as error:
                raise InvalidInput(str(error), field=".".join(map(str, path))) from error
        if isinstance(given, Mapping):
            return {name: self.value(part, (*path, name)) for name, part in given.items()}
        if isinstance(given, list):
            return [self.value(part, (*path, number)) for number, part in enumerate(given)]
        return given

    def _text(self, text: str, depth: int) -> str:
        if depth > _MAX_DEPTH:
            raise InvalidInput(f"variables are nested at most {_MAX_DEPTH} deep")
        pieces, place = [], 0
        while (sign := text.find("$", place)) >= 0:
            pieces.append(text[place:sign])
            following = text[sign + 1 : sign + 2]
            if following == "$":
                pieces.append("$")
                place = sign + 2
            elif following == "{":
                end = _closing(text, sign + 2)
                pieces.append(self._braced(text[sign + 2 : end], depth))
                place = end + 1
            elif named := _NAME.match(text, sign + 1):
                pieces.append(self._named(named[0]))
                place = named.end()
            else:
                raise InvalidInput("a $ is written $$, where no variable is meant")
        made = "".join([*pieces, text[place:]])
        self._made += len(made)
        if self._made > _MAX_LENGTH:
            raise InvalidInput(f"the values are longer than {_MAX_LENGTH} characters")
        return made

    def _braced(self, inside: str, depth: int) -> str:
        named = _NAME.match(inside)
        if named is None:
            raise InvalidInput(f"${{{inside[:40]}}} names no variable")
        name, rest = named[0], inside[named.end() :]
        if not rest:
            return self._named(name)
        how = _SIGN.match(rest)
        if how is None:
            raise InvalidInput(
                f"${{{inside[:40]}}} is no form of a variable: ${{NAME}}, ${{NAME:-default}} and the like"
            )
        word, value = rest[how.end() :], self._variables.get(name)
        is_set = value is not None and (value != "" or not how[1].startswith(":"))
        match how[1][-1]:
            case "-":
                return value or "" if is_set else self._text(word, depth + 1)
            case "+":
                return self._text(word, depth + 1) if is_set else ""
            case _:
                if not is_set:
                    raise InvalidInput(
                        f"the variable {name} is needed: {self._text(word, depth + 1) or 'it is not set'}"
                    )
                return value or ""

    def _named(self, name: str) -> str:
        if name not in self._variables:
            self.unset.add(name)
        return self._variables.get(name, "")


def _closing(text: str, begin: int) -> int:
    """Return the position of the brace that closes the one before `begin`. Raises InvalidInput."""
    depth, place = 1, begin
    while place < len(text):
        if text.startswith("${", place):
            depth, place = depth + 1, place + 2
            continue
        if text[place] == "}":
            depth -= 1
            if depth == 0:
                return place
        place += 1
    raise InvalidInput("a ${ is not closed")
