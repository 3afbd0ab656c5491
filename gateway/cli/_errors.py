"""Readable messages for every error, without a traceback and without the values that were given."""

import os
import sys
import traceback
from pathlib import Path

import click

from gateway.model.errors import GatewayError, InvalidInput, Unavailable


def readable_error(error: Exception) -> str:
    """Return the message to print; never an empty one."""
    if isinstance(error, InvalidInput) and error.field and not str(error).startswith(f"{error.field}: "):
        return f"{error.field}: {error}"
    if isinstance(error, GatewayError | OSError):
        return str(error) or type(error).__name__
    if (wrong := _validation_error(error)) is not None:
        return wrong
    return _database_error(error) or _defect_message(error)


#: how a command ends; see docs/cli.md
FAILED, USAGE, UNKNOWN, SUPERSEDED, CANCELLED = 1, 2, 3, 4, 5
INTERRUPTED = 130  # as a shell says it of SIGINT


def exit_code(error: Exception) -> int:
    """Return how a command ends with this error: UNKNOWN if nobody answered who could tell."""
    return UNKNOWN if isinstance(error, Unavailable) else FAILED


def _validation_error(error: Exception) -> str | None:
    """Return which fields are invalid and why, without their values, which may be secrets."""
    if "pydantic" not in sys.modules:  # code that raises it has imported it
        return None
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return None
    found = error.errors(include_url=False, include_input=False)
    return "\n".join(
        f"{'.'.join(map(str, one['loc'])) or error.title}: {one['msg'].removeprefix('Value error, ')}" for one in found
    )


def _database_error(error: Exception) -> str | None:
    if "asyncpg" not in sys.modules:
        return None
    import asyncpg

    from gateway.store.transient_errors import describe, is_transient

    if is_transient(error):
        return describe(error)
    if isinstance(error, asyncpg.DataError):
        return "the database cannot store a given value: it may be too long, or contain a zero byte"
    return None


def _defect_message(error: Exception) -> str:
    """Name the place in the code only, since the error's own message may contain secrets."""
    if os.environ.get("GATEWAY_LOG_LEVEL") == "debug":
        traceback.print_exception(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if f"{os.sep}gateway{os.sep}" in frame.filename] or frames
    place = f" in {Path(own[-1].filename).name}, line {own[-1].lineno}" if own else ""
    return (
        f"this is a defect of the gateway: {type(error).__name__}{place}. "
        "Set GATEWAY_LOG_LEVEL=debug to see the traceback; it may contain secrets"
    )


def reject_invalid_utf8(words: list[str]) -> None:
    """Reject arguments that are not UTF-8. Raises click.UsageError."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise click.UsageError(
                f"an argument is not UTF-8: {word.encode(errors='backslashreplace').decode()}"
            ) from error
