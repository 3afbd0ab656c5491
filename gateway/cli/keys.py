"""`gateway keys`."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from gateway.cli._runner import (
    command,
    json_option,
    open_storage,
    paged,
    parse_page,
    print_json,
    print_next_cursor,
    print_table,
    print_text,
)
from gateway.model.api_keys import Grants, Permission, parse_expiry
from gateway.model.errors import InvalidInput

if TYPE_CHECKING:
    from gateway.store.api_keys import Key

_SCOPES = [one.scope_name for one in reversed(Permission)]


def _parse_expires(_context: click.Context, _option: click.Parameter, given: str | None) -> datetime | None:
    try:
        return parse_expiry(given, datetime.now(UTC)) if given else None
    except InvalidInput as error:
        raise click.BadParameter(str(error)) from error


@click.group()
def keys() -> None:
    """Manage API keys."""


@keys.command()
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice(_SCOPES),
    help="What the key may do; default: ask on a terminal, otherwise admin (everything).",
)
@click.option(
    "--application",
    "applications",
    multiple=True,
    metavar="APP",
    help="Restrict the key to this application; repeatable.",
)
@click.option(
    "--project",
    "projects",
    multiple=True,
    metavar="PROJECT",
    help="Restrict the key to the applications of this project; repeatable.",
)
@click.option(
    "--expires",
    "expires_at",
    metavar="WHEN",
    callback=_parse_expires,
    help="When the key expires: after a time (90d, 12h) or on a date in UTC (2027-01-01).",
)
@json_option
@command
async def create(
    name: str,
    *,
    scope: str | None,
    applications: Sequence[str],
    projects: Sequence[str],
    expires_at: datetime | None,
    as_json: bool,
) -> None:
    """Create an API key and print it. It is not shown again.

    The key is unrestricted, unless --application or --project restricts it. An unrestricted key of scope admin is root
    on every host.
    """
    from gateway.store import api_keys
    from gateway.store import applications as application_store
    from gateway.store import projects as project_store
    from gateway.store.database import transaction

    chosen = scope or _ask_scope(as_json=as_json)
    async with open_storage() as storage, transaction(storage.pool) as connection:
        grants = Grants(
            frozenset([await application_store.select_application_id(connection, named) for named in applications]),
            frozenset([await project_store.select_project_id(connection, named) for named in projects]),
        )
        key, made = await api_keys.insert_key(
            connection,
            name,
            permission=Permission[chosen.upper()],
            grants=grants if applications or projects else None,
            expires_at=expires_at,
        )
    if as_json:
        print_json({**_row(made), "key": key})
        return
    print_text(key)
    if scope is None:
        print_text(f"gateway: {_describe_key(made)}", err=True)


def _ask_scope(*, as_json: bool) -> str:
    """Ask for the scope on a terminal; return admin in a script, for example KEY=$(gateway keys create ci)."""
    if as_json or not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        return Permission.ADMIN.scope_name
    print_text(
        "What may the key do? read: see all but secrets. deploy: also deploy, start, stop and roll back, without "
        "changing the configuration. admin: everything.",
        err=True,
    )
    return str(click.prompt("Scope", type=click.Choice(_SCOPES), err=True))


def _describe_key(made: "Key") -> str:
    """Return what the key may do, and how to restrict the next one."""
    what = "is unrestricted" if made.grants is None else f"is restricted to {made.grants}"
    root = ", which makes it root on every host" if made.permission is Permission.ADMIN and made.grants is None else ""
    end = "without expiry" if made.expires_at is None else f"until {made.expires_at:%Y-%m-%d %H:%M} UTC"
    return (
        f"the key has scope {made.permission.scope_name} and {what}{root}, {end}; "
        "restrict a key with --scope, --application, --project and --expires"
    )


@keys.command("list")
@paged(1000)
@json_option
@command
async def list_keys(*, limit: int, cursor: str | None, as_json: bool) -> None:
    """List keys, newest first, without their secrets."""
    from gateway.store import api_keys
    from gateway.store.database import transaction

    page = parse_page(limit, cursor)
    async with open_storage() as storage, transaction(storage.pool) as connection:
        found = await api_keys.select_keys(connection, page)
    print_next_cursor(page.next(found, lambda one: (one.created_at, one.key_id)))
    if as_json:
        print_json([_row(key) for key in found])
        return
    rows = [
        (
            key.key_id,
            key.name,
            key.prefix,
            key.permission.scope_name,
            "unrestricted" if key.grants is None else key.grants,
            key.created_at,
            key.expires_at,
            key.last_used_at,
            key.last_used_from,
            key.revoked_at,
        )
        for key in found
    ]
    columns = ("ID", "NAME", "PREFIX", "SCOPE", "FOR", "CREATED", "EXPIRES", "LAST USED", "FROM", "REVOKED")
    print_table(columns, rows)


def _row(key: "Key") -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "name": key.name,
        "prefix": key.prefix,
        "scope": key.permission.scope_name,
        "applications": None if key.grants is None else sorted(key.grants.applications),
        "projects": None if key.grants is None else sorted(key.grants.projects),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "last_used_at": key.last_used_at,
        "last_used_from": key.last_used_from,
        "revoked_at": key.revoked_at,
    }


@keys.command()
@click.argument("key")
@json_option
@command
async def revoke(key: str, *, as_json: bool) -> None:
    """Revoke a key. KEY is its id, prefix or name. A name revokes every key of that name."""
    from gateway.store import api_keys
    from gateway.store.database import transaction

    async with open_storage() as storage, transaction(storage.pool) as connection:
        count = await api_keys.revoke_keys(connection, key)
    if as_json:
        print_json({"revoked": key, "count": count})
    else:
        print_text(f"revoked {key}" if count == 1 else f"revoked {count} keys named {key}")


@keys.command()
@click.argument("key_id")
@json_option
@command
async def restore(key_id: str, *, as_json: bool) -> None:
    """Restore a revoked key. KEY_ID is its id."""
    from gateway.model.errors import NotFound
    from gateway.store import api_keys
    from gateway.store.database import transaction

    async with open_storage() as storage, transaction(storage.pool) as connection:
        if not await api_keys.restore_by_id(connection, key_id):
            raise NotFound(f"no key with the id {key_id} is revoked; see: gateway keys list")
    if as_json:
        print_json({"restored": key_id})
    else:
        print_text(f"restored {key_id}")


@keys.command("rotate-master")
@json_option
@command
async def rotate_master(*, as_json: bool) -> None:
    """Re-encrypt all secrets with a new master key.

    The gateway may run meanwhile. Set GATEWAY_MASTER_KEY to the new key and GATEWAY_FORMER_MASTER_KEYS to the former
    one. If neither is set, the command replaces the key in the data directory. If it is interrupted, run it again: it
    continues.
    """
    from dataclasses import asdict

    from gateway.admin import master_key
    from gateway.model.audit import CURRENT_ACTOR, Outcome
    from gateway.store import audit
    from gateway.store.database import transaction

    async with open_storage() as storage:
        done = await master_key.rotate(storage.pool, storage.vault)
        if (actor := CURRENT_ACTOR.get()) is not None:
            async with transaction(storage.pool) as connection:
                await audit.insert_unrecorded(connection, [audit.UnrecordedEvent(actor, Outcome.DONE)])
    if as_json:
        print_json(asdict(done))
    else:
        print_text(f"re-encrypted {done.resealed} secrets; all {done.secrets} are encrypted with key {done.mark}")
