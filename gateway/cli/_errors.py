"""Says in words what went wrong, whatever it was: no traceback, and no value that was given."""

import os
import sys
import traceback
from pathlib import Path

import click

from gateway.model.errors import GatewayError, InvalidInput


def explain(error: Exception) -> str:
    """Return what a person at a terminal is told; never nothing."""
    if isinstance(error, InvalidInput) and error.field:
        return f"{error.field}: {error}"
    if isinstance(error, GatewayError | OSError):
        return str(error) or type(error).__name__
    if (wrong := _wrong_fields(error)) is not None:
        return wrong
    return _of_the_database(error) or _defect(error)


def _wrong_fields(error: Exception) -> str | None:
    """Return which fields are wrong and why: not what they hold, which may be a secret."""
    if "pydantic" not in sys.modules:  # whoever raises it has imported it
        return None
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return None
    found = error.errors(include_url=False, include_input=False)
    return "\n".join(
        f"{'.'.join(map(str, one['loc'])) or error.title}: {one['msg'].removeprefix('Value error, ')}" for one in found
    )


def _of_the_database(error: Exception) -> str | None:
    if "asyncpg" not in sys.modules:
        return None
    import asyncpg

    from gateway.store.transient_errors import describe, is_transient

    if is_transient(error):
        return describe(error)
    if isinstance(error, asyncpg.DataError):
        return "the database cannot keep what was given: is it too long, or does it hold a zero byte?"
    return None


def _defect(error: Exception) -> str:
    """Name the place; the error's own words may hold what nobody else should read."""
    if os.environ.get("GATEWAY_LOG_LEVEL") == "debug":
        traceback.print_exception(error)
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}gateway{os.sep}" in frame.filename] or frames
    place = f" in {Path(ours[-1].filename).name}, line {ours[-1].lineno}" if ours else ""
    return (
        f"this is a defect of the gateway: {type(error).__name__}{place}. "
        "Set GATEWAY_LOG_LEVEL=debug to see all of it; it may show secrets"
    )


def refuse_undecoded(words: list[str]) -> None:
    """Let in no word that is no text; raises click.UsageError."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise click.UsageError(
                f"an argument is not UTF-8: {word.encode(errors='backslashreplace').decode()}"
            ) from error
