"""`gateway keys`."""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import click

from gateway.cli._completion import names_of
from gateway.cli._lists import Columns, Listing, id_in, list_command, print_rows, time_in
from gateway.cli._runner import (
    command,
    connect,
    interruptible,
    json_option,
    moment,
    plain_json_option,
    print_json,
    print_next_cursor,
    print_result,
    print_text,
)
from gateway.model.errors import Conflict, InvalidInput, NotFound

if TYPE_CHECKING:
    from gateway.client import Gateway

_SCOPES = ["admin", "deploy", "read"]
#: the names that this command has always printed
_FIELDS = {
    "keyId": "key_id",
    "createdAt": "created_at",
    "expiresAt": "expires_at",
    "lastUsedAt": "last_used_at",
    "lastUsedFrom": "last_used_from",
    "revokedAt": "revoked_at",
}


def _parse_expires(_context: click.Context, _option: click.Parameter, given: str | None) -> datetime | None:
    from gateway.model.api_keys import parse_expiry

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
    shell_complete=names_of("application"),
)
@click.option(
    "--project",
    "projects",
    multiple=True,
    metavar="PROJECT",
    help="Restrict the key to the applications of this project; repeatable.",
    shell_complete=names_of("project"),
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
    on every host. Where there is no gateway yet, the first key creates its database here.
    """
    chosen = scope or _ask_scope(as_json=as_json)
    async with connect(creates=True) as gateway:
        given: dict[str, Any] = {"name": name, "scope": chosen}
        if applications or projects:
            given["applicationIds"] = [await gateway.find("application", named) for named in applications]
            given["projectIds"] = [await gateway.find("project", named) for named in projects]
        if expires_at is not None:
            given["expiresAt"] = expires_at.isoformat()
        made = await gateway.call("key.create", given)
    if as_json:
        print_json({**_row(made), "key": made["key"]})
        return
    print_text(made["key"])
    if scope is None:
        print_text(f"gateway: {_describe_key(made)}", err=True)


def _ask_scope(*, as_json: bool) -> str:
    """Ask for the scope on a terminal; return admin in a script, for example KEY=$(gateway keys create ci)."""
    if as_json or not all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        return "admin"
    print_text(
        "What may the key do? read: see all but secrets. deploy: also deploy, start, stop and roll back, without "
        "changing the configuration. admin: everything.",
        err=True,
    )
    with interruptible():
        return str(click.prompt("Scope", type=click.Choice(_SCOPES), err=True))


def _describe_key(made: Mapping[str, Any]) -> str:
    """Return what the key may do, and how to restrict the next one."""
    restricted = _restriction(made)
    what = "is unrestricted" if restricted is None else f"is restricted to {restricted}"
    root = ", which makes it root on every host" if made["scope"] == "admin" and restricted is None else ""
    expires = moment(made["expiresAt"])
    end = "without expiry" if expires is None else f"until {expires.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    return (
        f"the key has scope {made['scope']} and {what}{root}, {end}; "
        "restrict a key with --scope, --application, --project and --expires"
    )


def _restriction(key: Mapping[str, Any]) -> str | None:
    """Return in words what the key is for, None if it is unrestricted."""
    if key["applications"] is None and key["projects"] is None:
        return None
    said = [f"{noun[:-1]} {', '.join(key[noun])}" for noun in ("applications", "projects") if key[noun]]
    return " and ".join(said) or "deleted applications or projects"


_COLUMNS: Columns = {
    "ID": id_in("keyId"),
    "NAME": itemgetter("name"),
    "PREFIX": itemgetter("prefix"),
    "SCOPE": itemgetter("scope"),
    "FOR": lambda key: _restriction(key) or "unrestricted",
    "CREATED": time_in("createdAt"),
    "EXPIRES": time_in("expiresAt"),
    "LAST USED": time_in("lastUsedAt"),
    "FROM": itemgetter("lastUsedFrom"),
    "REVOKED": time_in("revokedAt"),
}


@keys.command("list")
@list_command(1000)
async def list_keys(listing: Listing) -> None:
    """List keys, newest first, without their secrets."""
    async with connect() as gateway:
        found, following = await listing.fetch(gateway, "key.all")
    if listing.as_json:
        print_json([_row(key) for key in found])
    else:
        print_rows(_COLUMNS, found)
    print_next_cursor(following)


def _row(key: Mapping[str, Any]) -> dict[str, Any]:
    return {_FIELDS.get(name, name): value for name, value in key.items() if name != "key"}


@keys.command()
@click.argument("key", shell_complete=names_of("key"))
@json_option
@command
async def revoke(key: str, *, as_json: bool) -> None:
    """Revoke KEY, by its id, the beginning of its id, its prefix or its name. A name revokes every key of that name."""
    async with connect() as gateway:
        try:
            named = await gateway.find("key", key)
        except Conflict as several:
            count = await _revoke_all(gateway, key, several)
        else:
            count = (await gateway.call("key.revoke", {"key": named}))["count"]
    print_result(
        {"revoked": key, "count": count},
        f"revoked {key}" if count == 1 else f"revoked {count} keys named {key}",
        as_json=as_json,
    )


async def _revoke_all(gateway: "Gateway", name: str, several: Conflict) -> int:
    """Revoke every key of this name; raises `several` if the word is no name, but the beginning of ids."""
    try:
        return int((await gateway.call("key.revoke", {"key": name}))["count"])
    except NotFound as error:
        raise several from error


@keys.command()
@click.argument("key", shell_complete=names_of("key"))
@json_option
@command
async def restore(key: str, *, as_json: bool) -> None:
    """Restore KEY, which was revoked, by its id, the beginning of its id, its prefix or its name."""
    async with connect() as gateway:
        key_id = await gateway.find("key", key)
        await gateway.call("key.restore", {"keyId": key_id})
    print_result({"restored": key_id}, f"restored {key_id}", as_json=as_json)


@keys.command("rotate-master")
@plain_json_option
@command
async def rotate_master(*, as_json: bool) -> None:
    """Re-encrypt all secrets with a new master key, on the gateway's own host.

    The gateway may run meanwhile. Set GATEWAY_MASTER_KEY to the new key and GATEWAY_FORMER_MASTER_KEYS to the former
    one. If neither is set, the command replaces the key in the data directory. If it is interrupted, run it again: it
    continues.
    """
    import socket
    from dataclasses import asdict

    from gateway import config
    from gateway.admin import master_key
    from gateway.cli import _logging
    from gateway.client.in_process import local_user
    from gateway.model.audit import CURRENT_ACTOR, Actor, Outcome
    from gateway.store import audit
    from gateway.store.database import transaction
    from gateway.store.storage import open_current_storage

    settings = config.load()
    _logging.configure("warning", "text")
    actor = Actor("cli", local_user(), "keys.rotate-master", address=socket.gethostname())
    async with open_current_storage(settings, on_empty=lambda: None) as storage:
        token = CURRENT_ACTOR.set(actor)
        try:
            done = await master_key.rotate(storage.pool, storage.vault)
            async with transaction(storage.pool) as connection:
                await audit.insert_unrecorded(connection, [audit.UnrecordedEvent(actor, Outcome.DONE)])
        finally:
            CURRENT_ACTOR.reset(token)
    print_result(
        asdict(done),
        f"re-encrypted {done.resealed} secrets; all {done.secrets} are encrypted with key {done.mark}",
        as_json=as_json,
    )
