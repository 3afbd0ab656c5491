"""`gateway apps`."""

import secrets
from collections.abc import Sequence
from typing import Any

import click

from gateway.cli._command import command, json_option, keep, read_secret, show, show_fields, show_table
from gateway.errors import InvalidInput


@click.group()
def apps() -> None:
    """Applications: what is kept running."""


@apps.command()
@click.argument("name")
@click.argument("image")
@click.option("--id", "application_id", help="The id to give it, instead of a made one.")
@click.option("--publish", "-p", multiple=True, metavar="8080:80[/udp]", help="A port of the host and the container's.")
@click.option("--env-file", help="A file of NAME=value lines.")
@click.option("--memory", help="As 512MB or 2g.")
@click.option("--cpus", help="As 0.5.")
@click.option("--volume", "-v", multiple=True, metavar="NAME:/PATH[:ro]", help="A volume, or a folder of the host.")
@click.option("--network", multiple=True, help="A network to join.")
@click.option("--command", "words", help="What to run instead of the image's command.")
@click.option("--probe", metavar="http:8080/health|tcp:5432", help="What the gateway asks it, to know that it serves.")
@click.option("--watch", type=float, help="Seconds after a rollout in which trouble brings the former version back.")
@click.option("--server", help="The server to run on, by id or name, instead of the gateway's own engine.")
@click.option("--registry-url", help="The registry the login is for.")
@click.option("--username", help="A login for the image's registry.")
@click.option("--password-file", help="Its password or token, in a file (- is standard input).")
@json_option
@command
async def create(
    name: str,
    image: str,
    *,
    application_id: str | None,
    publish: Sequence[str],
    env_file: str | None,
    memory: str | None,
    cpus: str | None,
    volume: Sequence[str],
    network: Sequence[str],
    words: str | None,
    probe: str | None,
    watch: float | None,
    server: str | None,
    registry_url: str | None,
    username: str | None,
    password_file: str | None,
    as_json: bool,
) -> None:
    """Keep IMAGE running as NAME, and print its id. It begins with its next push, or a deploy."""
    wanted = {
        "memoryLimit": memory,
        "cpuLimit": cpus,
        "command": words,
        "ports": [_port(text) for text in publish],
        "mounts": [_mount(text) for text in volume],
        "networks": list(network),
        "probe": _probe(probe) if probe else None,
        "watch": watch,
    }
    changes: dict[str, Any] = {
        "docker_image": image,
        "registry_url": registry_url,
        "registry_username": username,
        "registry_password": read_secret(password_file),
        "environment": read_secret(env_file),
        "configuration": _configuration({field: value for field, value in wanted.items() if value or value == 0}),
    }
    created = await _create(name, application_id, changes, server)
    if as_json:
        show({"applicationId": created, "name": name, "image": image})
    else:
        click.echo(created)


async def _create(name: str, application_id: str | None, changes: dict[str, Any], server: str | None) -> str:
    from gateway.applications import parse_environment
    from gateway.reference import Reference
    from gateway.registries import Scope
    from gateway.store import addresses, applications, servers, subscriptions
    from gateway.store.database import transaction

    reference = Reference.parse(changes["docker_image"])
    parse_environment(changes["environment"] or "")
    Scope.parse(changes["registry_url"] or "")
    async with keep() as kept, transaction(kept.pool) as connection:
        if server is not None:
            changes["server_id"] = (await servers.select_server(connection, kept.vault, server)).server_id
        created = await applications.insert_application(
            connection,
            application_id=application_id,
            name=name,
            app_name=await _free_name(connection, name),
            description=None,
        )
        await addresses.renew_token(connection, kept.vault, created)
        await applications.update_application(connection, kept.vault, created, changes)
        await subscriptions.replace_subscription(connection, created, reference)
    return created


async def _free_name(connection: Any, name: str) -> str:
    """Return what the container is called: as the application, where no other is."""
    from gateway.applications import slug
    from gateway.errors import NotFound
    from gateway.store import applications

    try:
        await applications.select_application_id(connection, slug(name))
    except NotFound:
        return slug(name)
    return f"{slug(name)}-{secrets.token_hex(3)}"


def _configuration(wanted: dict[str, Any]) -> dict[str, Any]:
    from pydantic import ValidationError

    from gateway import contradictions
    from gateway.configuration import Configuration

    try:
        proven = Configuration.model_validate(wanted)
        contradictions.refuse(proven)
        return proven.model_dump(by_alias=True, exclude_defaults=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InvalidInput(f"{field}: {first['msg'].removeprefix('Value error, ')}") from error


def _port(text: str) -> dict[str, object]:
    numbers, _, protocol = text.partition("/")
    published, _, target = numbers.partition(":")
    if not (published.isdigit() and target.isdigit()):
        raise InvalidInput(f"--publish takes 8080:80 or 8080:80/udp, not {text!r}")
    return {"publishedPort": int(published), "targetPort": int(target), "protocol": protocol or "tcp"}


def _probe(text: str) -> dict[str, object]:
    kind, _, rest = text.partition(":")
    port, slash, path = rest.partition("/")
    if not port.isdigit():
        raise InvalidInput(f"--probe takes http:8080, http:8080/health or tcp:5432, not {text!r}")
    return {"type": kind, "port": int(port), **({"path": f"/{path}"} if slash else {})}


def _mount(text: str) -> dict[str, object]:
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not target or mode not in {"", "ro", "rw"}:
        raise InvalidInput(f"--volume takes name:/path, /host:/path or either with :ro, not {text!r}")
    kind = "bind" if source.startswith("/") else "volume"
    return {"type": kind, "source": source, "target": target, "readOnly": mode == "ro"}


@apps.command("list")
@json_option
@command
async def list_apps(*, as_json: bool) -> None:
    """Show all applications."""
    from gateway.store import applications
    from gateway.store.database import transaction
    from gateway.web.procedures.columns import row

    async with keep() as kept, transaction(kept.pool) as connection:
        found = await applications.select_applications(connection, kept.vault)
        states = await applications.select_states(connection, [one.application_id for one in found])
    if as_json:
        show([row(one, states.get(one.application_id), secrets=True) for one in found])
    else:
        rows = [
            (one.application_id, one.name, one.app_name, one.docker_image, states.get(one.application_id))
            for one in found
        ]
        show_table(["ID", "NAME", "CONTAINER", "IMAGE", "STATE"], rows)


@apps.command("show")
@click.argument("app")
@json_option
@command
async def show_app(app: str, *, as_json: bool) -> None:
    """Show one application, by id, container name or name."""
    from gateway.store import applications
    from gateway.store.database import transaction
    from gateway.web.procedures.columns import row

    async with keep() as kept, transaction(kept.pool) as connection:
        application_id = await applications.select_application_id(connection, app)
        found = await applications.select_application(connection, kept.vault, application_id)
        states = await applications.select_states(connection, [application_id])
    if as_json:
        show(row(found, states.get(application_id), secrets=True))
        return
    configuration = found.configuration.model_dump(exclude_defaults=True)
    show_fields(
        {
            "id": found.application_id,
            "name": found.name,
            "container": found.app_name,
            "image": found.docker_image,
            "state": states.get(application_id, "never deployed"),
            "wanted": found.desired,
            "server": found.server_id,
            "engine": found.engine_id,
            **configuration,
        }
    )
