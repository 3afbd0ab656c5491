"""After a command has begun a deployment or a release: print its id, or wait until it ends."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click

from gateway.cli._errors import CANCELLED, FAILED, SUPERSEDED, UNKNOWN
from gateway.cli._progress import Progress
from gateway.cli._runner import print_error, print_json, print_result
from gateway.cli.deployments import print_outcome, step_line
from gateway.model.errors import GatewayError, NotFound, Throttled, Unavailable

if TYPE_CHECKING:
    from gateway.client import Gateway

_POLL_INTERVAL = 0.2  # seconds
_PATIENCE = 10.0  # seconds until the command asks whether a gateway runs at all
_AWAY = 60.0  # seconds that the gateway or the engine may not answer, as while it restarts

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
    found = await _follow_deployment(gateway, deployment_id, as_json=as_json)
    if as_json:
        print_json(found)
    else:
        print_outcome(found, [])
    code = _EXIT_CODES.get(found["state"], FAILED) if found["state"] in FINISHED else UNKNOWN
    if code:
        sys.exit(code)


async def _follow_deployment(gateway: "Gateway", deployment_id: str, *, as_json: bool) -> dict[str, Any]:
    """Return the deployment once it has ended, or as it is where nobody rolls it out."""
    progress, printed, found = Progress(quiet=as_json), 0, dict[str, Any]()
    states = Followed(gateway, "deployment", deployment_id, progress).states(_engine_away)
    try:
        async with aclosing(states):
            async for found in states:
                ended = [step for step in found["steps"] if step["finishedAt"] is not None]
                for step in ended[printed:]:
                    progress.line(step_line(step))
                printed = len(ended)
                if found["state"] in FINISHED:
                    break
                progress.state(_current_step(found))
    finally:
        progress.close()
    return found


def _engine_away(found: Mapping[str, Any]) -> str | None:
    """Return why the engine does not answer that a deployment waits for, None if it waits for no engine."""
    reason = found["reason"] if found["state"] == "queued" else None
    return reason["message"] if reason is not None and reason["code"] == "engine_unreachable" else None


class Followed:
    """A deployment or release that a command waits for. Its words are those of the procedures and commands."""

    def __init__(self, gateway: "Gateway", kind: str, of: str, progress: Progress) -> None:
        self._gateway, self._kind, self._of, self._progress = gateway, kind, of, progress
        self._clock = asyncio.get_running_loop().time
        self._show = f"gateway {kind}s show {of}"

    async def states(
        self, engine_away: Callable[[Mapping[str, Any]], str | None]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what is known of it, again and again, until nobody rolls it out any more, which is printed.

        `engine_away` tells for what engine it waits that does not answer. Raises NotFound, and Unavailable if its end
        stays unknown.
        """
        asks_at, away_since = self._clock() + _PATIENCE, None
        try:
            while True:
                found = await self._select()
                yield found
                away = engine_away(found)
                away_since = None if away is None else away_since or self._clock()
                if away_since is not None and self._clock() - away_since >= _AWAY:
                    self._end(f"Nobody can roll it out for now: {away}.", "until the engine answers")
                    return
                # A gateway of this host that runs but does not reach its engine has said so as the reason.
                if not self._gateway.runs and away is None and self._clock() > asks_at:
                    asks_at = self._clock() + _PATIENCE
                    if not (await self._gateway.call("status.one"))["rollsOut"]:
                        self._end("No gateway seems to run. Start it: gateway serve.", "until then")
                        return
                await asyncio.sleep(_POLL_INTERVAL)
        except asyncio.CancelledError:
            self._end(f"The {self._kind} goes on.", None)
            raise

    async def _select(self) -> dict[str, Any]:
        """Return it as it is; a gateway that restarts, or has too much to do, is asked again.

        Raises NotFound where it was deleted, Unavailable where it cannot be asked.
        """
        until = self._clock() + _AWAY
        while True:
            try:
                found: dict[str, Any] = await self._gateway.call(f"{self._kind}.one", {f"{self._kind}Id": self._of})
            except NotFound:
                raise
            except GatewayError as error:
                if not isinstance(error, Unavailable | Throttled) or self._clock() > until:
                    raise Unavailable(f"{error}. How the {self._kind} ends is not known: {self._show}") from error
                self._progress.state(f"waits for the gateway: {error}")
                await asyncio.sleep(1)
            else:
                return found

    def _end(self, why: str, waits: str | None) -> None:
        """Say on standard error why the command does not wait any longer."""
        self._progress.close()
        stays = "" if waits is None else f" The {self._kind} waits {waits}."
        print_error(f"{why}{stays} See how it ends: {self._show}", as_json=self._progress.quiet)


def _current_step(found: dict[str, Any]) -> str:
    if found["state"] == "queued":
        if found["reason"]:
            return f"queued: {found['reason']['message']}"
        return f"queued, waits for {found['waitsFor']}" if found["waitsFor"] else "queued"
    last = found["steps"][-1] if found["steps"] else None
    return f"{last['step']} {last['detail']}".rstrip() if last else "running"
