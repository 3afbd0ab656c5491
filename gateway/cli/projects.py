"""`gateway projects`."""

from typing import Any

import click

from gateway.cli._completion import names_of
from gateway.cli._runner import (
    command,
    connect,
    json_option,
    moment,
    page_of,
    paged,
    print_fields,
    print_json,
    print_next_cursor,
    print_table,
    print_text,
    read_secret,
)
from gateway.cli._table import Id


@click.group()
def projects() -> None:
    """Manage projects: what applications belong to, in environments, with variables that they share."""


@projects.command()
@click.argument("name")
@click.option("--description", default="", help="What the project is.")
@click.option("--env-file", metavar="FILE", help="Read its variables from FILE; - is standard input.")
@json_option
@command
async def create(name: str, *, description: str, env_file: str | None, as_json: bool) -> None:
    """Create the project NAME with its first environment. Print its id."""
    async with connect() as gateway:
        given = {"name": name, "description": description, "env": read_secret(env_file)}
        made = await gateway.call("project.create", {field: one for field, one in given.items() if one is not None})
    if as_json:
        print_json(made)
    else:
        print_text(made["project"]["projectId"])


@projects.command("list")
@paged(1000)
@json_option
@command
async def list_projects(*, limit: int, cursor: str | None, as_json: bool) -> None:
    """List projects, newest first."""
    async with connect() as gateway:
        found, following = await gateway.page("project.all", page_of(limit, cursor))
    if as_json:
        print_json(found)
    else:
        rows = [
            (
                Id(one["projectId"]),
                one["name"],
                ", ".join(it["name"] for it in one["environments"]),
                sum(len(it["applications"]) for it in one["environments"]),
                moment(one["createdAt"]),
            )
            for one in found
        ]
        print_table(["ID", "NAME", "ENVIRONMENTS", "APPLICATIONS", "CREATED"], rows)
    print_next_cursor(following)


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
    if as_json:
        print_json({"projectId": project_id, "name": name})
    else:
        print_text(f"renamed {project_id} to {name}")


@projects.command()
@click.argument("project", shell_complete=names_of("project"))
@json_option
@command
async def remove(project: str, *, as_json: bool) -> None:
    """Remove PROJECT, which has no applications, by its id or name."""
    async with connect() as gateway:
        project_id = await gateway.find("project", project)
        await gateway.call("project.remove", {"projectId": project_id})
    if as_json:
        print_json({"removed": project_id})
    else:
        print_text(f"removed {project_id}")
