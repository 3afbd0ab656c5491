"""What other programs of the contract have and this one does not: none of it, told as they would."""

from typing import Any

from gateway.admin.context import Context
from gateway.admin.inputs import Id, Input
from gateway.api.rpc.procedure import Answer, Opens, Procedure


class OfService(Input):
    id: Id
    schedule_type: Id


async def none(_context: Context, _given: Input) -> Answer:
    """Return none: there are none of these here."""
    return Answer([])


PROCEDURES = [
    Procedure("gitProvider.getAll", "query", Input, none, gives=list[Any], opens=Opens.TO_ALL),
    Procedure("notification.all", "query", Input, none, gives=list[Any], opens=Opens.TO_ALL),
    Procedure("destination.all", "query", Input, none, gives=list[Any], opens=Opens.TO_ALL),
    Procedure("schedule.list", "query", OfService, none, gives=list[Any]),
    Procedure("sshKey.all", "query", Input, none, gives=list[Any], opens=Opens.TO_ALL),
    Procedure("certificates.all", "query", Input, none, gives=list[Any], opens=Opens.TO_ALL),
]
