"""`gateway promotions`."""

import click

from gateway.cli._runner import command, json_option, open_storage, print_json, print_table, print_text


@click.group()
def promotions() -> None:
    """Manage what applications get from those that they follow."""


@promotions.command("list")
@click.argument("app", required=False)
@json_option
@command
async def list_promotions(app: str | None, *, as_json: bool) -> None:
    """List what APP, or each application that follows another one, has got and what it waits for, newest first."""
    from gateway.admin.promotions import select_standings
    from gateway.api.procedures.promotion import rows_of
    from gateway.store import applications
    from gateway.store.database import transaction

    async with open_storage() as storage, transaction(storage.pool) as connection:
        only = None if app is None else [await applications.select_application_id(connection, app)]
        rows = [row for one in await select_standings(connection, only) for row in rows_of(one)]
        ids = {row.application_id for row in rows} | {row.follows for row in rows}
        names = await applications.select_names(connection, ids)
    if as_json:
        print_json(rows)
        return
    print_table(
        ["DIGEST", "APPLICATION", "FOLLOWS", "STATE", "SINCE", "DUE", "DEPLOYMENT", "REASON"],
        [
            (
                row.digest,
                names.get(row.application_id, row.application_id),
                names.get(row.follows, row.follows),
                row.state,
                row.changed_at or row.since,
                row.due_at,
                row.deployment_id,
                row.reason,
            )
            for row in rows
        ],
    )


@promotions.command()
@click.argument("app")
@click.option("--digest", metavar="DIGEST", help="Promote this one; default: what the followed application runs.")
@json_option
@command
async def promote(app: str, *, digest: str | None, as_json: bool) -> None:
    """Deploy to APP what the application that it follows has proven. Print the deployment's id."""
    from gateway import app as wiring
    from gateway.admin import promotions as admin
    from gateway.api.procedures.promotion import PromotionRow
    from gateway.model.reference import parse_digest
    from gateway.registry import client
    from gateway.store import applications
    from gateway.store.database import transaction

    wanted = None if digest is None else parse_digest(digest)
    async with open_storage() as storage:
        async with transaction(storage.pool) as connection:
            application_id = await applications.select_application_id(connection, app)
        async with client.connect(
            wiring.insecure_registries(storage.settings), token_hosts=wiring.token_hosts(storage.settings)
        ) as registry:
            made = await admin.promote(storage.pool, storage.vault, registry, application_id, wanted)
    if as_json:
        print_json(PromotionRow.from_promotion(made))
    else:
        print_text(made.deployment_id or "")


@promotions.command()
@click.argument("app")
@json_option
@command
async def withdraw(app: str, *, as_json: bool) -> None:
    """Decline the promotion of APP that waits or is queued. It does not come again by itself."""
    from gateway.admin import promotions as admin
    from gateway.api.procedures.promotion import PromotionRow
    from gateway.store import applications
    from gateway.store.database import transaction

    async with open_storage() as storage:
        async with transaction(storage.pool) as connection:
            application_id = await applications.select_application_id(connection, app)
        made = await admin.withdraw(storage.pool, application_id)
    if as_json:
        print_json(PromotionRow.from_promotion(made))
    else:
        print_text(f"withdrew {made.digest}")
