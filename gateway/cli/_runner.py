"""Shared by all commands: running coroutines, readable errors, and output as text or JSON."""

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import click

from gateway.cli._completion import complete_contexts
from gateway.cli._errors import INTERRUPTED, exit_code, readable_error, reject_invalid_utf8
from gateway.cli._table import Id, format_table, terminal_width, wrap
from gateway.model.errors import Unavailable
from gateway.model.sanitize import safe_line, safe_text
from gateway.version import VERSION

if TYPE_CHECKING:
    from gateway.client import Gateway, Wanted

P = ParamSpec("P")
_F = TypeVar("_F", bound=Callable[..., Any])

_MAX_FILE_LENGTH = 1024**2  # characters

#: for a command that asks no gateway
plain_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_CHOSEN = "gateway.cli.chosen"
_OTHER_VERSION = "gateway.cli.other_version"


def json_option(function: _F) -> _F:
    """Add --json, and the options that choose the gateway, which `connect` reads."""
    context = click.option(
        "--context",
        metavar="NAME",
        expose_value=False,
        callback=_remember,
        help="Ask the gateway of this context, see: gateway contexts list.",
        shell_complete=complete_contexts,
    )
    local = click.option(
        "--local",
        is_flag=True,
        expose_value=False,
        callback=_remember,
        help="Use the database of this host, without a gateway.",
    )
    return plain_json_option(context(local(function)))


def _remember(context: click.Context, option: click.Parameter, given: object) -> None:
    if given:
        context.meta[f"{_CHOSEN}.{option.name}"] = given


@asynccontextmanager
async def connect(*, creates: bool = False) -> AsyncIterator["Gateway"]:
    """Yield the gateway that the command is to ask; see `gateway.client.choose` for which one that is.

    `creates` is for a first command: it may create an installation where there is none.
    """
    from gateway import client

    chosen = wanted_of(click.get_current_context(), creates=creates)
    async with client.connect(chosen, prepare=_prepare_database) as gateway:
        try:
            yield gateway
        finally:
            if gateway.version != VERSION:
                of = f"is of version {gateway.version}" if gateway.version else "does not tell its version"
                click.get_current_context().meta[_OTHER_VERSION] = (
                    f"{gateway.place} {of}, this command line of {VERSION}"
                )


def wanted_of(context: click.Context, *, creates: bool = False) -> "Wanted":
    """Return which gateway the options of a command choose."""
    from gateway.client import Wanted

    return Wanted(
        context=context.meta.get(f"{_CHOSEN}.context"),
        local=bool(context.meta.get(f"{_CHOSEN}.local")),
        command=_command_name(),
        creates=creates,
    )


def _prepare_database() -> None:
    from gateway.cli import _logging

    _logging.configure("warning", "text")


def _command_name() -> str:
    """Return the words of the command, for example apps.create."""
    words: list[str] = []
    context = click.get_current_context(silent=True)
    while context is not None and context.parent is not None:
        words.insert(0, context.info_name or "")
        context = context.parent
    return ".".join(words)


def paged(most: int) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Add --limit and --cursor to a list command; `most` is the default limit."""

    def with_options(function: Callable[P, None]) -> Callable[P, None]:
        cursor = click.option(
            "--cursor", help="Start of the page: the cursor that the previous page printed on standard error."
        )
        limit = click.option(
            "--limit", type=click.IntRange(1, 1000), default=most, help="Maximum number of rows, newest first."
        )
        return limit(cursor(function))

    return with_options


def page_of(limit: int, cursor: str | None) -> dict[str, object]:
    """Return the input of a list for this page."""
    return {"limit": limit} if cursor is None else {"limit": limit, "cursor": cursor}


def print_next_cursor(following: str | None) -> None:
    """Print the cursor of the next page to standard error, if there may be one."""
    if following is not None:
        print_text(f"there may be more: --cursor {following}", err=True)


def command(function: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Make a command of a coroutine function."""

    @wraps(function)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        async def body() -> None:
            await function(*arguments, **options)

        try:
            asyncio.run(body())
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            if (other := click.get_current_context().meta.get(_OTHER_VERSION)) is None:
                raise
            raise Unavailable(f"{other}, and its answer is not as expected ({error}): update the older one") from error

    return run


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the first Ctrl-C end the block, which waits for a person or a file; asyncio would only end what it awaits."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def print_text(text: str = "", *, err: bool = False, end: str = "\n") -> None:
    """Print text. Control characters in it are escaped, so that foreign text cannot act on the terminal."""
    click.echo(safe_text(text) + end, nl=False, err=err)


def indent(text: str) -> str:
    """Indent foreign text, so that none of its lines looks like one of the gateway's."""
    return "\n".join(f"  {one}" for one in text.splitlines())


def print_error(message: str, *, as_json: bool) -> None:
    """Print an error on standard error: for people, or as JSON."""
    if as_json:
        print_text(json.dumps({"error": {"message": message}}), err=True)
        return
    width = terminal_width(err=True)
    print_text("\n".join(line for part in f"gateway: {message}".split("\n") for line in wrap(part, width)), err=True)


def fail(message: str, *, as_json: bool, code: int = 1) -> NoReturn:
    print_error(message, as_json=as_json)
    sys.exit(code)


class Root(click.Group):
    """Prints every error as a readable message and exits with a code; with --json, as JSON."""

    def main(self, *arguments: Any, **extra: Any) -> Any:
        given = arguments[0] if arguments else extra.get("args")
        words = list(sys.argv[1:] if given is None else given)
        as_json = "--json" in words
        try:
            reject_invalid_utf8(words)
            code = super().main(*arguments, **{**extra, "standalone_mode": False})
        except click.ClickException as error:
            if not as_json:
                error.show()
                sys.exit(error.exit_code)
            fail(error.format_message(), as_json=True, code=error.exit_code)
        except (click.Abort, KeyboardInterrupt) as error:
            interrupted = isinstance(error.__cause__ or error.__context__ or error, KeyboardInterrupt)
            fail("aborted", as_json=as_json, code=INTERRUPTED if interrupted else 1)
        except BrokenPipeError:  # the reader closed the pipe
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - Python closes it at the end
            sys.exit(1)
        except Exception as error:
            fail(readable_error(error), as_json=as_json, code=exit_code(error))
        return sys.exit(code if isinstance(code, int) else 0)


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print_text(json.dumps(value, indent=2))


def print_result(value: Any, text: str, *, as_json: bool) -> None:
    """Print what a command did: as JSON, or as a text for people."""
    if as_json:
        print_json(value)
    else:
        print_text(text)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows as a table, times in UTC, without spaces at the ends of lines.

    On a terminal, ids are shortened and long cells are folded where it is too narrow.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    click.echo("\n".join(format_table(columns, cells, terminal_width())))


def _cell(value: object) -> str:
    text = safe_line(_format_cell(value))
    return Id(text) if isinstance(value, Id) else text


def moment(text: str | None) -> datetime | None:
    """Return a time of an answer."""
    return None if text is None else datetime.fromisoformat(text)


def _format_cell(value: object) -> str:
    if value is None:
        return "-"
    return format_time(value) if isinstance(value, datetime) else str(value)


def format_time(value: datetime) -> str:
    """Write a time as everything that is printed for people does: in UTC, and with its zone."""
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def print_fields(fields: Mapping[str, object]) -> None:
    """Print names and values in two columns, times in UTC; further lines of a value are indented to its column.

    On a terminal, values are broken between words to its width.
    """
    width = max(map(len, fields), default=0) + 2
    left = None if (columns := terminal_width()) is None else columns - width
    for name, value in fields.items():
        lines = [line for part in safe_text(_format_cell(value)).split("\n") for line in wrap(part, left)]
        print_text(f"{name:<{width}}" + ("\n" + " " * width).join(lines))


def read_secret(path: str | None) -> str | None:
    """Return a file's content without surrounding whitespace; - is standard input. Raises InvalidInput."""
    if path is None:
        return None
    from gateway.model.errors import InvalidInput

    try:
        with interruptible(), click.open_file(path, encoding="utf-8-sig") as file:  # editors put a mark at the start
            secret = str(file.read(_MAX_FILE_LENGTH + 1)).strip()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:  # not repeated: its message contains the file's bytes
        raise InvalidInput(f"cannot read {path}: it is not UTF-8") from error
    if len(secret) > _MAX_FILE_LENGTH:
        raise InvalidInput(f"{path} is longer than {_MAX_FILE_LENGTH} characters")
    if not secret:
        raise InvalidInput(f"{path} is empty")
    return secret
