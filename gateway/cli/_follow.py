"""After a command has queued a deployment: print its id, or wait until it ends."""

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from gateway.cli._errors import CANCELLED, FAILED, SUPERSEDED, UNKNOWN
from gateway.cli._progress import Progress
from gateway.cli._runner import print_json, print_result, print_text
from gateway.cli.deployments import print_outcome, step_line
from gateway.model.errors import Unavailable

if TYPE_CHECKING:
    from gateway.client import Gateway

_POLL_INTERVAL = 0.2  # seconds
_PATIENCE = 10.0  # seconds that a deployment waits until the command asks whether a gateway runs at all
_AWAY = 60.0  # seconds that the gateway may not answer, as while it restarts

FINISHED = frozenset({"succeeded", "unchanged", "failed", "rolled_back", "superseded", "cancelled"})
#: how a command ends that waited for a deployment; see docs/cli.md
_EXIT_CODES = {"succeeded": 0, "unchanged": 0, "superseded": SUPERSEDED, "cancelled": CANCELLED}

follow_option = click.option(
    "--follow",
    "-f",
    is_flag=True,
    help="Wait until the deployment ends and print each step; the exit code tells how it ended.",
)


async def finish_deployment_command(gateway: "Gateway", deployment_id: str, *, follow: bool, as_json: bool) -> None:
    """Print the id, or with `follow` the outcome; exits with 0 only if the requested version runs then."""
    if not follow:
        print_result({"deploymentId": deployment_id}, deployment_id, as_json=as_json)
        return
    found = await follow_deployment(gateway, deployment_id, quiet=as_json)
    if as_json:
        print_json(found)
    else:
        print_outcome(found, [])
    code = _EXIT_CODES.get(found["state"], FAILED) if found["state"] in FINISHED else UNKNOWN
    if code:
        sys.exit(code)


async def follow_deployment(gateway: "Gateway", deployment_id: str, *, quiet: bool) -> dict[str, Any]:
    """Return the deployment once it has ended, or as it is where no gateway runs that could roll it out."""
    progress, printed = Progress(quiet=quiet), 0
    clock = asyncio.get_running_loop().time
    asks_at = clock() + _PATIENCE
    try:
        while True:
            found = await _select(gateway, deployment_id, progress)
            ended = [step for step in found["steps"] if step["finishedAt"] is not None]
            for step in ended[printed:]:
                progress.line(step_line(step))
            printed = len(ended)
            if found["state"] in FINISHED:
                return found
            # A gateway that runs but cannot reach the engine has stored that as the reason.
            if not gateway.runs and clock() > asks_at and found["state"] == "queued" and found["reason"] is None:
                asks_at = clock() + _PATIENCE
                if not (await gateway.call("status.one"))["rollsOut"]:
                    progress.close()
                    print_text(
                        "No gateway seems to run. Start it: gateway serve. The deployment stays queued until then.",
                        err=True,
                    )
                    return found
            progress.state(_current_step(found))
            await asyncio.sleep(_POLL_INTERVAL)
    finally:
        progress.close()


async def _select(gateway: "Gateway", deployment_id: str, progress: Progress) -> dict[str, Any]:
    """Return the deployment; a gateway that restarts is asked again. Raises Unavailable if it stays away."""
    clock = asyncio.get_running_loop().time
    until = clock() + _AWAY
    while True:
        try:
            found: dict[str, Any] = await gateway.call("deployment.one", {"deploymentId": deployment_id})
        except Unavailable as error:
            if clock() > until:
                raise Unavailable(
                    f"{error}. How the deployment ends is not known: gateway deployments show {deployment_id}"
                ) from error
            progress.state(f"waits for the gateway: {error}")
            await asyncio.sleep(1)
        else:
            return found


def _current_step(found: dict[str, Any]) -> str:
    if found["state"] == "queued":
        reason = found["reason"]["message"] if found["reason"] else found["waitsFor"]
        return f"queued: {reason}" if reason else "queued"
    last = found["steps"][-1] if found["steps"] else None
    return f"{last['step']} {last['detail']}".rstrip() if last else "running"
