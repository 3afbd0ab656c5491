"""What a receiver is: it is told of one event at a time, and says how that went."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.model.alerts import Alert, Event


class Undelivered(Exception):
    """The receiver did not take the event. Its text may be shown: no secret is in it.

    `retry_after` is in seconds, if the receiver named a time. `down` says that others would not get through either.
    `final` says that it will never be taken.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        down: bool = False,
        final: bool = False,
        gone: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.down = down
        self.final = final
        #: the receiver wants nothing more at all
        self.gone = gone


@dataclass(frozen=True, slots=True)
class Origin:
    """The commit from which an image was built: `source` is the address of its repository."""

    source: str
    revision: str


@dataclass(slots=True)
class Delivery:
    """One event on its way to one receiver.

    `progress` is what the receiver has taken of it so far; it is stored with each attempt. `repeated` says that an
    earlier attempt may have got through.
    """

    alert: Alert
    event: Event
    progress: dict[str, Any] = field(default_factory=dict)
    repeated: bool = False
    #: where people see the deployment, if the gateway knows its own address
    url: str | None = None
    #: looks up where the image comes from
    find_origin: Callable[[], Awaitable[Origin | None]] | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """How it was taken: with which status, if there is one, and in which words if there is something to say."""

    status: int | None = None
    note: str = ""


Deliver = Callable[[Delivery], Awaitable[Receipt]]


def secret_of(address: Mapping[str, Any], name: str) -> str:
    """Return a part of the address; raises Undelivered without it."""
    found = address.get(name)
    if not isinstance(found, str) or not found:
        raise Undelivered(f"its {name} is not set: update the alert", final=True)
    return found
