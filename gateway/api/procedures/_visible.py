"""Filter lists by what a restricted key may see."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

from gateway.model.api_keys import Caller
from gateway.store import resource_owners
from gateway.store.database import Connection


class OfApplication(Protocol):
    """A row that belongs to an application, or is one."""

    @property
    def application_id(self) -> str: ...


_T = TypeVar("_T", bound=OfApplication)


async def visible_to(connection: Connection, caller: Caller, rows: Iterable[_T]) -> list[_T]:
    """Return the rows of applications that the caller's key is for."""
    if caller.grants is None:
        return list(rows)
    covered = await resource_owners.select_covered(connection, caller.grants)
    return [one for one in rows if one.application_id in covered]
