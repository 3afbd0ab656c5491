"""Which addresses the gateway may send to on behalf of somebody. It performs no I/O.

public      anybody may have it sent there
private     a private network, this machine: only who may also set servers
forbidden   link-local addresses, and those at which clouds give out the credentials of their machines
"""

from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

# Where clouds give out credentials at addresses that are not link-local: Azure, Alibaba, AWS by IPv6, Oracle.
_CREDENTIALS = frozenset(map(ip_address, ("168.63.129.16", "100.100.100.200", "fd00:ec2::254", "192.0.0.192")))
# Prefixes that carry an IPv4 address in their last 32 bits: https://www.rfc-editor.org/rfc/rfc6052, rfc8215
_TRANSLATED = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"), IPv6Network("::/96"))


class Reach(StrEnum):
    """How far away an address is."""

    PUBLIC = "public"
    PRIVATE = "private"
    FORBIDDEN = "forbidden"


def reach_of(text: str) -> Reach:
    """Tell what kind of address this is; raises ValueError where it is none.

    >>> [str(reach_of(one)) for one in ("93.184.215.14", "10.0.0.1", "169.254.169.254", "::ffff:169.254.169.254")]
    ['public', 'private', 'forbidden', 'forbidden']
    """
    found = [_reach(one) for one in _all_of(ip_address(text.partition("%")[0]))]
    return max(found, key=list(Reach).index)


def is_loopback(text: str) -> bool:
    """Tell whether it is an address of this machine, or the name that always is."""
    try:
        return text.lower() == "localhost" or ip_address(text).is_loopback
    except ValueError:
        return False


def _all_of(address: Address) -> list[Address]:
    """Return the address, and those that it carries."""
    if isinstance(address, IPv4Address):
        return [address]
    carried: list[Address | None] = [address.ipv4_mapped, address.sixtofour]
    carried += address.teredo or ()
    if address not in {IPv6Address("::"), IPv6Address("::1")} and any(address in one for one in _TRANSLATED):
        carried.append(IPv4Address(int(address) & 0xFFFF_FFFF))
    inner = [one for one in carried if one is not None]
    return inner if address.ipv4_mapped or address.sixtofour else [address, *inner]


def _reach(address: Address) -> Reach:
    unusable = address.is_link_local or address.is_multicast or address.is_unspecified
    if unusable or address in _CREDENTIALS:
        return Reach.FORBIDDEN
    site_local = isinstance(address, IPv6Address) and address.is_site_local
    return Reach.PUBLIC if address.is_global and not site_local else Reach.PRIVATE
