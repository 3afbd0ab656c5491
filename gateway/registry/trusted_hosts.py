"""Where a registry may send whoever asks it: for a token, with a login; on to another address, without.

A registry names any address it likes. A login goes to hosts that are bound to the registry, and nobody is sent to a
private address but by a registry that is on one itself.
"""

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from yarl import URL

from gateway.model.errors import Code, Failed
from gateway.model.reference import DOCKER_HUB, Domain

Address = IPv4Address | IPv6Address

#: where Docker Hub answers
HUB_HOST = "registry-1.docker.io"

# Whose token services are another's: of the registry, and of the service.
_KIN = frozenset({("scw.cloud", "scaleway.com"), ("dhi.io", "docker.io")})
# Below these everybody may have a name: of https://publicsuffix.org those that registries are found at.
_SHARED = frozenset(
    {
        "amazonaws.com", "amazonaws.com.cn", "azurecr.io", "azurewebsites.net", "cloudapp.azure.com", "cloudfront.net",
        "appspot.com", "run.app", "web.app", "github.io", "gitlab.io", "pages.dev", "workers.dev", "herokuapp.com",
        "vercel.app", "netlify.app", "onrender.com", "fly.dev", "ngrok.io", "ngrok.app", "ngrok-free.app", "ts.net",
        "trycloudflare.com", "duckdns.org", "dyndns.org", "no-ip.org", "ddns.net", "nip.io", "sslip.io", "jfrog.io",
        "eu.org", "github.dev", "gitpod.io", "digitaloceanspaces.com", "ondigitalocean.app",
    }
)  # fmt: skip
_SECOND = frozenset({"ac", "co", "com", "edu", "go", "gob", "gov", "net", "ne", "or", "org"})
_COUNTRY = 2  # letters


def site(host: str) -> str:
    """Return the part of a name that one owner has, an address or a single word as it is.

    >>> site("auth.docker.io"), site("registry.example.co.uk"), site("a.github.io"), site("10.0.0.1")
    ('docker.io', 'example.co.uk', 'a.github.io', '10.0.0.1')
    """
    labels = host.lower().rstrip(".").split(".")
    if _literal(host) is not None or len(labels) == 1:
        return host.lower()
    for length in range(len(labels) - 1, 1, -1):
        if ".".join(labels[-length:]) in _SHARED:
            return ".".join(labels[-length - 1 :])
    double = len(labels[-1]) == _COUNTRY and labels[-2] in _SECOND
    return ".".join(labels[-3 if double else -2 :])


def bound(realm: str, registry: str) -> bool:
    """Tell whether both hosts are one owner's."""
    return realm.lower() == registry.lower() or site(realm) == site(registry) or (site(registry), site(realm)) in _KIN


class Realms:
    """Judges addresses that registries name; `trusted` are hosts that the operator named for it."""

    def __init__(self, trusted: Iterable[str], insecure: Iterable[Domain]) -> None:
        self._trusted = frozenset(host.lower() for host in trusted)
        self._insecure = frozenset(insecure)

    async def refuse_realm(self, realm: URL, registry: Domain, *, plain: bool, login: bool) -> None:
        """Raises Failed unless a token may be asked for there; `plain`: the registry itself may be without TLS."""
        host, own = realm.host or "", host_of(registry)
        if self._is_named(realm):
            return
        same = host.lower() == own.lower()
        if realm.scheme != "https" and not (same and plain):
            raise Failed(
                Code.DENIED,
                f"{registry} asks for the login at {_shown(realm)}, without TLS: let it name an https address, or name "
                f"{realm.authority} in GATEWAY_INSECURE_REGISTRIES where that is meant",
            )
        if same:
            return
        within = await self._refuse_private(realm, registry)
        # In a private network that both are in, whoever runs it has given both their names.
        if login and not bound(host, own) and not within:
            raise Failed(
                Code.DENIED,
                f"{registry} asks for the login at {_shown(realm)}, which is not known to be its own: the login was "
                f"not sent; name {host} in GATEWAY_TOKEN_HOSTS where that is meant",
            )

    async def refuse_other(self, address: URL, registry: Domain) -> None:
        """Raises Failed where a registry sends on to an address that it may not name."""
        if not self._is_named(address) and (address.host or "").lower() != host_of(registry).lower():
            await self._refuse_private(address, registry)

    def _is_named(self, address: URL) -> bool:
        return (address.host or "").lower() in self._trusted or Domain(address.authority.lower()) in self._insecure

    async def _refuse_private(self, address: URL, registry: Domain) -> bool:
        """Tell whether it is private; raises Failed where the registry is not there too."""
        there = await _resolve(address.host or "", address.port)
        if all(one.is_global for one in there):
            return False
        here = await _resolve(host_of(registry), None)
        for one in there - here:
            if not one.is_global and not any(_near(one, other) for other in here):
                raise Failed(
                    Code.DENIED,
                    f"{registry} sends us to {_shown(address)}, of a private network that it is not in itself",
                )
        return not any(one.is_global for one in here)


def host_of(registry: Domain) -> str:
    """Return the host at which a registry is asked."""
    return HUB_HOST if registry == DOCKER_HUB else URL(f"//{registry}").host or ""


def _near(one: Address, other: Address) -> bool:
    """Tell whether a registry at `other` may name `one`: each host's own addresses, and links, are nobody else's."""
    if one.is_loopback or one.is_link_local or one.is_unspecified or one.is_multicast:
        return one.is_loopback and other.is_loopback
    return not other.is_global


async def _resolve(host: str, port: int | None) -> frozenset[Address]:
    """Return what the name stands for; raises OSError."""
    if (literal := _literal(host)) is not None:
        return frozenset({literal})
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return frozenset(_plain(ip_address(str(one[4][0]).partition("%")[0])) for one in found)


def _literal(host: str) -> Address | None:
    try:
        return _plain(ip_address(host.strip("[]")))
    except ValueError:
        return None


def _plain(address: Address) -> Address:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _shown(address: URL) -> str:
    return f"{address.scheme}://{address.authority}"[:300]
