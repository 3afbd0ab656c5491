"""`gateway apps start`, `stop`, `restart`, `delete` and `logs`."""

import sys
from collections.abc import Mapping
from typing import Any

import click

from gateway.cli._completion import names_of
from gateway.cli._errors import FAILED
from gateway.cli._follow import finish_deployment_command, follow_option
from gateway.cli._runner import command, connect, interruptible, json_option, print_json, print_result, print_text
from gateway.model.errors import InvalidInput, NotFound


@click.command()
@click.argument("app", shell_complete=names_of("application"))
@follow_option
@json_option
@command
async def start(app: str, *, follow: bool, as_json: bool) -> None:
    """Start APP, which was stopped. Print the deployment's id."""
    await _change("application.start", app, follow=follow, as_json=as_json)


@click.command()
@click.argument("app", shell_complete=names_of("application"))
@follow_option
@json_option
@command
async def stop(app: str, *, follow: bool, as_json: bool) -> None:
    """Stop APP: pushes deploy nothing until it is started. Print the deployment's id."""
    await _change("application.stop", app, follow=follow, as_json=as_json)


@click.command()
@click.argument("app", shell_complete=names_of("application"))
@follow_option
@json_option
@command
async def restart(app: str, *, follow: bool, as_json: bool) -> None:
    """Replace the container of APP by a new one of its image. Print the deployment's id."""
    await _change("application.reload", app, follow=follow, as_json=as_json)


@click.command()
@click.argument("app", shell_complete=names_of("application"))
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@follow_option
@json_option
@command
async def delete(app: str, *, yes: bool, follow: bool, as_json: bool) -> None:
    """Delete APP with its containers; its volumes stay. Print the deployment's id."""
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise InvalidInput(f"this deletes {app} and its containers: say --yes")
        with interruptible():
            click.confirm(f"Delete {app} and its containers?", abort=True, err=True)
    await _change("application.delete", app, follow=follow, as_json=as_json)


async def _change(procedure: str, app: str, *, follow: bool, as_json: bool) -> None:
    async with connect() as gateway:
        application_id = await gateway.find("application", app)
        answered = await gateway.answer(procedure, {"applicationId": application_id})
        deployment_id = answered.headers.get("x-deployment-id")
        if deployment_id is None:  # it was so already
            _print_done({"applicationId": application_id}, as_json=as_json)
            return
        try:
            await finish_deployment_command(gateway, deployment_id, follow=follow, as_json=as_json)
        except NotFound:  # the application is deleted, and its deployments with it
            if procedure != "application.delete":
                raise
            _print_done({"applicationId": application_id, "deploymentId": deployment_id}, as_json=as_json)


def _print_done(said: dict[str, Any], *, as_json: bool) -> None:
    print_result(said, "done", as_json=as_json)


@click.command()
@click.argument("app", shell_complete=names_of("application"))
@click.option("--tail", type=click.IntRange(1, 10_000), default=100, help="Last lines to print.", show_default=True)
@click.option("--since", default="all", help="Only lines of this age or younger: 90s, 10m, 2h, 7d.")
@click.option("--search", default="", metavar="TEXT", help="Only lines that contain TEXT, in any case.")
@json_option
@command
async def logs(app: str, *, tail: int, since: str, search: str, as_json: bool) -> None:
    """Print the last lines that the containers of APP have written.

    The command exits with 1 where APP has never run.
    """
    async with connect() as gateway:
        application_id = await gateway.find("application", app)
        given = {"applicationId": application_id, "tail": tail, "since": since, "search": search}
        text = await gateway.call("application.readLogs", given)
        found = {} if text else await gateway.call("application.one", {"applicationId": application_id})
    never = bool(found) and not _has_run(found)
    if as_json:
        print_json({"applicationId": application_id, "log": text})
    else:
        print_text(text, end="" if text.endswith("\n") or not text else "\n")
    if found:
        print_text(f"gateway: {_why_empty(found) if never else 'there are no such lines'}", err=True)
    if never:
        sys.exit(FAILED)


def _has_run(found: Mapping[str, Any]) -> bool:
    from gateway.model.deployments import has_run

    return has_run(found["observed"], (one["state"] for one in found["deployments"]))


def _why_empty(found: Mapping[str, Any]) -> str:
    """Return why an application that never ran has no log, and what to do."""
    from gateway.model.deployments import BROUGHT_NOTHING

    name, state = found["name"], found["deploymentState"]
    if state is None:
        return f"{name} was never deployed, so it has no log. Deploy it: gateway deploy {found['appName']} --follow"
    newest = found["deployments"][0]
    show = f"gateway deployments show {newest['deploymentId']}"
    if state in BROUGHT_NOTHING:
        why = "The reason, and the container's last lines" if newest["log"] else "The reason"
        return f"{name} has no log: its deployment failed. {why}: {show}"
    return f"{name} has not run yet, so it has no log. Its last deployment is {state}: {show}"
