"""After a command has queued a deployment: print its id, or wait until it ends."""

import asyncio
import math
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from gateway.cli._runner import print_json, print_text
from gateway.cli.deployments import deployment_row, load_deployment, print_outcome, step_line
from gateway.model.sanitize import safe_line

if TYPE_CHECKING:
    from gateway.model.deployments import Deployment, StepRecord
    from gateway.store.database import Pool

_POLL_INTERVAL = 0.1  # seconds
_PATIENCE = 10.0  # seconds that a deployment waits for a gateway before the command says that none runs
_SILENCE = timedelta(seconds=30)

follow_option = click.option(
    "--follow",
    "-f",
    is_flag=True,
    help="Wait until the deployment ends and print each step; the server must be running.",
)


async def finish_deployment_command(pool: "Pool", deployment_id: str, *, follow: bool, as_json: bool) -> None:
    """Print the id, or with `follow` the outcome; exits with 1 unless the requested version runs then."""
    if not follow:
        if as_json:
            print_json({"deploymentId": deployment_id})
        else:
            print_text(deployment_id)
        return
    found, records = await follow_deployment(pool, deployment_id, quiet=as_json)
    if as_json:
        print_json(deployment_row(found, records))
    else:
        print_outcome(found, [])
    if found.status not in {"succeeded", "unchanged"}:
        sys.exit(1)


async def follow_deployment(pool: "Pool", deployment_id: str, *, quiet: bool) -> "tuple[Deployment, list[StepRecord]]":
    from rich.console import Console
    from rich.status import Status as Spinner
    from rich.text import Text

    from gateway.model.deployments import FINISHED
    from gateway.store import engines
    from gateway.store.database import transaction

    console = Console(stderr=True, quiet=quiet)
    printed, asks_at = 0, asyncio.get_running_loop().time() + _PATIENCE
    with Spinner("queued", console=console) as spinner:
        while True:
            async with transaction(pool) as connection:
                found, records = await load_deployment(connection, deployment_id)
                # A gateway that runs but cannot reach the engine has stored that as the reason.
                now = asyncio.get_running_loop().time()
                if now > asks_at and found.status == "queued" and found.reason is None:
                    asks_at = now + _PATIENCE
                    if not await engines.is_any_reached(connection, _SILENCE):
                        asks_at = math.inf
                        console.print("No gateway seems to run. Start it: gateway serve", highlight=False)
            ended = [record for record in records if record.finished_at is not None]
            for record in ended[printed:]:
                console.print(Text(step_line(record)), highlight=False, soft_wrap=True)
            printed = len(ended)
            if found.status in FINISHED:
                return found, records
            spinner.update(Text(safe_line(_current_step(found, records))))
            await asyncio.sleep(_POLL_INTERVAL)


def _current_step(found: "Deployment", records: "list[StepRecord]") -> str:
    if found.status == "queued":
        return f"queued: {found.reason.message}" if found.reason else "queued"
    return f"{records[-1].step} {records[-1].detail}" if records else "running"
