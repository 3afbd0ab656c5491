"""The files of a declaration: read, merged, validated, and their secrets fetched. Errors name file, line and column."""

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from gateway.cli._runner import interruptible
from gateway.model.declared import yaml_text
from gateway.model.declared.forms import DeclarationForm
from gateway.model.declared.objects import PLURALS, problems
from gateway.model.declared.secrets import UNCHANGED, dotted, secret_paths
from gateway.model.declared.yaml_text import Document, InvalidYaml, Mark
from gateway.model.errors import InvalidInput

_MOST_FILES = 500
_MOST_PROBLEMS = 20
_COMMAND_TIMEOUT = 60.0  # seconds
_LONGEST_SECRET = 1024**2  # bytes
_CONTENT = "contentFrom"


@dataclass(slots=True)
class Files:
    """Files that are applied together: their merged value, and where each part of it stands."""

    value: dict[str, Any] = field(default_factory=dict)
    marks: dict[yaml_text.Path, tuple[Path, Mark]] = field(default_factory=dict)
    #: the directory that paths are seen from where no file has them
    base: Path = field(default_factory=Path)

    def where(self, path: yaml_text.Path) -> str:
        """Return file, line and column of a part, or of what is around it."""
        while path and path not in self.marks:
            path = path[:-1]
        if path not in self.marks:
            return ""
        file, mark = self.marks[path]
        return f"{file}:{mark.line}:{mark.column}"

    def directory(self, path: yaml_text.Path) -> Path:
        """Return the directory that paths of this part are seen from."""
        file = self.marks[path][0] if path in self.marks else None
        return self.base if file is None or str(file) == "-" else file.parent

    def locate(self, path: Sequence[str], inside: str | None) -> str:
        """Return where a field of an object stands, by its dotted path in the object."""
        at: yaml_text.Path = tuple(path)
        rest = (inside or "").split(".")
        while rest:
            # A name may contain dots: the longest that is there is meant.
            for length in range(len(rest), 0, -1):
                name = ".".join(rest[:length])
                step = next(
                    (one for one in (name, int(name) if name.isdecimal() else name) if (*at, one) in self.marks), None
                )
                if step is not None:
                    at, rest = (*at, step), rest[length:]
                    break
            else:
                break
        return self.where(at)


def read_files(names: Sequence[str]) -> Files:
    """Read and merge files, and all files of directories. Raises InvalidInput."""
    found = Files()
    files = [file for name in names for file in _files(name)]
    if len(files) > _MOST_FILES:
        raise InvalidInput(f"a declaration has at most {_MOST_FILES} files, not {len(files)}")
    for file in files:
        document = _read(file)
        if document.value is None:
            continue
        if not isinstance(document.value, dict):
            raise InvalidInput(f"{file}:1:1: a declaration is a mapping, for example applications: {{web: {{…}}}}")
        _merge(found, found.value, document.value, (), file, document)
    return found


def _files(name: str) -> Iterator[Path]:
    path = Path(name)
    if name == "-" or not path.is_dir():
        yield path
        return
    there = sorted(
        file
        for file in path.rglob("*")
        if file.suffix in {".yaml", ".yml"} and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not there:
        raise InvalidInput(f"{name} has no file that ends in .yaml or .yml")
    yield from there


def _read(file: Path) -> Document:
    return parse_text(read_text(str(file)), file)


def read_text(name: str) -> str:
    """Return the text of a file; - is standard input. Raises InvalidInput."""
    try:
        with interruptible(), click.open_file(name, encoding="utf-8") as opened:
            return str(opened.read(yaml_text.MAX_LENGTH + 1))
    except OSError as error:
        raise InvalidInput(f"cannot read {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:  # not repeated: its message contains the file's bytes
        raise InvalidInput(f"cannot read {name}: it is not UTF-8") from error


def parse_text(text: str, file: Path) -> Document:
    """Return the document in the text. Raises InvalidInput naming file, line and column."""
    try:
        return yaml_text.parse(text)
    except InvalidYaml as error:
        said = str(error).removeprefix(f"{error.mark}: ")
        raise InvalidInput(f"{file}:{error.mark.line}:{error.mark.column}: {said}") from error


def _merge(  # noqa: PLR0917 - arguments instead of a class for one walk
    files: Files, into: dict[str, Any], other: Mapping[str, Any], path: yaml_text.Path, file: Path, document: Document
) -> None:
    for name, value in other.items():
        at = (*path, name)
        if name not in into:
            into[name] = {} if value is None and _is_container(at) else value
            _mark(files, at, value, file, document)
        elif isinstance(value, dict) and isinstance(into[name], dict) and _is_container(at):
            _merge(files, into[name], value, at, file, document)
        elif value is not None and (at != ("declaration",) or into[name] != value):
            mark = document.mark(at)
            raise InvalidInput(f"{file}:{mark.line}:{mark.column}: {dotted(at)} stands at {files.where(at)} already")


def _mark(files: Files, at: yaml_text.Path, value: Any, file: Path, document: Document) -> None:
    files.marks[at] = (file, document.mark(at))
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        _mark(files, (*at, name), part, file, document)


def _is_container(path: yaml_text.Path) -> bool:
    """Tell whether several files may say something here: what is named twice is not an object's own field."""
    match path:
        case (plural,) | ("projects", _, plural) | ("projects", _, "environments", _, plural):
            return plural in PLURALS
        case ("projects", _) | ("projects", _, "environments", _):
            return True
        case _:
            return False


def validate(files: Files) -> DeclarationForm:
    """Return the declaration. Raises InvalidInput, which names the place of each mistake."""
    found = problems(DeclarationForm, files.value)
    if isinstance(found, DeclarationForm):
        return found
    shown = [f"{files.where(path)}: {dotted(path)}: {said}".removeprefix(": ") for path, said in found[:_MOST_PROBLEMS]]
    more = [f"and {len(found) - _MOST_PROBLEMS} more"] if len(found) > _MOST_PROBLEMS else []
    raise InvalidInput("\n".join([*shown, *more]))


async def fetch_secrets(files: Files, *, commands: bool, wanted: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return the secrets by their dotted paths, of the objects at the `wanted` paths. Raises InvalidInput."""
    prefixes = {tuple(path) for path in wanted}
    found = {}
    for path, where in secret_paths(files.value):
        if where is None or where == UNCHANGED or not any(path[: len(one)] == one for one in prefixes):
            continue
        try:
            value = await _fetch(where, files.directory(path), commands=commands)
        except InvalidInput as error:
            raise InvalidInput(f"{files.where(path)}: {dotted(path)}: {error}") from error
        found[dotted(path)] = value if path[-1] == _CONTENT else value.rstrip("\r\n")
    return found


async def _fetch(where: Mapping[str, Any], directory: Path, *, commands: bool) -> str:
    if (name := where.get("env")) is not None:
        if name not in os.environ:
            raise InvalidInput(f"the environment variable {name} is not set")
        return os.environ[name]
    if (file := where.get("file")) is not None:
        return _read_secret(directory / file)
    command = where["command"]
    if not commands:
        raise InvalidInput(f"{command[0]} is run only with --allow-commands")
    return await _run(command, directory)


def _read_secret(file: Path) -> str:
    try:
        with interruptible(), file.open("rb") as opened:
            content = opened.read(_LONGEST_SECRET + 1)
    except OSError as error:
        raise InvalidInput(f"cannot read {file}: {error.strerror}") from error
    return _decode(content, str(file))


def _decode(content: bytes, what: str) -> str:
    if len(content) > _LONGEST_SECRET:
        raise InvalidInput(f"{what} gives more than {_LONGEST_SECRET} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:  # not repeated: its message contains the secret's bytes
        raise InvalidInput(f"{what} gives what is not UTF-8") from error


async def _run(command: Sequence[str], directory: Path) -> str:
    """Return what a program prints. What it says on standard error goes to the terminal."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=directory, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise InvalidInput(f"cannot run {command[0]}: {error.strerror}") from error
    output = b""
    try:
        async with asyncio.timeout(_COMMAND_TIMEOUT):
            while len(output) <= _LONGEST_SECRET and process.stdout is not None:
                part = await process.stdout.read(65_536)
                if not part:
                    break
                output += part
            if len(output) <= _LONGEST_SECRET and await process.wait():
                raise InvalidInput(f"{command[0]} ended with code {process.returncode}")
    except TimeoutError as error:
        raise InvalidInput(f"{command[0]} has not ended in {_COMMAND_TIMEOUT:.0f} s") from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return _decode(output, command[0])
