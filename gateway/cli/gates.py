"""`gateway gates`."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from gateway.cli._completion import complete_files, names_of
from gateway.cli._runner import (
    command,
    connect,
    json_option,
    moment,
    print_fields,
    print_json,
    print_result,
    print_table,
    print_text,
    read_secret,
)
from gateway.cli._table import Id
from gateway.model.errors import NotFound
from gateway.model.ids import meant_ids
from gateway.model.sanitize import safe_line

if TYPE_CHECKING:
    from gateway.client import Gateway

_LONGEST_RULE = 120  # characters in a table
_PLACE = "Exactly one of APP, --environment and --project."

environment_option = click.option(
    "--environment",
    metavar="ID",
    help="The gates of an environment, by its id or name.",
    shell_complete=names_of("environment"),
)
project_option = click.option(
    "--project",
    metavar="PROJECT",
    help="The gates of a project, by its id or name.",
    shell_complete=names_of("project"),
)


@click.group()
def gates() -> None:
    """Manage what a deployment must pass before its image is pulled."""


@gates.command("list")
@click.argument("app", required=False, shell_complete=names_of("application"))
@environment_option
@project_option
@json_option
@command
async def list_gates(app: str | None, *, environment: str | None, project: str | None, as_json: bool) -> None:
    """List the gates of APP, with those that it inherits and which apply."""
    async with connect() as gateway:
        owner = await _owner(gateway, app, environment, project)
        found = await gateway.call("gate.all", owner)
    if as_json:
        print_json(found)
        return
    rows = [
        (
            one["name"],
            one["kind"],
            one["level"],
            ("yes" if one["applies"] else "no") + (", required" if one["required"] else ""),
            "on" if one["enabled"] else "off",
            _shorten(json.dumps(one["rule"])),
            Id(one["gateId"]),
        )
        for one in found
    ]
    print_table(["NAME", "KIND", "SET ON", "APPLIES", "SWITCH", "RULE", "ID"], rows)


@gates.command("set")
@click.argument("words", nargs=-1, metavar="[APP] KIND [KEY=VALUE]…", shell_complete=names_of("application"))
@environment_option
@project_option
@click.option("--name", help="Name of the gate; default: its kind.")
@click.option("--rule", "rule_text", metavar="JSON", help="The rule; - is standard input.")
@click.option("--required", is_flag=True, help="Applications can neither replace it nor turn it off.")
@click.option(
    "--off", is_flag=True, help="Turn off the gate of this name, also an inherited one, until it is set again."
)
@click.option(
    "--secret-file",
    metavar="FILE",
    help="Read what the rule needs and must not show from FILE; - is standard input.",
    shell_complete=complete_files,
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
    app, kind, pairs = _split(words, elsewhere=environment is not None or project is not None)
    rule = _rule(rule_text, pairs)
    secret = read_secret(secret_file)
    async with connect() as gateway:
        owner = await _owner(gateway, app, environment, project)
        placed = await gateway.call("gate.all", owner)
        there = [one for one in placed if one["name"] == (name or kind) and one["level"] == _level(owner)]
        given: dict[str, Any] = {"rule": rule, "enabled": not off, "required": required}
        if secret is not None:
            given["secret"] = secret
        if there and there[0]["kind"] == kind:
            made = await gateway.call("gate.update", {"gateId": there[0]["gateId"], **given})
            made["secret"] = None
        else:
            made = await gateway.call("gate.create", {**owner, "kind": kind, "name": name, **given})
    if as_json:
        print_json(made)
    elif made["secret"] is not None:
        print_fields({"gate": made["gateId"], "secret, shown once": made["secret"]})
    else:
        print_text(made["gateId"])


def _level(owner: Mapping[str, str]) -> str:
    """Return the level of the gates that are set there."""
    return next(iter(owner)).removesuffix("Id")


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
@click.argument("words", nargs=-1, metavar="[APP] GATE", shell_complete=names_of("application"))
@environment_option
@project_option
@json_option
@command
async def remove(words: Sequence[str], *, environment: str | None, project: str | None, as_json: bool) -> None:
    """Remove a GATE of APP, or of an environment or a project, by its name or id. An id needs no place.

    Deployments that wait at it are asked anew. An inherited gate is removed where it is set.
    """
    *apps, gate = words or ("",)
    if not gate or len(apps) > 1:
        raise click.UsageError("Name the gate: gateway gates remove [APP] GATE")
    async with connect() as gateway:
        if apps or environment is not None or project is not None:
            app = apps[0] if apps else None
            owner = await _owner(gateway, app, environment, project)
            gate_id = await _gate_id(gateway, owner, app, gate)
        else:
            gate_id = await gateway.find("gate", gate)
        removed = await gateway.call("gate.remove", {"gateId": gate_id})
    print_result(removed, f"removed {removed['name']}", as_json=as_json)


@gates.command()
@click.argument("app", shell_complete=names_of("application"))
@click.argument("image", required=False)
@json_option
@command
async def check(app: str, image: str | None, *, as_json: bool) -> None:
    """Ask the gates of APP about IMAGE, by default its own, without deploying.

    The command exits with 1 when a gate refuses, with 3 when one cannot tell.
    """
    async with connect() as gateway:
        application_id = await gateway.find("application", app)
        row = await gateway.call("gate.check", {"applicationId": application_id, "image": image})
    if as_json:
        print_json(row)
    else:
        print_text(f"{row['image']}: {row['verdict']}")
        for one in row["gates"]:
            print_text(f"  {one['name']}: {one['verdict']}, {safe_line(one['message'])}")
            if one["verdict"] != "passed":
                print_text(f"    {one['remedy']}")
    click.get_current_context().exit({"refused": 1, "unknown": 3}.get(row["verdict"], 0))


@gates.command("next")
@click.argument("app", shell_complete=names_of("application"))
@json_option
@command
async def next_opening(app: str, *, as_json: bool) -> None:
    """Show when the gates of APP about time open."""
    async with connect() as gateway:
        row = await gateway.call("gate.next", {"applicationId": await gateway.find("application", app)})
    if as_json:
        print_json(row)
        return
    found = row["gates"]
    fields: dict[str, object] = {
        one["name"]: "open" if one["open"] else moment(one["opensAt"]) or "never opens" for one in found
    }
    if not found:
        print_text("no gate of this application is about time")
        return
    together = "now" if all(one["open"] for one in found) else moment(row["opensAt"]) or "never"
    print_fields(fields | {"deployments go out": together})


@gates.command()
@click.argument("deployment", shell_complete=names_of("deployment"))
@click.argument("gate")
@click.option("--reason", required=True, help="Why; it is kept in the audit.")
@json_option
@command
async def override(deployment: str, gate: str, *, reason: str, as_json: bool) -> None:
    """Let one DEPLOYMENT pass one GATE, by its name, its id or the beginning of its id.

    It holds for the image that the gate was asked about. If the gate has ended the deployment, one that does the same
    is queued. Print the id of the one that may pass.
    """
    async with connect() as gateway:
        deployment_id = await gateway.find("deployment", deployment)
        passes = await gateway.call("gate.override", {"deploymentId": deployment_id, "name": gate, "reason": reason})
    print_result(passes, passes["deploymentId"], as_json=as_json)


@gates.command()
@click.argument("deployment", shell_complete=names_of("deployment"))
@json_option
@command
async def report(deployment: str, *, as_json: bool) -> None:
    """Print the last report of a vulnerability scanner on the image of DEPLOYMENT, as JSON."""
    _ = as_json  # it is JSON in any case
    async with connect() as gateway:
        deployment_id = await gateway.find("deployment", deployment)
        found = await gateway.call("gate.report", {"deploymentId": deployment_id})
    # Foreign text: in ASCII, and with the one control character escaped that JSON leaves as it is.
    print_text(json.dumps(found, indent=2).replace("\x7f", "\\u007f"))


async def _gate_id(gateway: "Gateway", owner: Mapping[str, str], app: str | None, named: str) -> str:
    """Return the id of the gate that is set there under this name or id. Raises NotFound, which says what there is."""
    placed = await gateway.call("gate.all", owner)
    ids = meant_ids(named, ((one["gateId"], one["name"]) for one in placed))
    chosen = [one for one in placed if one["gateId"] in ids]
    own = [one for one in chosen if one["level"] == _level(owner)]
    if own:
        return str(own[0]["gateId"])
    if chosen:
        place = app or "APP"
        raise NotFound(
            f"The gate {named} is inherited: remove it from its {chosen[0]['level']}, or turn it off here with gateway "
            f"gates set {place} {chosen[0]['kind']} --off"
        )
    there = ", ".join(one["name"] for one in placed) or "none"
    raise NotFound(f"There is no gate {named!r} here; there are: {there}")


async def _owner(gateway: "Gateway", app: str | None, environment: str | None, project: str | None) -> dict[str, str]:
    """Return the input that names the place. Raises UsageError unless exactly one is named, NotFound."""
    if sum(one is not None for one in (app, environment, project)) != 1:
        raise click.UsageError(_PLACE)
    if app is not None:
        return {"applicationId": await gateway.find("application", app)}
    if environment is not None:
        return {"environmentId": await gateway.find("environment", environment)}
    return {"projectId": await gateway.find("project", project or "")}
