"""`gateway demo`."""

import sys

import click

from gateway.cli._runner import command, json_option


@click.command()
@json_option
@command
async def demo(*, as_json: bool) -> None:
    """Push v2 of an application and watch it deployed. Engine, registry, PostgreSQL and gateway are real."""
    from gateway.cli.demo.journey import run

    if not await run(as_json=as_json):
        sys.exit(1)
