"""Read a compose file with what it refers to: its .env, and the env_files of its services."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from gateway.cli._declared_files import Files, parse_text, read_text
from gateway.model.applications import parse_environment
from gateway.model.declared.compose import Converted, Source, convert
from gateway.model.errors import InvalidInput


def read_compose(name: str, *, project: str | None, profiles: Sequence[str]) -> tuple[Converted, Files]:
    """Return the declaration of a compose file, also as files to apply. Raises InvalidInput naming the place."""
    file = Path(name)
    directory = Path.cwd() if name == "-" else file.resolve().parent
    document = parse_text(read_text(name), file)

    def read_variables(path: str) -> Mapping[str, str]:
        return _variables(directory / path)

    own = directory / ".env"
    source = Source(
        directory=str(directory),
        variables={**(_variables(own) if own.is_file() else {}), **os.environ},
        profiles=frozenset(profiles),
        read_variables=read_variables,
        project=project,
        file=file.name,
    )
    try:
        converted = convert(document.value, source)
    except InvalidInput as error:
        mark = document.mark(tuple(error.path))
        said = f"{error.field}: {error}" if error.field else str(error)
        raise InvalidInput(f"{file}:{mark.line}:{mark.column}: {said}") from error
    return converted, Files(converted.document, base=directory)


def _variables(file: Path) -> dict[str, str]:
    try:
        return parse_environment(read_text(str(file)))
    except InvalidInput as error:
        raise InvalidInput(f"{file}: {error}") from error
