"""`gateway projects`."""

from operator import itemgetter
from typing import Any

import click

from gateway.cli._completion import complete_files, names_of
from gateway.cli._lists import Columns, Listing, id_in, list_command, time_in
from gateway.cli._runner import (
    command,
    connect,
    json_option,
    moment,
    print_fields,
    print_json,
    print_result,
    print_table,
    read_secret,
)
from gateway.cli._table import Id


@click.group()
def projects() -> None:
    """Manage projects: what applications belong to, in environments, with variables that they share."""


@projects.command()
@click.argument("name")
@click.option("--description", default="", help="What the project is.")
@click.option(
    "--env-file",
    metavar="FILE",
    help="Read its variables from FILE; - is standard input.",
    shell_complete=complete_files,
)
@json_option
@command
async def create(name: str, *, description: str, env_file: str | None, as_json: bool) -> None:
    """Create the project NAME with its first environment. Print its id."""
    async with connect() as gateway:
        given = {"name": name, "description": description, "env": read_secret(env_file)}
        made = await gateway.call("project.create", {field: one for field, one in given.items() if one is not None})
    print_result(made, made["project"]["projectId"], as_json=as_json)


_COLUMNS: Columns = {
    "ID": id_in("projectId"),
    "NAME": itemgetter("name"),
    "ENVIRONMENTS": lambda one: ", ".join(it["name"] for it in one["environments"]),
    "APPLICATIONS": lambda one: sum(len(it["applications"]) for it in one["environments"]),
    "CREATED": time_in("createdAt"),
}


@projects.command("list")
@list_command(1000)
async def list_projects(listing: Listing) -> None:
    """List projects, newest first."""
    async with connect() as gateway:
        await listing.show(gateway, "project.all", _COLUMNS)


@projects.command()
@click.argument("project", shell_complete=names_of("project"))
@json_option
@command
async def show(project: str, *, as_json: bool) -> None:
    """Show PROJECT, by its id or name, with its environments and applications."""
    async with connect() as gateway:
        found = await gateway.call("project.one", {"projectId": await gateway.find("project", project)})
    if as_json:
        print_json(found)
        return
    print_fields(
        {
            "id": found["projectId"],
            "name": found["name"],
            "description": found["description"] or None,
            "created": moment(found["createdAt"]),
        }
    )
    rows: list[tuple[object, ...]] = []
    for environment in found["environments"]:
        place: dict[str, Any] = environment
        named = (place["name"], Id(place["environmentId"]))
        rows += [(*named, one["name"], Id(one["applicationId"])) for one in place["applications"]] or [
            (*named, None, None)
        ]
    print_table(["ENVIRONMENT", "ID", "APPLICATION", "ID"], rows)


@projects.command()
@click.argument("project", shell_complete=names_of("project"))
@click.argument("name")
@json_option
@command
async def rename(project: str, name: str, *, as_json: bool) -> None:
    """Give PROJECT another NAME."""
    async with connect() as gateway:
        project_id = await gateway.find("project", project)
        await gateway.call("project.update", {"projectId": project_id, "name": name})
    print_result({"projectId": project_id, "name": name}, f"renamed {project_id} to {name}", as_json=as_json)


@projects.command()
@click.argument("project", shell_complete=names_of("project"))
@json_option
@command
async def remove(project: str, *, as_json: bool) -> None:
    """Remove PROJECT, which has no applications, by its id or name."""
    async with connect() as gateway:
        project_id = await gateway.find("project", project)
        await gateway.call("project.remove", {"projectId": project_id})
    print_result({"removed": project_id}, f"removed {project_id}", as_json=as_json)
