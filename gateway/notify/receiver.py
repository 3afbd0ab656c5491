"""What a receiver is: it gets one event at a time, and says whether that worked."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from gateway.model.alerts import Alert, Event

_SENDING = "sending"  # of the progress: the request that an attempt sends, and the number of the attempt
_ANY = "*"  # it is not known which request


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

    @property
    def refused(self) -> bool:
        """Whether the receiver answered that it did nothing."""
        status = self.status or 0
        return HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _UNCLEAR


_UNCLEAR = {HTTPStatus.REQUEST_TIMEOUT}


@dataclass(slots=True)
class Delivery:
    """One event on its way to one receiver.

    `progress` is what the receiver has taken of it so far; it is stored before each request and with each attempt.
    `attempt` counts from 1.
    """

    alert: Alert
    event: Event
    progress: dict[str, Any] = field(default_factory=dict)
    attempt: int = 1
    #: where people see the deployment, if the gateway knows its own address
    url: str | None = None
    #: what the receiver has taken of an earlier event of the same deployment
    earlier: Mapping[str, Any] = field(default_factory=dict)
    #: looks up the labels of the deployment's image that say where it comes from; raises Undelivered
    find_labels: Callable[[], Awaitable[Mapping[str, str]]] | None = None
    #: stores the progress; raises LeaseLost once another gateway delivers it
    store: Callable[[Mapping[str, Any]], Awaitable[None]] | None = None
    #: the request of an earlier attempt whose answer is not known; "" if there is none
    _lost: str = field(init=False, default="")

    def __post_init__(self) -> None:
        if self.attempt > 1 or self.progress:
            last = self.progress.get(_SENDING) or {}
            # An attempt that stored nothing was killed, or was that of an older gateway.
            self._lost = str(last.get("request")) if last.get("attempt") == self.attempt - 1 else _ANY
        self._note(self._lost)

    def may_have_sent(self, request: str) -> bool:
        """Tell whether an earlier attempt sent this request, and got no answer that says what became of it."""
        return self._lost in {request, _ANY}

    @asynccontextmanager
    async def sending(self, request: str) -> AsyncIterator[None]:
        """Store that the request is sent, before it is. An answer that refuses it says that nothing was done."""
        self._note(request)
        if self.store is not None:
            await self.store(self.progress)
        try:
            yield
        except Undelivered as error:
            if error.refused:
                self._note("")
            raise
        self._note("")

    def _note(self, request: str) -> None:
        self.progress[_SENDING] = {"attempt": self.attempt, "request": _ANY if self._lost == _ANY else request}


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
