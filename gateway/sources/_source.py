"""The interface between a registry's webhook format and the gateway.

A `Source` is data and a few small functions: `verify` raises unless the request proves that its sender knows the secret
or holds the key, `parse` returns the push events in the body. The functions perform no I/O. `gateway.api.ingress` does
the rest once for all sources: it limits methods and sizes, fetches keys, stores deliveries, responds and counts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from gateway.model.errors import InvalidInput
from gateway.model.events import Notification
from gateway.model.reference import Domain


@dataclass(slots=True)
class Request:
    """A request as received: `headers` by lower-case name, `body` as raw bytes."""

    headers: Mapping[str, str]
    body: bytes
    method: str = "POST"
    query: Mapping[str, str] = field(default_factory=dict)
    #: when it arrived, by the gateway's clock; the default is far from any signed time
    at: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    #: the public keys that the gateway fetched, by the addresses that `Source.keys` returned
    keys: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trust:
    """What an endpoint's settings say about its sender."""

    secret: str
    #: the registry's public host, for senders that name another host or none
    host: Domain | None = None
    #: other names that the sender may use for that host, as in `registry:5000`
    aliases: frozenset[str] = frozenset()
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Handshake:
    """The answer to a sender that asks whether the endpoint wants its deliveries.

    `visit` is an https address of the registry. The gateway requests it before it answers, and it must answer 2xx.
    """

    status: int = 200
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    visit: str | None = None


def _no_keys(_request: Request, _trust: Trust) -> Sequence[str]:
    return ()


def always_signed(_request: Request, _trust: Trust) -> bool:
    """Return True: the source's only proof is a signature of the body."""
    return True


def _unsigned(_request: Request, _trust: Trust) -> bool:
    return False


def _no_check(_settings: Mapping[str, str]) -> None:
    pass


def _no_origin(_request: Request, _trust: Trust) -> Mapping[str, str] | None:
    return None


def _no_handshake(_request: Request, _trust: Trust) -> Handshake | None:
    return None


@dataclass(frozen=True, slots=True)
class Source:
    """One kind of registry: how it proves its deliveries, what they say, and how it repeats them.

    `header` is the header in which the sender puts the secret or the signature, None where the unguessable path is the
    only proof. `header_value` is its value, with `{secret}` for the secret, None for a signature.
    """

    name: str
    title: str  # as people call the registry
    header: str | None
    header_value: str | None
    #: checks the proof; raises Unauthenticated
    verify: Callable[[Request, Trust], None]
    #: returns the push events of a request that has proven itself; raises InvalidInput
    parse: Callable[[Request, Trust], Notification]
    #: whether the proof was a signature of the body without a time, which anybody who has seen it can send again;
    #: called after `verify`
    signed: Callable[[Request, Trust], bool] = _unsigned
    #: returns the https addresses of the public keys that `verify` needs: addresses of the registry itself, for all
    #: others it raises Unauthenticated
    keys: Callable[[Request, Trust], Sequence[str]] = _no_keys
    #: returns the answer to a handshake; called after `verify`, and for OPTIONS instead of `verify` and `parse`
    handshake: Callable[[Request, Trust], Handshake | None] = _no_handshake
    #: returns from which commit the sender says that it built the images, in the form of their labels, if it does;
    #: called when that is wanted, for a body that was parsed before
    origin: Callable[[Request, Trust], Mapping[str, str] | None] = _no_origin
    #: the settings that `--set` takes, each with one sentence on what it does
    settings: Mapping[str, str] = field(default_factory=dict)
    #: returns the header for these settings, where they choose it
    chosen_header: Callable[[Mapping[str, str]], str | None] | None = None
    #: validates the settings; raises InvalidInput
    check: Callable[[Mapping[str, str]], None] = _no_check
    #: answers 2xx to a request that has proven itself even when it cannot be parsed: this sender would repeat it
    #: forever, hold back all later deliveries, or disable the webhook
    always_accept: bool = False
    #: the status that makes this sender repeat a delivery which the gateway cannot store now
    unavailable_status: int = 503
    #: whether the sender honours Retry-After; then it is answered 429 or 503 with that header
    honours_retry_after: bool = False
    #: requests with this header are not answered with Retry-After: their sender takes any status below 500 as delivered
    no_retry_header: str | None = None
    #: seconds within which the gateway answers, whatever happens: fewer than the sender waits
    response_deadline: float = 4.0

    def header_with(self, settings: Mapping[str, str]) -> str | None:
        """Return the header in which the sender puts the secret or the signature."""
        return self.header if self.chosen_header is None else self.chosen_header(settings)

    def check_settings(self, settings: Mapping[str, str]) -> None:
        """Raise InvalidInput for an unknown setting or an invalid value."""
        for name in settings:
            if not self.settings:
                raise InvalidInput(f"{self.name} has no settings", field="settings")
            if name not in self.settings:
                known = ", ".join(sorted(self.settings))
                raise InvalidInput(f"{self.name} has no setting {name!r}; it has: {known}", field="settings")
        self.check(settings)
