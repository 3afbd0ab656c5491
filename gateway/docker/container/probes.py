"""Runs an application's probe against its published port, or its container's own address."""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from typing import Any

import aiohttp

from gateway.docker.engine.client import Engine, checked_name
from gateway.docker.engine.containers import Container
from gateway.model.errors import Code, Failed, Reason
from gateway.model.health_checks import Probe

_BODY_SHOWN = 200  # characters of a failing response to show
_ROUTED_DEADLINE = 3.0  # seconds


class _Unreachable(Exception):
    """No connection was possible."""


async def run(engine: Engine, container: Container, probe: Probe) -> Reason | None:
    """Run the probe once. Return why it fails, or None."""
    failure: str | None = f"neither a published port nor an address of its own leads to port {probe.port} from here"
    for host, port in _addresses(engine, container, probe):
        try:
            failure = await (_try_tcp(host, port, probe) if probe.type == "tcp" else _try_http(host, port, probe))
        except _Unreachable as error:
            failure = str(error)
        else:
            break
    return None if failure is None else Reason(Code.UNHEALTHY, f"{container.name} fails its probe: {failure}")


def _addresses(engine: Engine, container: Container, probe: Probe) -> list[tuple[str, int]]:
    """Return the addresses of the probe's port, to be tried in this order until one accepts a connection."""
    here = _is_loopback(engine.address)
    if published := container.published.get(probe.port):
        host, port = published
        if host not in {"", "0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
            # A loopback address of another host is not reachable.
            return [(host, port)] if here or not _is_loopback(host) else []
        # A gateway in a container reaches published ports at the host's address on the container's networks.
        return [(address, port) for address in (engine.address, *(container.gateways if here else ()))]
    if "host" in container.aliases:
        return [(engine.address, probe.port)]
    # On another host, the same address can belong to another container.
    return [(address, probe.port) for address in container.addresses[:1] if here]


async def _try_tcp(host: str, port: int, probe: Probe) -> str | None:
    try:
        async with asyncio.timeout(probe.timeout):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
    except TimeoutError:
        return f"no connection to {host}:{port} in {probe.timeout:g} s"
    except OSError as error:
        raise _Unreachable(f"no connection to {host}:{port}: {error.strerror or error}") from error
    return None


async def _try_http(host: str, port: int, probe: Probe) -> str | None:
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}{probe.path or '/'}"
    timeout = aiohttp.ClientTimeout(total=probe.timeout)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            if probe.accepts(answer.status):
                return None
            text = (await answer.content.read(_BODY_SHOWN)).decode(errors="replace").strip()
            return f"GET {url} answered {answer.status}{f': {text}' if text else ''}"
    except TimeoutError:
        return f"GET {url} was not answered in {probe.timeout:g} s"
    except aiohttp.ClientConnectorError as error:
        raise _Unreachable(f"GET {url} failed: {error}") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return f"GET {url} failed: {error}"


async def containers_reachable(engine: Engine, networks: Iterable[str]) -> bool:
    """Return whether containers on the first of these networks, or on the default one, are reachable from here.

    That is so when the engine runs on this host and its bridge has an address of this host. A rootless engine has a
    network of its own, whose addresses may be the same as those of another engine here. Raises Failed and Postponed.
    """
    if not _is_loopback(engine.address) or await _is_rootless(engine):
        return False
    network = next(iter(networks), "bridge")
    if network == "host":
        return True
    try:
        found = await engine.call("GET", f"networks/{checked_name(network)}", deadline=_ROUTED_DEADLINE)
    except Failed:
        return True  # the network does not exist yet; the rollout reports that
    return any(map(is_local_address, _gateways(found)))


async def _is_rootless(engine: Engine) -> bool:
    info = await engine.call("GET", "info", deadline=_ROUTED_DEADLINE)
    return "name=rootless" in (info.get("SecurityOptions") or ())


async def shares_host(engine: Engine) -> bool:
    """Return whether the engine publishes ports on the gateway's own host. Raises Failed and Postponed.

    That is so when the default bridge has an address of this host.
    """
    if not _is_loopback(engine.address):
        return False
    try:
        found = await engine.call("GET", "networks/bridge", deadline=_ROUTED_DEADLINE)
    except Failed:
        return False
    gateways = _gateways(found)
    return bool(gateways) and all(map(is_local_address, gateways))


def _gateways(network: Mapping[str, Any]) -> list[str]:
    """Return the bridge's addresses. A new engine's default bridge names only its subnet."""
    return [found for config in network["IPAM"]["Config"] or () if (found := _gateway(config))]


def _gateway(config: Mapping[str, str]) -> str | None:
    if gateway := config.get("Gateway"):
        return gateway
    subnet = config.get("Subnet")
    return str(next(ipaddress.ip_network(subnet).hosts())) if subnet else None


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def is_local_address(address: str) -> bool:
    """Return whether this host has the address, that is, whether it can be bound."""
    bare = address.partition("/")[0]
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as one:
            one.bind((bare, 0))
    except OSError as error:
        return error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
    return True
