"""`gateway apply`, `gateway export`, `gateway import` and `gateway schema`."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from gateway.cli._completion import complete_files, names_of
from gateway.cli._runner import command, connect, interruptible, json_option, print_json, print_text
from gateway.model.errors import GatewayError, InvalidInput

if TYPE_CHECKING:
    from gateway.cli._declared_files import Files
    from gateway.client import Gateway

_DIFFERS = 2  # exit code of --plan


@click.command()
@click.option("--file", "-f", "names", multiple=True, required=True, metavar="FILE|DIRECTORY", help="File in YAML, or "
              "directory with such files; - is standard input; repeatable.", shell_complete=complete_files)  # fmt: skip
@click.option("--plan", "only_plan", is_flag=True, help="Print what would change, and change nothing. Exit code 2: "
              "something would change; 0: nothing.")  # fmt: skip
@click.option("--prune", is_flag=True, help="Remove what an earlier apply of this declaration made and the files do "
              "not have any more.")  # fmt: skip
@click.option("--project", help="Apply only what is in this project.", shell_complete=names_of("project"))
@click.option("--yes", is_flag=True, help="Remove applications without asking.")
@click.option("--allow-commands", is_flag=True, help="Run the commands that the files take secrets from.")
@json_option
@command
async def apply(
    names: Sequence[str],
    *,
    only_plan: bool,
    prune: bool,
    project: str | None,
    yes: bool,
    allow_commands: bool,
    as_json: bool,
) -> None:
    """Set up what files declare: applications, projects, webhooks, registries and so on.

    Each object is changed in one transaction, and not at all if somebody changed it since the plan. If one fails, the
    others are applied, and the exit code is 1. Nothing is deployed. See docs/declared.md.
    """
    from gateway.cli._declared_files import read_files

    await _apply_files(
        read_files(names),
        only_plan=only_plan,
        prune=prune,
        project=project,
        yes=yes,
        allow_commands=allow_commands,
        as_json=as_json,
    )


async def _apply_files(
    files: "Files",
    *,
    as_json: bool,
    only_plan: bool = False,
    prune: bool = False,
    project: str | None = None,
    yes: bool = False,
    allow_commands: bool = False,
    take_over: bool = True,
) -> None:
    from gateway.cli._declared_files import fetch_secrets, validate
    from gateway.model.declared.objects import is_in, objects_of

    form = validate(files)
    wanted = [one.path for one in objects_of(form)]
    limited = [one for one in wanted if project is None or is_in(one, project)]
    secrets = await fetch_secrets(files, commands=allow_commands, wanted=[one.parts for one in limited])
    given: dict[str, Any] = {"document": files.value, "secrets": secrets, "prune": prune}
    if not take_over:
        given["takeOver"] = False
    async with connect() as gateway:
        await _apply(
            gateway,
            files,
            given if project is None else {**given, "project": project},
            only_plan=only_plan,
            yes=yes,
            as_json=as_json,
        )


async def _apply(
    gateway: "Gateway", files: "Files", given: Mapping[str, Any], *, only_plan: bool, yes: bool, as_json: bool
) -> None:
    from gateway.cli._declared_text import print_plan

    planned = await gateway.call("declaration.plan", given)
    objects, refused = planned["objects"], any(row["action"] == "refused" for row in planned["objects"])
    if only_plan:
        if as_json:
            print_json(planned)
        else:
            print_plan(files, objects)
        sys.exit(1 if refused else _DIFFERS if planned["differs"] else 0)
    if not as_json:
        print_plan(files, objects)
    if refused and not given.get("takeOver", True):
        raise InvalidInput(_not_taken_over(objects))
    _confirm([row for row in objects if row["action"] == "removed" and row["kind"] == "application"], yes=yes)
    rows = [
        await _apply_one(gateway, files, given["secrets"], planned["declaration"], row, as_json=as_json)
        for row in objects
        if row["action"] != "unchanged"
    ]
    if as_json:
        print_json({"declaration": planned["declaration"], "objects": rows})
    sys.exit(any(row["error"] is not None for row in rows))


def _not_taken_over(objects: Sequence[Mapping[str, Any]]) -> str:
    said = "; ".join(row["error"]["message"] for row in objects if row["action"] == "refused")
    return f"nothing is applied: {said}. Name a project of its own (--project), or change what is there: --take-over"


def _confirm(removed: Sequence[Mapping[str, Any]], *, yes: bool) -> None:
    """Ask before applications are removed. Raises InvalidInput where nobody can be asked."""
    if not removed or yes:
        return
    count = f"{len(removed)} application{'s' if len(removed) > 1 else ''} with all containers"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidInput(f"this removes {count}: look at the plan (--plan), and confirm it with --yes")
    with interruptible():
        click.confirm(f"Remove {count}?", abort=True, err=True)


async def _apply_one(
    gateway: "Gateway",
    files: "Files",
    secrets: Mapping[str, str],
    declaration: str,
    row: Mapping[str, Any],
    *,
    as_json: bool,
) -> dict[str, Any]:
    """Apply an object; return what happened, or the error. Raises nothing that other objects would not meet."""
    from gateway.cli._declared_text import name_of, print_applied, print_error
    from gateway.model.declared.objects import spec_at
    from gateway.model.declared.secrets import dotted

    path, error = row["path"], row["error"]
    if error is None:
        prefix = f"{dotted(tuple(path))}."
        given = {
            "path": path,
            "spec": None if row["action"] == "removed" else spec_at(files.value, path),
            "secrets": {name.removeprefix(prefix): one for name, one in secrets.items() if name.startswith(prefix)},
            "version": row["version"],
            "declaration": declaration,
        }
        try:
            applied: dict[str, Any] = await gateway.call("declaration.apply", given)
        except GatewayError as failure:
            error = {"message": str(failure), "field": failure.field if isinstance(failure, InvalidInput) else None}
        else:
            if not as_json:
                print_applied(applied)
            return {**applied, "error": None}
    if not as_json:
        print_text(f"failed {name_of(row)}")
        print_error(files, path, error["message"], error["field"])
    return {"path": path, "kind": row["kind"], "action": "failed", "changes": [], "pending": [], "error": error}


@click.command()
@click.option("--project", help="Only what is in this project.", shell_complete=names_of("project"))
@click.option("--engine", is_flag=False, flag_value="", default=None, metavar="[SERVER]", help="Only applications of "
              "the gateway's own engine, or of SERVER's, and the containers there that can be adopted.",
              shell_complete=names_of("server"))  # fmt: skip
@click.option("--variables", is_flag=True, help="With the values of variables, which may be secrets.")
@json_option
@command
async def export(*, project: str | None, engine: str | None, variables: bool, as_json: bool) -> None:
    """Print what is there as a declaration, for gateway apply.

    Secrets are left out: where the gateway holds one, the declaration says `unchanged`.
    """
    given: dict[str, Any] = {"variables": variables, "engine": engine is not None}
    if project is not None:
        given["project"] = project
    async with connect() as gateway:
        if engine:
            given["serverId"] = await gateway.find("server", engine)
        found = await gateway.call("declaration.export", given)
    if as_json:
        print_json(found)
        return
    _print_document(found["document"], found["notes"])


def _print_document(document: Mapping[str, Any], notes: Sequence[str]) -> None:
    from gateway.model.declared import yaml_text

    for note in notes:
        print_text(f"# {' '.join(note.split())}")
    print_text(yaml_text.dump(dict(document)), end="")


@click.command()
def schema() -> None:
    """Print the JSON Schema of declarations, for editors. Works without a gateway."""
    from gateway.admin.declared.schema import json_schema

    print_text(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@click.group("import")
def import_() -> None:
    """Make a declaration of what another tool is configured with."""


@import_.command()
@click.argument("file", shell_complete=complete_files)
@click.option(
    "--project", help="Project for the applications. Default: the project Default.", shell_complete=names_of("project")
)
@click.option("--profile", "profiles", multiple=True, help="Profile whose services are imported too; repeatable.")
@click.option("--apply", "applies", is_flag=True, help="Apply the declaration instead of printing it.")
@click.option("--take-over", is_flag=True, help="With --apply: change applications of the same name that this "
              "declaration did not make.")  # fmt: skip
@json_option
@command
async def compose(
    file: str, *, project: str | None, profiles: Sequence[str], applies: bool, take_over: bool, as_json: bool
) -> None:
    """Print a declaration of the services in a compose FILE.

    What is not carried over is named with the reason: in comments of the output, and with --json as `notes`.
    """
    from gateway.cli._declared_compose import read_compose

    converted, files = read_compose(file, project=project, profiles=profiles)
    if not applies:
        if as_json:
            print_json({"document": converted.document, "notes": converted.notes})
        else:
            _print_document(converted.document, converted.notes)
        return
    if not as_json:
        for note in converted.notes:
            print_text(f"# {' '.join(note.split())}")
    await _apply_files(files, take_over=take_over, as_json=as_json)
