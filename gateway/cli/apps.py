"""`gateway apps`."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from gateway.cli._application_options import application_options, parse_options
from gateway.cli._runner import (
    command,
    format_time,
    json_option,
    open_storage,
    paged,
    parse_page,
    print_fields,
    print_json,
    print_next_cursor,
    print_table,
    print_text,
)
from gateway.cli.adoption import adopt
from gateway.model.errors import InvalidInput

if TYPE_CHECKING:
    from gateway.model.configuration_diff import Change


@click.group()
def apps() -> None:
    """Manage applications."""


@apps.command()
@click.argument("name")
@click.argument("image")
@click.option("--id", "application_id", help="Id of the application; default: a generated one.")
@click.option("--server", help="Id or name of the server to run on; default: the gateway's own engine.")
@application_options
@json_option
@command
async def create(
    name: str, image: str, *, application_id: str | None, server: str | None, as_json: bool, **chosen: Any
) -> None:
    """Create the application NAME for IMAGE and print its id. The next push or deploy starts it."""
    from gateway.model.applications import slug

    created, container = await _create(name, application_id, {**parse_options(chosen), "dockerImage": image}, server)
    if container != slug(name):
        print_text(
            f"Another application has the name, container name or id {slug(name)}. "
            f"The container of this one is called {container}.",
            err=True,
        )
    if as_json:
        print_json({"applicationId": created, "name": name, "image": image})
    else:
        print_text(created)


async def _create(name: str, application_id: str | None, sent: dict[str, Any], server: str | None) -> tuple[str, str]:
    """Return the id of the application and the name of its container."""
    from gateway.admin.applications import Changes, apply_changes
    from gateway.store import applications, deploy_tokens, servers
    from gateway.store.database import transaction

    async with open_storage() as storage, transaction(storage.pool) as connection:
        if server is not None:
            sent["serverId"] = (await servers.select_server(connection, storage.vault, server)).server_id
        container = await _free_container_name(connection, name)
        created = await applications.insert_application(
            connection,
            application_id=application_id,
            name=name,
            app_name=container,
            description=None,
        )
        await deploy_tokens.renew_token(connection, storage.vault, created)
        await apply_changes(connection, storage.vault, created, Changes.model_validate(sent), limits=None)
    return created, container


@apps.command()
@click.argument("app")
@click.option("--image", help="The image to run.")
@click.option("--name", help="New name of the application.")
@click.option(
    "--unset",
    multiple=True,
    metavar="FIELD",
    help="Field to reset to its default, for example memoryLimit; repeatable.",
)
@application_options
@json_option
@command
async def update(
    app: str, *, image: str | None, name: str | None, unset: Sequence[str], as_json: bool, **chosen: Any
) -> None:
    """Change APP and print what its next deployment will change. Options that are not given change nothing.

    --publish replaces all ports, --network all networks, --volume and --file all mounts.
    """
    from gateway.admin.application_update import apply_and_diff
    from gateway.admin.applications import Changes, is_application_column
    from gateway.store import applications
    from gateway.store.database import transaction

    if unknown := [field for field in unset if not is_application_column(field)]:
        raise InvalidInput(f"--unset takes the name of a field, for example memoryLimit or env, not {unknown[0]!r}")
    given = {name: value for name, value in (("dockerImage", image), ("name", name)) if value is not None}
    sent = {**dict.fromkeys(unset), **parse_options(chosen), **given}
    if not sent:
        raise InvalidInput("Give at least one option; see gateway apps update --help")
    async with open_storage() as storage, transaction(storage.pool) as connection:
        application_id = await applications.select_application_id(connection, app)
        wish = Changes.model_validate(sent)
        updated = await apply_and_diff(
            connection, storage.vault, application_id, lambda _: wish, limits=None, must_change=True
        )
    if as_json:
        print_json({"applicationId": application_id, "pending": [asdict(one) for one in updated.pending]})
    elif not _print_pending(updated.pending):
        print_text("The next deployment changes nothing.")


def _print_pending(pending: Sequence["Change"]) -> bool:
    """Print what the next deployment will change. Returns False if it changes nothing."""
    if pending:
        print_text(f"The next deployment (gateway deploy) changes: {', '.join(one.field for one in pending)}")
        rows = [(one.field, _format_value(one.runs), _format_value(one.wanted)) for one in pending]
        print_table(["FIELD", "RUNS", "WANTED"], rows)
    return bool(pending)


def _format_value(value: Any) -> str:
    return "-" if value in (None, [], {}) else value if isinstance(value, str) else json.dumps(value)


async def _free_container_name(connection: Any, name: str) -> str:
    """Return a free container name: that of the application, with a suffix if it is taken."""
    from gateway.model.applications import slug
    from gateway.model.errors import NotFound
    from gateway.store import applications

    try:
        await applications.select_application_id(connection, slug(name))
    except NotFound:
        return slug(name)
    return f"{slug(name)}-{secrets.token_hex(3)}"


@apps.command("list")
@paged(1000)
@json_option
@command
async def list_apps(*, limit: int, cursor: str | None, as_json: bool) -> None:
    """List applications, newest first."""
    from gateway.api.procedures._application_row import application_row
    from gateway.store import applications, observations
    from gateway.store.database import transaction

    page = parse_page(limit, cursor)
    async with open_storage() as storage, transaction(storage.pool) as connection:
        found = await applications.select_applications(connection, storage.vault, page)
        ids = [one.application_id for one in found]
        states = await applications.select_states(connection, ids)
        seen = await observations.select_observations(connection, ids)
    if as_json:
        print_json(
            [
                application_row(one, states.get(one.application_id), secrets=True, seen=seen.get(one.application_id))
                for one in found
            ]
        )
    else:
        rows = [
            (
                one.application_id,
                one.name,
                one.app_name,
                one.docker_image,
                seen[one.application_id].state if one.application_id in seen else None,
                states.get(one.application_id),
            )
            for one in found
        ]
        print_table(["ID", "NAME", "CONTAINER", "IMAGE", "STATE", "DEPLOYMENT"], rows)
    print_next_cursor(page.next(found, lambda one: (one.created_at, one.application_id)))


@apps.command("show")
@click.argument("app")
@json_option
@command
async def show_app(app: str, *, as_json: bool) -> None:
    """Show one application, by id, container name or name."""
    from gateway.admin.application_update import select_pending_changes
    from gateway.api.procedures._application_row import application_row
    from gateway.store import applications, deploy_tokens, observations, versions
    from gateway.store.database import transaction

    async with open_storage() as storage, transaction(storage.pool) as connection:
        application_id = await applications.select_application_id(connection, app)
        found = await applications.select_application(connection, storage.vault, application_id)
        states = await applications.select_states(connection, [application_id])
        seen = (await observations.select_observations(connection, [application_id])).get(application_id)
        waits = await select_pending_changes(connection, storage.vault, found)
        runs = await versions.select_serving(connection, storage.vault, found)
        tokens = await deploy_tokens.select_tokens(connection, storage.vault, [application_id])
    if as_json:
        token, state = tokens.get(application_id), states.get(application_id)
        shown = application_row(found, state, secrets=True, token=token, seen=seen)
        print_json({**shown, "pending": [asdict(one) for one in waits]})
        return
    parts = {"ports": {"__all__": {"port_id"}}, "mounts": {"__all__": {"mount_id", "content"}}}
    configuration = found.configuration.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=parts)
    print_fields(
        {
            "id": found.application_id,
            "name": found.name,
            "container": found.app_name,
            "image": found.docker_image,
            "digest": runs.reference.digest if runs and runs.reference else None,
            "state": f"{seen.state} since {format_time(seen.since)}" if seen else None,
            "detail": seen.detail if seen and seen.detail else None,
            "deployment": states.get(application_id, "never deployed"),
            "wanted": found.desired,
            "server": found.server_id,
            "engine": found.engine_id,
            **{name: value if isinstance(value, str) else json.dumps(value) for name, value in configuration.items()},
        }
    )
    _print_pending(waits)


apps.add_command(adopt)
