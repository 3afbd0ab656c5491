"""`gateway subscriptions`."""

from collections.abc import Sequence

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


@click.group()
def subscriptions() -> None:
    """Manage which pushed tags an application deploys."""


@subscriptions.command()
@click.argument("app")
@click.argument("policy", type=click.Choice(["exact", "semver", "glob", "regex", "any"]))
@click.argument("pattern", default="")
@click.option("--repository", default="", help="Repository to subscribe to; default: the repository of the image.")
@click.option("--include", multiple=True, metavar="GLOB", help="Deploy only tags that match one of these; repeatable.")
@click.option(
    "--exclude", multiple=True, metavar="GLOB", help="Do not deploy tags that match one of these; repeatable."
)
@click.option("--prereleases", is_flag=True, help="semver: deploy prereleases such as 1.3.0-rc.1 too.")
@click.option("--allow-downgrade", is_flag=True, help="semver: deploy a lower version than the running one too.")
@json_option
@command
async def create(
    app: str,
    policy: str,
    pattern: str,
    *,
    repository: str,
    include: Sequence[str],
    exclude: Sequence[str],
    prereleases: bool,
    allow_downgrade: bool,
    as_json: bool,
) -> None:
    """Subscribe APP to more tags. Example: gateway subscriptions create web semver '^1.2'."""
    from gateway.admin.subscriptions import resolve_repository
    from gateway.api.procedures.subscription import SubscriptionRow
    from gateway.model.tag_policies import TagPolicy
    from gateway.store import applications
    from gateway.store import subscriptions as store
    from gateway.store.database import transaction

    wanted = TagPolicy.parse(
        policy, pattern, include=include, exclude=exclude, prereleases=prereleases, downgrades=allow_downgrade
    )
    async with open_storage() as storage, transaction(storage.pool) as connection:
        application_id = await applications.select_application_id(connection, app)
        followed = await resolve_repository(connection, application_id, repository)
        made = await store.insert_subscription(connection, application_id, followed, wanted)
    if as_json:
        print_json(SubscriptionRow.from_subscription(made))
    else:
        print_text(made.subscription_id)


@subscriptions.command("list")
@click.argument("app", required=False)
@paged(1000)
@json_option
@command
async def list_subscriptions(app: str | None, *, limit: int, cursor: str | None, as_json: bool) -> None:
    """List subscriptions of one application or all, newest first."""
    from gateway.api.procedures.subscription import SubscriptionRow
    from gateway.store import applications
    from gateway.store import subscriptions as store
    from gateway.store.database import transaction

    page = parse_page(limit, cursor)
    async with open_storage() as storage, transaction(storage.pool) as connection:
        application_id = await applications.select_application_id(connection, app) if app else None
        found = await store.select_subscriptions_page(connection, application_id, page=page)
        names = await applications.select_names(connection, {one.application_id for one in found})
    if as_json:
        print_json([SubscriptionRow.from_subscription(one) for one in found])
    else:
        rows = [
            (
                one.subscription_id,
                names.get(one.application_id, one.application_id),
                one.repository,
                one.policy,
                "image" if one.from_image else None,
            )
            for one in found
        ]
        print_table(["ID", "APPLICATION", "REPOSITORY", "POLICY", "FROM"], rows)
    print_next_cursor(page.next(found, lambda one: (one.created_at, one.subscription_id)))


@subscriptions.command()
@click.argument("app")
@click.argument("seconds", type=click.IntRange(0, 2_592_000), required=False)
@json_option
@command
async def reconcile(app: str, seconds: int | None, *, as_json: bool) -> None:
    """Set how often APP's registry is polled for missed pushes.

    SECONDS is the interval; 0 turns polling off. Without SECONDS, the interval set for the registry applies.
    """
    from gateway.store import applications
    from gateway.store import subscriptions as store
    from gateway.store.database import transaction

    async with open_storage() as storage, transaction(storage.pool) as connection:
        application_id = await applications.select_application_id(connection, app)
        await store.update_reconcile(connection, application_id, seconds)
    if as_json:
        print_json({"applicationId": application_id, "reconcileSeconds": seconds})
    else:
        print_text("as set for its registry" if seconds is None else f"every {seconds} s" if seconds else "never")


@subscriptions.command()
@click.argument("subscription")
@json_option
@command
async def remove(subscription: str, *, as_json: bool) -> None:
    """Remove a subscription by its id."""
    from gateway.store import subscriptions as store
    from gateway.store.database import transaction

    async with open_storage() as storage, transaction(storage.pool) as connection:
        await store.delete_subscription(connection, subscription)
    if as_json:
        print_json({"removed": subscription})
    else:
        print_text(f"removed {subscription}")
