"""The gateway itself, as it is reached: over its socket, at its public URL, or from another machine."""

import asyncio
import json
import socket
import ssl
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from http.client import OK, HTTPException
from time import time
from typing import Any

from gateway.cli.checks.clock import compare
from gateway.cli.checks.finding import Finding, failed, ok, warning
from gateway.client.address import Address
from gateway.client.gateway import Gateway
from gateway.client.http import HttpGateway
from gateway.model.errors import GatewayError, NotFound, Unavailable
from gateway.version import VERSION

_PATIENCE = 8.0  # seconds
_LONGEST = 64 * 1024  # bytes of an answer


async def check_gateway(gateway: HttpGateway) -> Sequence[Finding]:
    """Ask a gateway that runs for its health, as it sees it itself."""
    name = "gateway"
    try:
        status, headers, body = await gateway.exchange("GET", f"{gateway.path}/readyz", patience=_PATIENCE)
        state = json.loads(body)
        database = str(state["database"])
    except (ValueError, KeyError, TypeError):
        return [failed(name, f"{gateway.place} does not answer as a gateway does", "Is that its address?")]
    except Unavailable as error:
        return [failed(name, str(error), "Start it, or correct the address; gateway contexts list names those saved.")]
    if status != OK:
        return [failed(name, f"{gateway.place} runs, but takes no pushes: {database}", "See docs/database.md.")]
    version = headers.get("x-gateway-version") or await _version(gateway)
    findings = [_of_version(gateway, version), *_loops(state), *_engines(state)]
    if (sent := headers.get("date")) and not gateway.is_local:
        findings.append(compare("clock of the gateway", parsedate_to_datetime(sent).timestamp(), time()))
    return findings


async def _version(gateway: HttpGateway) -> str | None:
    """Return the version, which an answer to a call tells. Raises Unauthenticated for a key that is not accepted."""
    try:
        await gateway.call("lookup.names", {"applications": "none"})
    except (NotFound, Unavailable):  # an older one has no such call
        return gateway.version
    return gateway.version


def _of_version(gateway: HttpGateway, version: str | None) -> Finding:
    if version in {VERSION, None}:
        return ok("gateway", f"{gateway.place} takes pushes{f', version {version}' if version else ''}")
    remedy = "Update the older one; docs/upgrade.md says which goes first."
    return warning("gateway", f"{gateway.place} is of version {version}, this command line of {VERSION}", remedy)


def _loops(state: Mapping[str, Any]) -> Sequence[Finding]:
    return [
        warning(
            "background task",
            f"{one.get('name')} does not recover, {one.get('failures')} failures: {one.get('about')}",
            "The gateway's log says why.",
        )
        for one in state.get("loops") or ()
    ]


def _engines(state: Mapping[str, Any]) -> Sequence[Finding]:
    findings = []
    for one in state.get("engines") or ():
        name = f"engine {one.get('host')}"
        if one.get("status") == "ok":
            findings.append(ok(name, f"the gateway reaches it, version {one.get('version')}"))
        else:
            remedy = (
                "The line engine of gateway doctor, on the gateway's host, says why."
                if one.get("serverId") is None
                else "docs/servers.md"
            )
            findings.append(failed(name, f"the gateway does not reach it: {one.get('error')}", remedy))
    return findings


async def check_public_url(url: str | None, *, running: bool) -> Sequence[Finding]:
    """Ask for /healthz at the public URL, through whatever proxy is before the gateway."""
    name = "public URL"
    if url is None:
        remedy = "Set GATEWAY_PUBLIC_URL to the URL at which registries reach this gateway, or poll: GATEWAY_RECONCILE."
        return [warning(name, "GATEWAY_PUBLIC_URL is not set: set-up steps cannot show the whole address", remedy)]
    try:
        status, body = await asyncio.to_thread(_get, Address.parse(url), "/healthz")
    except (OSError, HTTPException) as error:
        if not running:
            return [warning(name, f"{url} does not answer, and no gateway runs here", "Start it: gateway serve")]
        return [failed(name, *_why_not(url, error))]
    if status == OK and body.strip().startswith(b"{") and b'"ok"' in body:
        return [ok(name, f"{url}/healthz answers")]
    remedy = "Let the proxy pass all paths to GATEWAY_LISTEN unchanged: docs/proxy.md has a configuration."
    return [failed(name, f"{url}/healthz answers {status}, and not as a gateway does", remedy)]


def _why_not(url: str, error: Exception) -> tuple[str, str]:
    """Return what is wrong, and the remedy."""
    proxy = "Start the proxy or correct GATEWAY_PUBLIC_URL: docs/proxy.md has a configuration."
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = "Registries refuse it too: use a certificate of a public authority, with all its intermediates."
        return f"{url}: the certificate is not trusted: {error.verify_message}", remedy
    if isinstance(error, socket.gaierror):
        return f"{url}: the name does not resolve: {error.strerror}", "Create its DNS record."
    if isinstance(error, TimeoutError):
        return f"{url} does not answer within {_PATIENCE:.0f} seconds", proxy
    return f"{url} does not answer: {getattr(error, 'strerror', None) or error}", proxy


def _get(address: Address, path: str) -> tuple[int, bytes]:
    connection = address.connection(_PATIENCE)
    try:
        connection.request("GET", f"{address.path}{path}", headers={"User-Agent": f"gateway/{VERSION}"})
        answered = connection.getresponse()
        return answered.status, answered.read(_LONGEST)
    finally:
        connection.close()


async def check_logins(gateway: Gateway) -> Sequence[Finding]:
    """Log in to each registry that the gateway has credentials for."""
    found, following = await gateway.page("registry.all", {"limit": 100})
    findings = [await _login(gateway, one) for one in found]
    if following is not None:
        findings.append(warning("login", "only the first 100 were tried", "Test one: gateway registries test NAME"))
    return findings or [ok("login", "no registry has a login")]


async def _login(gateway: Gateway, registry: Mapping[str, Any]) -> Finding:
    name = f"login {registry['registryName']}"
    try:
        async with asyncio.timeout(_PATIENCE):
            await gateway.call("registry.testRegistryById", {"registryId": registry["registryId"]})
    except TimeoutError:
        return failed(name, f"no answer within {_PATIENCE:.0f} seconds", "Is the registry reachable from the gateway?")
    except GatewayError as error:
        return failed(name, str(error), "Correct it: gateway registries --help, docs/registries.md.")
    return ok(name, "the registry accepts it")
