"""`gateway doctor`."""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from gateway.cli._runner import command, connect, json_option, print_json, print_text, wanted_of

if TYPE_CHECKING:
    from gateway.cli.checks.finding import Finding


@click.command()
@click.option("--logins", is_flag=True, help="Also log in to each registry that has credentials here.")
@json_option
@command
async def doctor(*, logins: bool, as_json: bool) -> None:
    """Say what a gateway lacks, and the cure: settings, engine, database, clocks, disks, public URL.

    It works with and without a running gateway, and changes nothing. Exit code 1 if a check fails; a warning is no
    failure. With GATEWAY_URL or --context, only what can be seen from here is checked.
    """
    from gateway.cli import _logging
    from gateway.cli.checks.finding import Status, worst

    _logging.configure("warning", "text")
    findings = await _findings(os.environ, logins=logins)
    status = worst(findings)
    if as_json:
        print_json({"status": status, "checks": [one.to_json() for one in findings]})
    else:
        width = max(len(one.name) for one in findings)
        for one in findings:
            print_text(f"{one.status:<7}  {one.name:<{width}}  {one.text}")
    if status is Status.FAILED:
        sys.exit(1)


async def _findings(environ: Mapping[str, str], *, logins: bool) -> "Sequence[Finding]":
    from gateway.cli.checks.finding import failed, run
    from gateway.cli.checks.reach import check_gateway
    from gateway.client.choose import find_gateway
    from gateway.model.errors import GatewayError

    gateway = None
    findings: list[Finding] = []
    try:
        gateway = await find_gateway(wanted_of(click.get_current_context()), environ)
    except GatewayError as error:
        findings.append(failed("gateway", str(error), "Say which gateway is meant: docs/cli.md."))
    try:
        if gateway is not None:
            findings.extend(await run("gateway", partial(check_gateway, gateway)))
        if gateway is None or gateway.is_local:
            findings.extend(await _of_this_host(environ, running=gateway is not None))
    finally:
        if gateway is not None:
            gateway.close()
    if logins:
        findings.extend(await run("login", _logins, deadline=60.0))
    return findings


async def _of_this_host(environ: Mapping[str, str], *, running: bool) -> "Sequence[Finding]":
    """Check the installation of this host. What does not need each other is checked at the same time."""
    from gateway import installation
    from gateway.cli.checks import database, engine, host, reach
    from gateway.cli.checks.finding import run

    settings, findings = host.read_settings(environ)
    if settings is None:
        return findings
    of_engine = engine.EngineFindings()
    if (of_machine := installation.machine_directory(environ)) is not None:
        findings = [host.check_service(of_machine, running=running)]
        settings = settings.model_copy(update={"data_dir": of_machine})

    async def on_host() -> "Sequence[Finding]":
        if of_machine is not None:
            return [host.check_disk(settings), host.check_listener(settings, running=running)]
        checks = (host.check_data_directory, host.check_master_key, host.check_disk)
        return [*(check(settings) for check in checks), host.check_listener(settings, running=running)]

    async def at_engine() -> "Sequence[Finding]":
        await engine.check_engine(settings.docker_host, of_engine)
        return of_engine.findings

    checks = [run("host", on_host), run("engine", at_engine, deadline=40.0)]
    if of_machine is None:  # else the database and the URL are in the settings of its service
        of_database = partial(database.check_database, settings, running=running)
        of_url = partial(reach.check_public_url, settings.public_url, running=running)
        checks += [run("database", of_database, deadline=40.0), run("public URL", of_url, deadline=20.0)]
    found = await asyncio.gather(*checks)
    proxies = host.check_proxies(environ, of_engine.facts)
    return [*findings, *(one for several in found for one in several), proxies]


async def _logins() -> "Sequence[Finding]":
    from gateway.cli.checks.reach import check_logins

    async with connect() as gateway:
        return await check_logins(gateway)
