"""`gateway gates`."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click

from gateway.cli._runner import (
    command,
    json_option,
    open_storage,
    print_fields,
    print_json,
    print_table,
    print_text,
    read_secret,
)
from gateway.model.sanitize import safe_line

if TYPE_CHECKING:
    from gateway.gates.gate import Sources
    from gateway.store.database import Connection
    from gateway.store.gates import Owner
    from gateway.store.storage import Storage

_LONGEST_RULE = 120  # characters in a table
_PLACE = "Exactly one of APP, --environment and --project."

environment_option = click.option("--environment", metavar="ID", help="The gates of an environment, by its id.")
project_option = click.option("--project", metavar="PROJECT", help="The gates of a project, by its id or name.")


@click.group()
def gates() -> None:
    """Manage what a deployment must pass before its image is pulled."""


@gates.command("list")
@click.argument("app", required=False)
@environment_option
@project_option
@json_option
@command
async def list_gates(app: str | None, *, environment: str | None, project: str | None, as_json: bool) -> None:
    """List the gates of APP, with those that it inherits and which apply."""
    from gateway.admin import gates as admin
    from gateway.api.procedures._gate_rows import PlacedGate
    from gateway.store.database import statement

    async with open_storage() as storage, statement(storage.pool) as connection:
        owner = await _owner(connection, app, environment, project)
        found = await admin.select_placed(connection, storage.vault, owner)
    if as_json:
        print_json([PlacedGate.from_setting(one.setting, applies=one.applies) for one in found])
        return
    rows = [
        (
            one.setting.name,
            one.setting.kind,
            one.setting.level,
            ("yes" if one.applies else "no") + (", required" if one.setting.required else ""),
            "on" if one.setting.enabled else "off",
            _shorten(json.dumps(dict(one.setting.rule))),
            one.setting.gate_id,
        )
        for one in found
    ]
    print_table(["NAME", "KIND", "SET ON", "APPLIES", "SWITCH", "RULE", "ID"], rows)


@gates.command("set")
@click.argument("words", nargs=-1, metavar="[APP] KIND [KEY=VALUE]…")
@environment_option
@project_option
@click.option("--name", help="Name of the gate; default: its kind.")
@click.option("--rule", "rule_text", metavar="JSON", help="The rule; - is standard input.")
@click.option("--required", is_flag=True, help="Applications can neither replace it nor turn it off.")
@click.option(
    "--off", is_flag=True, help="Turn off the gate of this name, also an inherited one, until it is set again."
)
@click.option(
    "--secret-file", metavar="FILE", help="Read what the rule needs and must not show from FILE; - is standard input."
)
@json_option
@command
async def set_gate(
    words: Sequence[str],
    *,
    environment: str | None,
    project: str | None,
    name: str | None,
    rule_text: str | None,
    required: bool,
    off: bool,
    secret_file: str | None,
    as_json: bool,
) -> None:
    """Set a gate of APP, or of an environment or a project. Print its id.

    The rule is given as JSON, as KEY=VALUE, or both. VALUE is JSON where it can be read so, else text. A gate of this
    name that is set there already gets the new rule.

    For example: gateway gates set web maturity age=24h
    """
    from gateway.admin import gates as admin
    from gateway.api.procedures.gate import CreatedGate
    from gateway.store.database import statement

    app, kind, pairs = _split(words, elsewhere=environment is not None or project is not None)
    rule = _rule(rule_text, pairs)
    secret = read_secret(secret_file)
    async with open_storage() as storage:
        async with statement(storage.pool) as connection:
            owner = await _owner(connection, app, environment, project)
            placed = await admin.select_placed(connection, storage.vault, owner)
        chosen = name or kind
        secret_made = None
        there = [one.setting for one in placed if one.setting.name == chosen and one.setting.level is owner.level]
        if there and there[0].kind == kind:
            made = await admin.update(
                storage.pool,
                storage.vault,
                there[0].gate_id,
                rule=rule,
                secret=secret,
                enabled=not off,
                required=required,
            )
        else:
            made = await admin.create(
                storage.pool,
                storage.vault,
                owner,
                kind=kind,
                name=name,
                rule=rule,
                secret=secret,
                enabled=not off,
                required=required,
            )
            secret_made = made.secret if secret is None else None
    if as_json:
        print_json(CreatedGate.from_setting(made, secret=secret_made))
    elif secret_made is not None:
        print_fields({"gate": made.gate_id, "secret, shown once": secret_made})
    else:
        print_text(made.gate_id)


def _shorten(rule: str) -> str:
    """Keep a row readable whose rule has keys or certificates; --json prints all of it."""
    return rule if len(rule) <= _LONGEST_RULE else rule[: _LONGEST_RULE - 1] + "…"


def _split(words: Sequence[str], *, elsewhere: bool) -> tuple[str | None, str, Sequence[str]]:
    """Return the application, the kind and the fields of the rule."""
    rest = list(words)
    app = None if elsewhere or not rest else rest.pop(0)
    if not rest or "=" in rest[0]:
        raise click.UsageError("Name the kind of the gate: gateway gates set APP KIND [KEY=VALUE]…")
    return app, rest[0], rest[1:]


def _rule(text: str | None, pairs: Sequence[str]) -> dict[str, Any]:
    if text == "-":
        text = read_secret("-")
    try:
        rule = json.loads(text) if text else {}
    except ValueError as error:
        raise click.UsageError(f"--rule is not JSON: {error}") from error
    if not isinstance(rule, dict):
        raise click.UsageError('--rule is not a JSON object, such as {"age": "24h"}')
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.UsageError(f"{pair!r} is not KEY=VALUE")
        rule[key] = _parse_value(value)
    return rule


def _parse_value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


@gates.command()
@click.argument("words", nargs=-1, metavar="[APP] GATE")
@environment_option
@project_option
@json_option
@command
async def remove(words: Sequence[str], *, environment: str | None, project: str | None, as_json: bool) -> None:
    """Remove a GATE of APP, or of an environment or a project, by its name or id. An id needs no place.

    Deployments that wait at it are asked anew. An inherited gate is removed where it is set.
    """
    from gateway.admin import gates as admin
    from gateway.api.procedures._gate_rows import GateRow

    *apps, gate = words or ("",)
    if not gate or len(apps) > 1:
        raise click.UsageError("Name the gate: gateway gates remove [APP] GATE")
    async with open_storage() as storage:
        gate_id = gate
        if apps or environment is not None or project is not None:
            gate_id = await _gate_id(storage, (apps[0] if apps else None, environment, project), gate)
        removed = await admin.remove(storage.pool, storage.vault, gate_id)
    if as_json:
        print_json(GateRow.from_setting(removed))
    else:
        print_text(f"removed {removed.name}")


@gates.command()
@click.argument("app")
@click.argument("image", required=False)
@json_option
@command
async def check(app: str, image: str | None, *, as_json: bool) -> None:
    """Ask the gates of APP about IMAGE, by default its own, without deploying.

    The command exits with 1 when a gate refuses, with 3 when one cannot tell.
    """
    from gateway.admin import gate_checks
    from gateway.api.procedures.gate import checked_row
    from gateway.store import applications
    from gateway.store.database import statement

    async with _sources() as sources:
        async with statement(sources.pool) as connection:
            application_id = await applications.select_application_id(connection, app)
        row = checked_row(await gate_checks.check(sources, application_id, image))
    if as_json:
        print_json(row)
    else:
        print_text(f"{row.image}: {row.verdict}")
        for one in row.gates:
            print_text(f"  {one.name}: {one.verdict}, {safe_line(one.message)}")
            if one.verdict != "passed":
                print_text(f"    {one.remedy}")
    click.get_current_context().exit({"refused": 1, "unknown": 3}.get(row.verdict, 0))


@asynccontextmanager
async def _sources() -> "AsyncIterator[Sources]":
    from gateway import app
    from gateway.gates.gate import Sources
    from gateway.registry import client

    async with (
        open_storage() as storage,
        client.connect(
            app.insecure_registries(storage.settings), token_hosts=app.token_hosts(storage.settings)
        ) as registry,
    ):
        yield Sources(storage.pool, storage.vault, registry, storage.settings)


@gates.command("next")
@click.argument("app")
@json_option
@command
async def next_opening(app: str, *, as_json: bool) -> None:
    """Show when the gates of APP about time open."""
    from datetime import UTC, datetime

    from gateway.admin import gate_checks
    from gateway.admin import gates as admin
    from gateway.api.procedures.gate import Openings
    from gateway.store.database import statement

    async with open_storage() as storage, statement(storage.pool) as connection:
        placed = await admin.select_placed(connection, storage.vault, await _owner(connection, app, None, None))
    now = datetime.now(UTC)
    found, together = gate_checks.next_openings([one.setting for one in placed if one.applies], now)
    if as_json:
        print_json(Openings.from_openings(found, together))
        return
    fields: dict[str, object] = {
        one.setting.name: "open" if one.is_open else one.opens_at or "never opens" for one in found
    }
    if not found:
        print_text("no gate of this application is about time")
        return
    print_fields(fields | {"deployments go out": "now" if together == now else together or "never"})


@gates.command()
@click.argument("deployment")
@click.argument("gate")
@click.option("--reason", required=True, help="Why; it is kept in the audit.")
@json_option
@command
async def override(deployment: str, gate: str, *, reason: str, as_json: bool) -> None:
    """Let one DEPLOYMENT pass one GATE, by its name or id, with the image that the gate was asked about.

    If the gate has ended the deployment, one that does the same is queued. Print the id of the one that may pass.
    """
    from gateway.admin import gate_overrides

    async with open_storage() as storage:
        passes = await gate_overrides.override(storage.pool, storage.vault, deployment, gate, reason)
    if as_json:
        print_json({"deploymentId": passes})
    else:
        print_text(passes)


@gates.command()
@click.argument("deployment")
@json_option
@command
async def report(deployment: str, *, as_json: bool) -> None:
    """Print the last report of a vulnerability scanner on the image of DEPLOYMENT, as JSON."""
    from gateway.model.errors import NotFound
    from gateway.store import deployments, scan_reports
    from gateway.store.database import statement

    _ = as_json  # it is JSON in any case
    async with open_storage() as storage, statement(storage.pool) as connection:
        digest = (await deployments.select_deployment(connection, deployment)).digest
        found = None if digest is None else await scan_reports.select_newest(connection, digest)
    if found is None:
        raise NotFound("Report not found: no scanner was asked about this image, or its report has expired")
    # Foreign text: in ASCII, and with the one control character escaped that JSON leaves as it is.
    print_text(json.dumps(json.loads(found), indent=2).replace("\x7f", "\\u007f"))


async def _gate_id(storage: "Storage", place: tuple[str | None, str | None, str | None], named: str) -> str:
    """Return the id of the gate that is set there under this name or id. Raises NotFound, which says what there is."""
    from gateway.admin import gates as admin
    from gateway.model.errors import NotFound
    from gateway.store.database import statement

    async with statement(storage.pool) as connection:
        owner = await _owner(connection, *place)
        placed = await admin.select_placed(connection, storage.vault, owner)
    chosen = [one.setting for one in placed if named in {one.setting.name, one.setting.gate_id}]
    own = [one for one in chosen if one.level is owner.level]
    if own:
        return own[0].gate_id
    if chosen:
        raise NotFound(
            f"The gate {named} is inherited: remove it from its {chosen[0].level}, or turn it off here with gateway "
            f"gates set {place[0] or 'APP'} {chosen[0].kind} --off"
        )
    there = ", ".join(one.setting.name for one in placed) or "none"
    raise NotFound(f"There is no gate {named!r} here; there are: {there}")


async def _owner(connection: "Connection", app: str | None, environment: str | None, project: str | None) -> "Owner":
    from gateway.admin.gates import owner_of
    from gateway.store import applications, projects

    if sum(one is not None for one in (app, environment, project)) != 1:
        raise click.UsageError(_PLACE)
    application_id = await applications.select_application_id(connection, app) if app is not None else None
    project_id = await projects.select_project_id(connection, project) if project is not None else None
    return owner_of(application_id=application_id, environment_id=environment, project_id=project_id)
