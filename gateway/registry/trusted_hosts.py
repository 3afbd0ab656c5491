"""Check the addresses to which registries direct the client: token services, and redirects.

A registry can name any address. The client sends a login only to hosts of the registry's owner, and requests a private
address only for a registry that is itself on one. The registry's own host is trusted with each of its ports.
"""

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from yarl import URL

from gateway.model.errors import Code, Failed
from gateway.model.reference import DOCKER_HUB, Domain

Address = IPv4Address | IPv6Address

#: the host of Docker Hub's registry API
HUB_HOST = "registry-1.docker.io"

# Registries whose token service has another domain: (registry, token service).
_RELATED = frozenset({("scw.cloud", "scaleway.com"), ("dhi.io", "docker.io")})
# Domains below which anybody can have a name: those of https://publicsuffix.org that registries use.
_PUBLIC_SUFFIXES = frozenset(
    {
        "amazonaws.com", "amazonaws.com.cn", "azurecr.io", "azurewebsites.net", "cloudapp.azure.com", "cloudfront.net",
        "appspot.com", "run.app", "web.app", "github.io", "gitlab.io", "pages.dev", "workers.dev", "herokuapp.com",
        "vercel.app", "netlify.app", "onrender.com", "fly.dev", "ngrok.io", "ngrok.app", "ngrok-free.app", "ts.net",
        "trycloudflare.com", "duckdns.org", "dyndns.org", "no-ip.org", "ddns.net", "nip.io", "sslip.io", "jfrog.io",
        "eu.org", "github.dev", "gitpod.io", "digitaloceanspaces.com", "ondigitalocean.app",
    }
)  # fmt: skip
_SECOND_LEVEL = frozenset({"ac", "co", "com", "edu", "go", "gob", "gov", "net", "ne", "or", "org"})
_COUNTRY = 2  # letters


def registrable_domain(host: str) -> str:
    """Return the part of a host name that one owner has registered; an IP address or a single label unchanged.

    >>> [registrable_domain(host) for host in ("auth.docker.io", "reg.example.co.uk", "a.github.io", "10.0.0.1")]
    ['docker.io', 'example.co.uk', 'a.github.io', '10.0.0.1']
    """
    labels = host.lower().rstrip(".").split(".")
    if _parse_address(host) is not None or len(labels) == 1:
        return host.lower()
    for length in range(len(labels) - 1, 1, -1):
        if ".".join(labels[-length:]) in _PUBLIC_SUFFIXES:
            return ".".join(labels[-length - 1 :])
    double = len(labels[-1]) == _COUNTRY and labels[-2] in _SECOND_LEVEL
    return ".".join(labels[-3 if double else -2 :])


def same_owner(realm: str, registry: str) -> bool:
    """Tell whether both hosts belong to one owner."""
    return (
        realm.lower() == registry.lower()
        or registrable_domain(realm) == registrable_domain(registry)
        or (registrable_domain(registry), registrable_domain(realm)) in _RELATED
    )


class TrustedHosts:
    """Checks addresses that registries name. `trusted` are hosts, with or without a port, that the operator allows."""

    def __init__(self, trusted: Iterable[str], insecure: Iterable[Domain]) -> None:
        self._trusted = frozenset(host.lower() for host in trusted)
        self._insecure = frozenset(insecure)

    async def check_realm(self, realm: URL, registry: Domain, *, plain: bool, login: bool) -> None:
        """Raise Failed unless a token may be requested there; with `plain` the registry itself may be without TLS."""
        host, own = realm.host or "", host_of(registry)
        if self._is_named(realm):
            return
        same = host.lower() == own.lower()
        if realm.scheme != "https" and not (same and plain):
            raise Failed(
                Code.DENIED,
                f"{registry} asks for the login at {_display(realm)}, without TLS: configure https there, or "
                f"name {authority_of(realm)} in GATEWAY_INSECURE_REGISTRIES if that is intended",
            )
        if same:
            return  # also at another port: private registries often have their token service there
        within = await self._check_private(realm, registry)
        # Names in a private network that both are in are given by whoever runs it.
        if login and not same_owner(host, own) and not within:
            raise Failed(
                Code.DENIED,
                f"{registry} asks for the login at {_display(realm)}, which is not known to be its own: the login was "
                f"not sent; name {host} in GATEWAY_TOKEN_HOSTS if that is intended",
            )

    async def check_redirect(self, address: URL, registry: Domain) -> None:
        """Raise Failed where a registry redirects to an address that it may not name."""
        same = (address.host or "").lower() == host_of(registry).lower()
        if not same and not self._is_named(address):
            await self._check_private(address, registry)

    def _is_named(self, address: URL) -> bool:
        authority, host = authority_of(address), address.host_subcomponent or ""
        with_port = f"{host}:{address.port}"
        return not (
            self._trusted.isdisjoint({address.host or "", host, with_port})
            and self._insecure.isdisjoint({authority, Domain(with_port)})
        )

    async def _check_private(self, address: URL, registry: Domain) -> bool:
        """Tell whether the address is private.

        Raises Failed where the registry is not in that network.
        """
        there = await _resolve(address.host or "", address.port)
        if all(one.is_global for one in there):
            return False
        here = await _resolve(host_of(registry), None)
        for one in there - here:
            if not one.is_global and not any(_may_name(one, other) for other in here):
                raise Failed(
                    Code.DENIED,
                    f"{registry} names {_display(address)}, an address of a private network that it is not in",
                )
        return not any(one.is_global for one in here)


def authority_of(address: URL) -> Domain:
    """Return host and port as a registry of that address is named, without the default port."""
    host = address.host_subcomponent or ""
    return Domain(host if address.is_default_port() else f"{host}:{address.port}")


def host_of(registry: Domain) -> str:
    """Return the host that serves the registry's API."""
    return HUB_HOST if registry == DOCKER_HUB else URL(f"//{registry}").host or ""


def _may_name(one: Address, other: Address) -> bool:
    """Tell whether a registry at `other` may name `one`: no other host's loopback and link-local addresses."""
    if one.is_loopback or one.is_link_local or one.is_unspecified or one.is_multicast:
        return one.is_loopback and other.is_loopback
    return not other.is_global


async def _resolve(host: str, port: int | None) -> frozenset[Address]:
    """Return the addresses of a name; raises OSError."""
    if (literal := _parse_address(host)) is not None:
        return frozenset({literal})
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return frozenset(_unmap(ip_address(str(one[4][0]).partition("%")[0])) for one in found)


def _parse_address(host: str) -> Address | None:
    try:
        return _unmap(ip_address(host.strip("[]")))
    except ValueError:
        return None


def _unmap(address: Address) -> Address:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _display(address: URL) -> str:
    return f"{address.scheme}://{authority_of(address)}"[:300]
