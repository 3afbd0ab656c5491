"""The seam between the world's registries and the gateway. It performs no I/O of its own.

A source is data and two small functions: `verify` raises unless the request proves itself, `parse` turns
its bytes into a Notification. Method, size, counting, storing and answering happen once, in `web/`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gateway.events import Notification
from gateway.reference import Domain


@dataclass(frozen=True, slots=True)
class Request:
    """A notification as it arrived: `headers` by lower-case name, `body` as raw bytes."""

    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Trust:
    """What an endpoint knows of its sender."""

    secret: str
    #: the registry's public host, where the sender names another or none
    host: Domain | None = None
    #: names by which the sender may call that host, as in `registry:5000`
    aliases: frozenset[str] = frozenset()
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Source:
    """One kind of registry.

    `header` is what the sender must put the secret or signature in (None: the unguessable path is all),
    `header_value` how, with `{secret}` in it. With `never_refuse` a request that has proven itself is
    answered 2xx even when it cannot be parsed: its sender would repeat it for ever and block on it.
    """

    name: str
    header: str | None
    header_value: str | None
    #: raises Unauthenticated
    verify: Callable[[Request, Trust], None]
    #: raises InvalidInput
    parse: Callable[[Request, Trust], Notification]
    never_refuse: bool = False
