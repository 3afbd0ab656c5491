"""`gateway demo`."""

import sys

import click

from gateway.cli._runner import command, connect, json_option, plain_json_option, print_result

_port_option = click.option(
    "--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port of the registry."
)


@click.group(invoke_without_command=True)
@click.pass_context
@plain_json_option
def demo(context: click.Context, *, as_json: bool) -> None:
    """Push v2 of an application and watch it deployed. Engine, registry, PostgreSQL and gateway are real.

    `gateway demo registry` starts a registry for trying out a gateway that runs.
    """
    if context.invoked_subcommand is None:
        _run(as_json=as_json)


@command
async def _run(*, as_json: bool) -> None:
    from gateway.cli.demo.journey import run

    if not await run(as_json=as_json):
        sys.exit(1)


@demo.command("registry")
@_port_option
@click.option("--stop", is_flag=True, help="End it, and remove its images and its webhook.")
@json_option
@command
async def start_registry(*, port: int, stop: bool, as_json: bool) -> None:
    """Start a registry on this host which reports pushes to the gateway. Print the name of an image on it.

    It stays until --stop. The image serves v1 on port 8080; push other versions with gateway demo push.
    """
    from gateway.cli.demo.try_registry import TryRegistry

    chosen = TryRegistry(port)
    async with connect() as gateway:
        if stop:
            found = await chosen.stop(gateway)
            print_result({"stopped": found}, "stopped" if found else "there is none", as_json=as_json)
            return
        await chosen.start(gateway)
    print_result({"image": chosen.image}, chosen.image, as_json=as_json)


@demo.command("push")
@click.argument("version")
@click.option("--broken", is_flag=True, help="Push one that exits as soon as it starts.")
@_port_option
@plain_json_option
@command
async def push_version(version: str, *, broken: bool, port: int, as_json: bool) -> None:
    """Push VERSION, a word that the image then serves, to the registry of `gateway demo registry`."""
    from gateway.cli.demo.try_registry import TryRegistry

    chosen = TryRegistry(port)
    await chosen.push(version, broken=broken)
    print_result({"image": chosen.image, "version": version}, f"pushed {version} as {chosen.image}", as_json=as_json)
