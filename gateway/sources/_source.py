"""The seam between the world's registries and the gateway. It performs no I/O of its own.

A source is data and a few small functions: `verify` raises unless the request proves itself, `parse` turns
its bytes into a Notification. Method, size, fetching keys, counting, storing and answering happen once, in `web/`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from gateway.model.errors import InvalidInput
from gateway.model.events import Notification
from gateway.model.reference import Domain


@dataclass(frozen=True, slots=True)
class Request:
    """A notification as it arrived: `headers` by lower-case name, `body` as raw bytes."""

    headers: Mapping[str, str]
    body: bytes
    method: str = "POST"
    query: Mapping[str, str] = field(default_factory=dict)
    #: when it arrived, by our clock; where nobody says, no signed time is near it
    at: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    #: the public keys fetched for it, by the addresses that `Source.keys` named
    keys: Mapping[str, bytes] = field(default_factory=dict)


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
class Handshake:
    """What answers a sender that asks whether this endpoint wants to be told.

    `visit` is an https address of the registry's own that is requested once, and must answer 2xx, before this
    is answered.
    """

    status: int = 200
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    visit: str | None = None


def _no_keys(_request: Request, _trust: Trust) -> Sequence[str]:
    return ()


def always(_request: Request, _trust: Trust) -> bool:
    """Say that the body is signed, of a source that knows no other proof."""
    return True


def _unsigned(_request: Request, _trust: Trust) -> bool:
    return False


def _no_check(_settings: Mapping[str, str]) -> None:
    pass


def _no_handshake(_request: Request, _trust: Trust) -> Handshake | None:
    return None


@dataclass(frozen=True, slots=True)
class Source:
    """One kind of registry.

    `header` is what the sender must put the secret or signature in (None: the unguessable path is all),
    `header_value` how, with `{secret}` in it. With `always_accept` a request that has proven itself is
    answered 2xx even when it cannot be parsed: its sender would repeat it for ever, block on it, or give up on us.
    """

    name: str
    header: str | None
    header_value: str | None
    #: raises Unauthenticated
    verify: Callable[[Request, Trust], None]
    #: raises InvalidInput
    parse: Callable[[Request, Trust], Notification]
    #: asked once `verify` has passed: whether the body's signature was the proof, and has no time in it
    signed: Callable[[Request, Trust], bool] = _unsigned
    #: the https addresses of the public keys `verify` needs, each proven here to be the registry's own host;
    #: raises Unauthenticated
    keys: Callable[[Request, Trust], Sequence[str]] = _no_keys
    #: asked once `verify` has passed, and for OPTIONS instead of `verify` and `parse`: the path is all its proof
    handshake: Callable[[Request, Trust], Handshake | None] = _no_handshake
    #: what `--set` takes, each with one sentence on what it does
    settings: Mapping[str, str] = field(default_factory=dict)
    #: which header it is with these settings, where they choose
    chosen_header: Callable[[Mapping[str, str]], str | None] | None = None
    #: raises InvalidInput for a value of a setting that can mean nothing
    check: Callable[[Mapping[str, str]], None] = _no_check
    always_accept: bool = False
    #: answered while nothing can be stored: what makes this sender try again
    unavailable_status: int = 503
    honours_retry_after: bool = False
    #: but for requests with this header: their sender takes whatever is below 500 for delivered
    no_retry_header: str | None = None
    #: seconds within which it is answered, whatever happens: fewer than it waits
    response_deadline: float = 4.0

    def header_with(self, settings: Mapping[str, str]) -> str | None:
        """Return what the sender must put the secret or signature in."""
        return self.header if self.chosen_header is None else self.chosen_header(settings)

    def check_settings(self, settings: Mapping[str, str]) -> None:
        """Raise InvalidInput for a setting this source does not have, or one that means nothing."""
        known = ", ".join(sorted(self.settings)) or "none"
        for name in settings:
            if name not in self.settings:
                raise InvalidInput(f"{self.name} has no setting {name!r}; it has: {known}", field="settings")
        self.check(settings)
