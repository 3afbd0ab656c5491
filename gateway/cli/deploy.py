"""`gateway deploy`."""

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from gateway.cli._command import command, json_option, keep, show
from gateway.cli.deployments import document, print_outcome, read, step_line

if TYPE_CHECKING:
    from gateway.deployments import Deployment, StepRecord
    from gateway.store.database import Pool

_LOOK_AGAIN = 0.1  # seconds


@click.command()
@click.argument("app")
@click.option("--redeploy", is_flag=True, help="Replace the container even where it runs the newest image.")
@click.option("--title", default="Deployed from the command line", help="What to call it.")
@click.option("--follow", "-f", is_flag=True, help="Wait for the end, showing each step; the server must be running.")
@json_option
@command
async def deploy(app: str, *, redeploy: bool, title: str, follow: bool, as_json: bool) -> None:
    """Deploy an application's image as it is now at the registry; APP is its id, container name or name.

    With --follow the exit code is 0 only when what was asked for runs.
    """
    from gateway import dispatch
    from gateway.deployments import Kind
    from gateway.store import applications
    from gateway.store.database import transaction

    async with keep() as kept:
        async with transaction(kept.pool) as connection:
            application_id = await applications.select_application_id(connection, app)
            application = await applications.select_application(connection, kept.vault, application_id)
        kind = Kind.REDEPLOY if redeploy else Kind.DEPLOY
        deployment_id = await dispatch.request_deployment(kept.pool, application, kind, title=title)
        if not follow:
            _tell_queued(deployment_id, as_json=as_json)
            return
        found, records = await _follow(kept.pool, deployment_id, quiet=as_json)
    if as_json:
        show(document(found, records))
    else:
        print_outcome(found, [])
    if found.status not in {"succeeded", "unchanged"}:
        sys.exit(1)


def _tell_queued(deployment_id: str, *, as_json: bool) -> None:
    if as_json:
        show({"deploymentId": deployment_id})
    else:
        click.echo(deployment_id)


async def _follow(pool: "Pool", deployment_id: str, *, quiet: bool) -> "tuple[Deployment, list[StepRecord]]":
    from rich.console import Console
    from rich.status import Status as Spinner

    from gateway.deployments import FINISHED
    from gateway.store.database import transaction

    console = Console(stderr=True, quiet=quiet)
    told = 0
    with Spinner("queued", console=console) as spinner:
        while True:
            async with transaction(pool) as connection:
                found, records = await read(connection, deployment_id)
            ended = [record for record in records if record.finished_at is not None]
            for record in ended[told:]:
                console.print(step_line(record), highlight=False, markup=False)
            told = len(ended)
            if found.status in FINISHED:
                return found, records
            spinner.update(_now(found, records))
            await asyncio.sleep(_LOOK_AGAIN)


def _now(found: "Deployment", records: "list[StepRecord]") -> str:
    if found.status == "queued":
        return f"queued: {found.reason.message}" if found.reason else "queued"
    return f"{records[-1].step} {records[-1].detail}" if records else "running"
