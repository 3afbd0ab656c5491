"""Why a deployment waits, failed or did nothing, with the names of the applications that the caller may see."""

import re
from collections.abc import Iterable, Mapping
from typing import Self

from gateway.api.procedures._response import Response
from gateway.api.procedures._visible import visible_to
from gateway.model.api_keys import Caller
from gateway.model.errors import Code, Reason
from gateway.store.application_summaries import select_named
from gateway.store.database import Connection

#: reasons that name another application, by what an engine knows of it: its id
_OF_ANOTHER = frozenset({Code.PORT_TAKEN, Code.NAME_TAKEN})
_BY_ID = re.compile(r"(?<=\bthe application )[\w-]+")


class ReasonRow(Response):
    """Why a deployment waits, failed or did nothing, and what to do about it."""

    code: Code
    message: str
    remedy: str

    @classmethod
    def from_reason(cls, reason: Reason, names: Mapping[str, str]) -> Self:
        """Return the row; `names` has the names of applications by their ids."""
        message = reason.message
        if reason.code in _OF_ANOTHER:
            message = _BY_ID.sub(lambda found: names.get(found[0], found[0]), message)
        return cls.make(reason, message=message)


async def select_names(connection: Connection, caller: Caller, reasons: Iterable[Reason | None]) -> dict[str, str]:
    """Return the names of the applications that these reasons name by id, without those that the caller may not see."""
    of_another = [one.message for one in reasons if one is not None and one.code in _OF_ANOTHER]
    ids = {application_id for message in of_another for application_id in _BY_ID.findall(message)}
    if not ids:
        return {}
    found = await visible_to(connection, caller, await select_named(connection, sorted(ids)))
    return {one.application_id: one.name for one in found}
