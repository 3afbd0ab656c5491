"""`gateway status`."""

import sys
from collections.abc import Mapping
from typing import Any

import click

from gateway.cli._errors import FAILED
from gateway.cli._runner import command, connect, json_option, print_fields, print_json, print_table
from gateway.version import VERSION


@click.command()
@json_option
@command
async def status(*, as_json: bool) -> None:
    """Show which gateway answers, its engines, its queue and the state of its applications.

    The command exits with 1 where no gateway rolls out, or an engine cannot be reached; with 3 where none answers.
    """
    async with connect() as gateway:
        found = await gateway.call("status.one")
        place = gateway.place
    if as_json:
        print_json({**found, "gateway": place, "client": VERSION})
    else:
        _print(found, place)
    if not found["rollsOut"] or any(one["error"] for one in found["engines"]):
        sys.exit(FAILED)


def _print(found: Mapping[str, Any], place: str) -> None:
    states = ", ".join(f"{count} {state}" for state, count in sorted(found["applications"].items()) if count)
    versions = {} if found["version"] == VERSION else {"this command line": VERSION}
    print_fields(
        {
            "gateway": place,
            "version": found["version"],
            **versions,
            "rolls out": "yes" if found["rollsOut"] else "no gateway has reached an engine in the last 30 seconds",
            "running": found["running"],
            "queued": f"{found['queued']}, the oldest for {found['oldestSeconds']:.0f} s" if found["queued"] else 0,
            "at gates": found["waitingAtGates"],
            "applications": states or "none was observed yet",
        }
    )
    if found["engines"]:
        rows = [
            (one["address"], one["engine"], one["version"], one["running"], one["error"] or "ok")
            for one in found["engines"]
        ]
        print_table(["ENGINE", "NAME", "VERSION", "ROLLOUTS", "STATE"], rows)
