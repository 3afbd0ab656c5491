"""What a list shows of what there is."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

from gateway.model.api_keys import Caller
from gateway.store import resource_owners
from gateway.store.database import Connection


class OfApplication(Protocol):
    """Belongs to an application, or is one."""

    @property
    def application_id(self) -> str: ...


_T = TypeVar("_T", bound=OfApplication)


async def visible_to(connection: Connection, caller: Caller, found: Iterable[_T]) -> list[_T]:
    """Return what of it the caller is for."""
    if caller.grants is None:
        return list(found)
    covered = await resource_owners.select_covered(connection, caller.grants)
    return [one for one in found if one.application_id in covered]
