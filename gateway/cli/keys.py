"""`gateway keys`."""

import click

from gateway.cli._command import command, json_option, keep, show, show_table


@click.group()
def keys() -> None:
    """API keys."""


@keys.command()
@click.argument("name")
@json_option
@command
async def create(name: str, *, as_json: bool) -> None:
    """Make a key and print it: the only time it is shown."""
    from gateway.store import keys as store
    from gateway.store.database import transaction

    async with keep() as kept, transaction(kept.pool) as connection:
        key = await store.insert_key(connection, name)
    if as_json:
        show({"name": name, "key": key})
    else:
        click.echo(key)


@keys.command("list")
@json_option
@command
async def list_keys(*, as_json: bool) -> None:
    """Show all keys, without their secrets."""
    from dataclasses import asdict

    from gateway.store import keys as store
    from gateway.store.database import transaction

    async with keep() as kept, transaction(kept.pool) as connection:
        found = await store.select_keys(connection)
    if as_json:
        show([asdict(key) for key in found])
    else:
        rows = [(key.key_id, key.name, key.prefix, key.created_at, key.last_used_at, key.revoked_at) for key in found]
        show_table(["ID", "NAME", "PREFIX", "CREATED", "LAST USED", "REVOKED"], rows)


@keys.command()
@click.argument("key")
@json_option
@command
async def revoke(key: str, *, as_json: bool) -> None:
    """Refuse a key from now on; KEY is its id, its prefix or its name."""
    from gateway.store import keys as store
    from gateway.store.database import transaction

    async with keep() as kept, transaction(kept.pool) as connection:
        await store.revoke_key(connection, key)
    if as_json:
        show({"revoked": key})
    else:
        click.echo(f"revoked {key}")
