"""What every way to a gateway offers."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.model.errors import InvalidInput, NotFound

_NEXT = "x-next-cursor"


class UnknownProcedure(NotFound):
    """The gateway has no procedure of this name: it is older than the client."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a procedure returned, as JSON; None if it returns nothing. The names of headers are in lower case."""

    value: Any
    headers: Mapping[str, str] = field(default_factory=dict)


def invalid_input(message: str, issues: Sequence[Any]) -> InvalidInput:
    """Return the error of an input with these issues, in zod's form; without any, with the message."""
    found = [(".".join(map(str, one["path"])), str(one["message"])) for one in issues if _is_issue(one)]
    if len(found) == 1:
        field, message = found[0]
        return InvalidInput(message, field=field or None)
    return InvalidInput("\n".join(f"{field}: {text}" if field else text for field, text in found) or message)


def _is_issue(one: object) -> bool:
    return isinstance(one, dict) and isinstance(one.get("path"), list) and "message" in one


class Gateway(ABC):
    """A gateway whose procedures can be called. `place` says in words which one, for messages."""

    place: str
    #: its address, where it has one
    url: str | None = None
    #: the gateway's version, once it has answered; None before, and where it does not say
    version: str | None = None
    #: whether a gateway runs at the other end, and not this process alone
    runs: bool = True
    #: whether a user of the gateway's own host is calling, and no API key
    is_local: bool = False

    @abstractmethod
    async def answer(self, procedure: str, given: Mapping[str, Any] | None = None) -> Answer:
        """Call a procedure. Raises GatewayError."""

    async def call(self, procedure: str, given: Mapping[str, Any] | None = None) -> Any:
        """Call a procedure and return its value. Raises GatewayError."""
        return (await self.answer(procedure, given)).value

    async def page(self, procedure: str, given: Mapping[str, Any] | None = None) -> tuple[list[Any], str | None]:
        """Return a page of a list, and the cursor of the next page. Raises GatewayError."""
        answered = await self.answer(procedure, given)
        return answered.value, answered.headers.get(_NEXT)

    async def find(self, kind: str, word: str) -> str:
        """Return the id of what has this id, name, or prefix of an id. Raises NotFound, or Conflict if several do.

        `kind` is the noun of the API: application, deployment, webhook, key, and so on.
        """
        found = await self.call("lookup.one", {"kind": kind, "word": word})
        return str(found["id"])

    async def names(self, ids: Collection[str]) -> dict[str, str]:
        """Return the names of applications, by id: of those that exist."""
        wanted = sorted(set(ids))
        if not wanted:
            return {}
        found: dict[str, str] = await self.call("lookup.names", {"applications": ",".join(wanted)})
        return found
