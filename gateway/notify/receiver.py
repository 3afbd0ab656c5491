"""What a receiver is: it gets one event at a time, and says whether that worked."""

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
        waits: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        self.down = down
        self.final = final
        #: the receiver wants nothing more at all
        self.gone = gone
        #: another part is not ready, which is no fault of the receiver
        self.waits = waits


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
    #: what the receiver has taken of the first event of the same deployment
    earlier: Mapping[str, Any] = field(default_factory=dict)
    #: looks up the labels of the deployment's image that say where it comes from; raises Undelivered
    find_labels: Callable[[], Awaitable[Mapping[str, str]]] | None = None


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
