"""Webhook endpoints: their secrets, and which senders and repositories they accept. It performs no I/O."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from gateway.model.errors import InvalidInput
from gateway.model.events import Ignored, Notification, PushEvent
from gateway.model.reference import Domain

Network: TypeAlias = IPv4Network | IPv6Network
Address: TypeAlias = IPv4Address | IPv6Address

#: the source of requests to a deploy token
DEPLOY_SOURCE = "deploy"

_MAX_GLOB_LENGTH = 512


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A webhook of a registry, or the deploy token of an application."""

    endpoint_id: str
    source: str
    name: str
    secret: str = field(repr=False)
    #: still valid until `former_until`
    former_secret: str | None = field(repr=False)
    former_until: datetime | None
    host: Domain | None
    aliases: frozenset[str]
    settings: Mapping[str, str]
    #: globs of the repositories it accepts; empty: any
    repositories: tuple[str, ...]
    #: networks it accepts requests from; empty: any
    networks: tuple[Network, ...]
    #: requests a minute
    rate: int | None
    enabled: bool
    created_at: datetime
    #: the application of a deploy token; None for a webhook
    application_id: str | None = None
    #: of its row: another one after each change
    version: str = ""

    @property
    def secrets(self) -> tuple[str, ...]:
        return (self.secret,) if self.former_secret is None else (self.secret, self.former_secret)

    def allows_address(self, sender: Address | None) -> bool:
        """Tell whether it accepts requests from this address."""
        return not self.networks or (sender is not None and any(sender in network for network in self.networks))

    def filter_permitted(self, notification: Notification) -> Notification:
        """Return the notification with all pushes ignored that the endpoint may not report."""
        if not self.enabled:
            return self._ignore_events(notification, notification.events, "this webhook is disabled")
        if not self.repositories:
            return notification
        forbidden = [event for event in notification.events if not self._may_report(event)]
        return self._ignore_events(notification, forbidden, "this webhook may not report pushes to that repository")

    def _may_report(self, event: PushEvent) -> bool:
        return any(fnmatchcase(str(event.repository), glob) for glob in self.repositories)

    @staticmethod
    def _ignore_events(notification: Notification, left_out: Iterable[PushEvent], reason: str) -> Notification:
        gone = {event: Ignored(str(event.reference), reason) for event in left_out}
        return replace(
            notification,
            events=tuple(event for event in notification.events if event not in gone),
            ignored=(*notification.ignored, *gone.values()),
        )


def parse_network(text: str) -> Network:
    """Parse `192.0.2.0/24` or one address; raises InvalidInput."""
    try:
        return ip_network(text.strip())
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not a network, for example 192.0.2.0/24: {error}", field="networks") from error


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    return tuple(parse_network(text) for text in texts if text.strip())


def parse_repository_glob(text: str) -> str:
    """Parse a full repository name that may contain `*`, for example `ghcr.io/acme/*`. Raises InvalidInput."""
    if len(text) > _MAX_GLOB_LENGTH or "/" not in text or text != text.lower():
        raise InvalidInput(
            f"{text[:80]!r} is not the full name of a repository, for example ghcr.io/acme/web or ghcr.io/acme/*",
            field="repositories",
        )
    return text


def sender_address(peer: str | None, forwarded_for: str, trusted: Iterable[Network]) -> Address | None:
    """Return the address of the sender: the nearest one that is not a trusted proxy; None if it is unknown.

    Only entries added by a trusted proxy can be believed, so the header is read backwards, starting at the peer.
    """
    known = tuple(trusted)
    address: Address | None = None
    for hop in (peer or "", *reversed(forwarded_for.split(","))):
        if hop.strip() == "":
            break
        try:
            address = _unmapped(ip_address(hop.strip()))
        except ValueError:
            return None
        if not any(address in network for network in known):
            break
    return address


def _unmapped(address: Address) -> Address:
    """Return an IPv4-mapped IPv6 address as IPv4, and any other IPv6 address without its zone."""
    return address.ipv4_mapped or IPv6Address(int(address)) if isinstance(address, IPv6Address) else address
