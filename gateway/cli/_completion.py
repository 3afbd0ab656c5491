"""What a shell completes besides commands and options: names, asked of a gateway that runs, shortly and in silence.

Whoever may create something chooses its name, and a shell inserts a completion unchanged. So a name is only offered if
no character of it means something to a shell. Otherwise the id is offered.
"""

import asyncio
import os
import re
from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem, get_completion_class

from gateway.model.errors import GatewayError, InvalidInput

_PATIENCE = 2.0  # seconds that a person waits for a name
_MOST = 100
_HARMLESS = re.compile(r"\w[\w./@+,-]*")  # bash breaks words at a colon and at an equals sign

_Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def names_of(kind: str) -> _Complete:
    """Complete the names and ids of what is of this kind, as `lookup.all` has it."""

    def complete(context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
        try:
            return asyncio.run(_select(context, kind, start))
        except Exception:  # a shell that completes has no place for an error
            return []

    return complete


async def _select(context: click.Context, kind: str, start: str) -> list[CompletionItem]:
    from gateway.cli._runner import wanted_of
    from gateway.client.choose import find_gateway

    async with asyncio.timeout(_PATIENCE):
        gateway = await find_gateway(wanted_of(context), os.environ)
        if gateway is None:
            return []
        try:
            found = await gateway.call("lookup.all", {"kind": kind, "start": start, "limit": _MOST})
        finally:
            gateway.close()
    items = []
    for one in found:
        name = one["name"] or ""
        if name.startswith(start) and _HARMLESS.fullmatch(name):
            items.append(CompletionItem(name, help=one["id"]))
        elif one["id"].startswith(start) and _HARMLESS.fullmatch(one["id"]):
            items.append(CompletionItem(one["id"], help=name if name.isprintable() else None))
    return items


def complete_files(_context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Let the shell complete the name of a file."""
    return [CompletionItem(start, type="file")]


def complete_sources(_context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Complete the kind of a webhook."""
    from gateway.sources import SOURCES

    return _beginning(start, SOURCES)


def complete_contexts(_context: click.Context, _parameter: click.Parameter, start: str) -> list[CompletionItem]:
    """Complete the name of a gateway that this user has logged in to."""
    from gateway.client.saved import SavedGateways

    try:
        return _beginning(start, SavedGateways.load(os.environ).gateways)
    except GatewayError:
        return []


def _beginning(start: str, names: Iterable[str]) -> list[CompletionItem]:
    return [CompletionItem(name) for name in sorted(names) if name.startswith(start) and _HARMLESS.fullmatch(name)]


# A description may have commas in it.
_SPLIT, _SPLIT_ONCE = 'string split "," $completion', 'string split --max 1 "," $completion'


def script_for(command: click.Command, shell: str) -> str:
    """Return what a shell runs so that it completes the words of the command. Raises InvalidInput."""
    kind = get_completion_class(shell)
    if kind is None:
        raise InvalidInput(f"there is no completion for {shell}")
    made = kind(command, {}, "gateway", "_GATEWAY_COMPLETE").source()
    return made.replace(_SPLIT, _SPLIT_ONCE)
