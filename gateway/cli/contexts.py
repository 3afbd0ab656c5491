"""`gateway login`, `gateway logout` and `gateway contexts`: the gateways that this user has a key of."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from gateway.cli._completion import complete_contexts
from gateway.cli._runner import (
    command,
    interruptible,
    plain_json_option,
    print_json,
    print_result,
    print_table,
    print_text,
)
from gateway.model.errors import InvalidInput, NotFound, Unavailable

if TYPE_CHECKING:
    from gateway.client.address import Address

_LONGEST_KEY = 1000  # characters


@click.command()
@click.argument("url")
@click.option("--name", help="Name of the context; default: the URL's host, with its port unless it is the usual one.")
@plain_json_option
@command
async def login(url: str, *, name: str | None, as_json: bool) -> None:
    """Use the gateway at URL from now on. Its API key is asked for, or read from standard input.

    URL is the gateway's address, or that of a page of its dashboard.

    The key is checked, and kept in a file that only you can read, in your configuration directory. For example:
    ssh host gateway keys create laptop | gateway login https://gateway.example.com
    """
    from gateway.client.address import Address
    from gateway.client.choose import valid_key
    from gateway.client.saved import SavedGateway, SavedGateways

    addresses = Address.candidates(url)
    saved = SavedGateways.load(os.environ)
    first = addresses[0]
    if first.is_readable_by_others:
        print_text(f"gateway: the key travels to {first} without encryption: others on the way can read it", err=True)
    given = SavedGateway(name or first.authority, first, valid_key(_read_key(), "standard input"))
    saved.with_gateway(given)  # a bad name is reported before anything is requested
    address, version = await _greet(addresses, given.key)
    changed = saved.with_gateway(replace(given, address=address))
    changed.save()
    former = saved.gateways.get(given.name)
    if former is not None and former.address != address:
        print_text(
            f"gateway: the context {given.name} was {former.address} until now, and its key is forgotten; to keep "
            f"both, log in there again with another name: gateway login {former.address} --name NAME",
            err=True,
        )
    print_result(
        {"context": given.name, "url": str(address), "version": version},
        f"logged in to {address} as context {given.name}; the key is in {changed.path}",
        as_json=as_json,
    )


async def _greet(addresses: Sequence["Address"], key: str) -> tuple["Address", str | None]:
    """Return the first of these addresses, all of one host, where a gateway takes the key, and its version.

    Raises GatewayError.
    """
    from gateway.client.http import HttpGateway

    for address in addresses:
        gateway = HttpGateway.at(address, key, command="login")
        try:
            answered = await gateway.call("settings.health")
        except NotFound:
            continue
        finally:
            gateway.close()
        if not isinstance(answered, dict) or "status" not in answered:
            raise Unavailable(f"{gateway.place} answers, but not as a gateway does: is it one?")
        return address, gateway.version
    tried = " and ".join(map(str, addresses))
    raise NotFound(f"There is no gateway at {tried}. Give the address without a path, for example {addresses[0].root}")


def _read_key() -> str:
    with interruptible():
        if sys.stdin.isatty():
            return str(click.prompt("API key", hide_input=True, err=True))
        return sys.stdin.read(_LONGEST_KEY + 1)


@click.command()
@click.argument("name", required=False, shell_complete=complete_contexts)
@plain_json_option
@command
async def logout(name: str | None, *, as_json: bool) -> None:
    """Forget the key of the context NAME, by default of the current one. The key itself stays valid: revoke it."""
    from gateway.client.saved import SavedGateways

    saved = SavedGateways.load(os.environ)
    chosen = name or saved.current
    if chosen is None:
        raise InvalidInput("no context is current: name one; see: gateway contexts list")
    saved.without(chosen).save()
    print_result({"forgotten": chosen}, f"forgot {chosen}", as_json=as_json)


@click.group()
def contexts() -> None:
    """Choose between the gateways that you have logged in to."""


@contexts.command("list")
@plain_json_option
@command
async def list_contexts(*, as_json: bool) -> None:
    """List the gateways that you have logged in to, without their keys."""
    from gateway.client.saved import SavedGateways

    saved = SavedGateways.load(os.environ)
    found = sorted(saved.gateways.values(), key=lambda one: one.name)
    if as_json:
        print_json([{"name": one.name, "url": str(one.address), "current": one.name == saved.current} for one in found])
    else:
        rows = [("*" if one.name == saved.current else "", one.name, str(one.address)) for one in found]
        print_table(["CURRENT", "NAME", "URL"], rows)


@contexts.command()
@click.argument("name", shell_complete=complete_contexts)
@plain_json_option
@command
async def use(name: str, *, as_json: bool) -> None:
    """Make NAME the context that commands use."""
    from gateway.client.saved import SavedGateways

    SavedGateways.load(os.environ).using(name).save()
    print_result({"current": name}, f"commands use {name}", as_json=as_json)


@contexts.command()
@plain_json_option
@command
async def leave(*, as_json: bool) -> None:
    """Use no context: commands ask the gateway on this host. The keys stay."""
    from gateway.client.saved import SavedGateways

    replace(SavedGateways.load(os.environ), current=None).save()
    print_result({"current": None}, "commands use the gateway on this host", as_json=as_json)
