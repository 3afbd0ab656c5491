"""Names for the completion of a shell: asked of a gateway that runs, shortly, and in silence."""

import asyncio
import os
from collections.abc import Callable

import click
from click.shell_completion import CompletionItem

_PATIENCE = 2.0  # seconds that a person waits for a name
_MOST = 100

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
        if name.startswith(start) and name.isprintable() and " " not in name and name:
            items.append(CompletionItem(name, help=one["id"]))
        elif one["id"].startswith(start):
            items.append(CompletionItem(one["id"], help=name if name.isprintable() else None))
    return items
