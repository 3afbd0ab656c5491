"""Variables as dotenv text. It performs no I/O."""

from collections.abc import Iterator, Mapping

from gateway.model.applications import parse_environment
from gateway.model.errors import InvalidInput

_QUOTES = "'\"`"
_FIRST_LINE = "# Set by a declaration.\n"


def write_variables(variables: Mapping[str, str]) -> str | None:
    """Return dotenv text that `parse_environment` reads as these variables, None for none.

    Raises InvalidInput naming a variable that dotenv text cannot say.
    """
    if not variables:
        return None
    # With a first line, a text of one variable is not taken for one that was pasted with escaped line breaks.
    return _FIRST_LINE + "".join(f"{_line(name, value)}\n" for name, value in variables.items())


def _line(name: str, value: str) -> str:
    after = f"{name}_"
    for written in _ways(value):
        line = f"{name}={written}"
        try:
            # The value of the next line ends in each kind of quote: none of them may close this one.
            read = [parse_environment(f"{_FIRST_LINE}{line}\n{after}={quote}\n") for quote in _QUOTES]
        except InvalidInput:
            continue
        if read == [{name: value, after: quote} for quote in _QUOTES]:
            return line
    raise InvalidInput(
        "this name, or this value, cannot be written as a variable: a value has no three kinds of quotes at once",
        field=f"env.{name}",
    )


def _ways(value: str) -> Iterator[str]:
    yield value
    for quote in "'`":
        yield f"{quote}{value}{quote}"
    yield '"' + value.replace("\n", "\\n").replace("\r", "\\r") + '"'
